"""What a task will cost, before it is launched: the real session and the algorithms' own code, on models without weights."""
