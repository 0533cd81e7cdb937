"""Submitting cards to the published boards: what is refused, and what a pull request holds."""
