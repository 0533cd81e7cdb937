"""What this machine has for runs, what will not work, and what to do about it."""
