"""What several algorithms share. The files beside this folder are algorithms; these are not."""
