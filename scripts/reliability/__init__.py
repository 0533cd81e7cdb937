"""Trials, with real processes, of what isoalign promises when things go wrong."""
