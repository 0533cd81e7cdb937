"""What one trial tried, and what went wrong in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Trial:
    """Counts by what was ``tried``, notes ``beside`` them, and the problems, a line each. With ``skipped``, the reason why
    nothing was tried here."""

    def __init__(self, tried: Mapping[str, int] | None = None, skipped: str = "") -> None:
        self.tried, self.beside, self.skipped = Counter[str](tried or {}), Counter[str](), skipped
        self.wrong: list[str] = []
