"""What an algorithm must not see. The guard says when an algorithm's code runs; what hands out evaluation data asks here."""

from __future__ import annotations

from collections.abc import Callable

_deny: list[Callable[[str], None]] = []


def restrict(deny: Callable[[str], None] | None) -> None:
    """From now on ``deny(what)`` is called, and raises, where something forbidden is asked for; None lets everything pass."""
    _deny[:] = [deny] if deny else []


def forbidden(what: str) -> None:
    """To be called where evaluation data is handed out. Raises where an algorithm's own code asks for it."""
    for deny in _deny:
        deny(what)
