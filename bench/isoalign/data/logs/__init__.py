"""Logs of other evaluation tools, read for comparisons and for scoring: a tool a file, all behind the table in ``read.py``."""
