"""A stage: a directory in the store, named by all that its content depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoalign.core.store import digest


@dataclass(frozen=True)
class Stage:
    """A stage by name: its recipe says all that its output depends on; its key is the recipe's digest."""

    name: str
    recipe: dict[str, Any]
    make: Callable[[Path], None]

    @property
    def key(self) -> str:
        """Same key, same directory."""
        return digest({"stage": self.name, **self.recipe})
