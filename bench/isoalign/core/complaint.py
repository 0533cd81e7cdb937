"""Lines for the user on stderr. Nothing heavy is imported here: a signal may come at an import."""

import sys
from collections.abc import Callable

from isoalign.core.redaction import redact_text

MOST = 2000  # characters of a line
_several: dict[str, Callable[[], bool]] = {}  # of several processes: whether this one says a line


def share(first: bool, claim: Callable[[], bool]) -> None:
    """This is one of several processes of a run: the ``first`` one alone speaks, and of the lines with which they end only the
    one that is said first, by whoever can ``claim`` it."""
    _several.update(say=lambda: first, complain=claim)


def one_line(text: str) -> str:
    """A text from anywhere (a word that was typed, a card, a server, an exception) as one line that no terminal takes for
    commands, without secrets."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * MOST])
    kept = redact_text(" ".join(shown.split()))
    return kept if len(kept) <= MOST and len(text) <= 4 * MOST else f"{kept[:MOST]}..."


def say(line: str) -> None:
    """Print one line to stderr."""
    if _may("say"):
        _print(line)


def _may(what: str) -> bool:
    try:
        return _several[what]() if what in _several else True
    except Exception:  # the others are gone
        return True


def _print(line: str) -> None:
    written = one_line(line).encode("utf-8", "replace").decode()
    print(f"isoalign: {written}", file=sys.stderr, flush=True)


def complain(line: str) -> None:
    """Print the line with which work ends to stderr, below any progress bar: failed work does not close its own."""
    end_bars = getattr(sys.modules.get("isoalign.core.progress"), "end", None)
    if end_bars:
        end_bars()
    if _may("complain"):
        _print(line)
