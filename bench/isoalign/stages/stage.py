"""A stage: a directory in the store, named by everything that its content depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoalign.core.store import digest


@dataclass(frozen=True)
class Stage:
    """A stage. ``recipe``: everything that its output depends on; ``make``: fills a work directory with the output, and may
    return keys in the recipe of stages that it did not read.

    ``together``: all processes of a run make it, and the first one alone writes; else the first one makes it by itself."""

    name: str
    recipe: dict[str, Any]
    make: Callable[[Path], Iterable[str] | None]
    together: bool = False

    @property
    def key(self) -> str:
        """Digest of name and recipe. Stages with the same key share a directory."""
        return digest({"stage": self.name, **self.recipe})
