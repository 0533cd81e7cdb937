"""What an algorithm must not read. The guard sets the restriction; code that returns evaluation data checks it."""

from __future__ import annotations

from collections.abc import Callable

_deny: list[Callable[[str], None]] = []


def restrict(deny: Callable[[str], None] | None) -> None:
    """Call ``deny(what)``, which raises, whenever forbidden data is requested from now on; None lifts the restriction."""
    _deny[:] = [deny] if deny else []


def forbidden(what: str) -> None:
    """Called by code that returns evaluation data. Raises if an algorithm's own code requests it."""
    for deny in _deny:
        deny(what)


_exempt: set[int] = set()


def exempt(thread: int) -> None:
    """What a thread of the harness opens is not what an algorithm's code opens, though it does so at the same time."""
    _exempt.add(thread)


def is_exempt(thread: int) -> bool:
    """Whether it is such a thread."""
    return thread in _exempt
