"""Errors for the user: one line on stderr."""

import sys


def complain(line: str) -> None:
    """Print one line to stderr, below any progress bar. Nothing is imported here: an interrupt may have come at an import."""
    end_bars = getattr(sys.modules.get("isoalign.core.progress"), "end", None)
    if end_bars:
        end_bars()
    print(f"isoalign: {line}", file=sys.stderr, flush=True)
