"""A log of another tool: prompts, answers and scores of one model on one task."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from isoalign.core.display import clean
from isoalign.core.errors import UserError


@dataclass(frozen=True)
class LogRow:
    """One prompt of a log, or one draw of it. ``number``: of the row in the file, from 1. ``key``: the tool's own id;
    ``identity``: what must be the same behind equal keys, None where the file does not say. ``scores``: metric to value, None
    where there is none. ``completions``: the answers, none where the tool scored answers that were given; ``turns``: of the
    conversation of which ``prompt`` is the last one."""

    number: int
    key: str
    draw: int
    prompt: str
    identity: str | None
    scores: dict[str, float | None]
    completions: tuple[str, ...] = ()
    turns: int = 1

    def without(self, metrics: Collection[str]) -> LogRow:
        """The row without some of its scores."""
        return replace(self, scores={name: score for name, score in self.scores.items() if name not in metrics})


@dataclass(frozen=True)
class Log:
    """The rows of a file. ``kind``: the tool; ``task`` and ``name`` of the model, empty where the file does not say;
    ``against``: whom the scores are against, and by which judge; ``skipped``: metrics that are not one number a row,
    each with the first row that has another value; ``conditions``: under which the answers were given, as the file says."""

    file: Path
    kind: str
    task: str
    name: str
    rows: tuple[LogRow, ...]
    against: str = ""
    skipped: Mapping[str, int] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[tuple[str, int], int] = {}
        for row in self.rows:
            if (before := seen.setdefault((row.key, row.draw), row.number)) != row.number:
                draw = f" draw {row.draw}" if row.draw else ""
                refuse(self.file, row.number, f"{row.key[:60]!r}{draw} is already in row {before}; keep one of them")

    @property
    def metrics(self) -> list[str]:
        """The metrics that any row has."""
        return sorted({name for row in self.rows for name in row.scores})

    def by_key(self) -> dict[str, list[LogRow]]:
        """Key to its rows, one for each draw."""
        found: dict[str, list[LogRow]] = {}
        for row in self.rows:
            found.setdefault(row.key, []).append(row)
        return found


def refuse(file: Path, number: int, why: str) -> NoReturn:
    """Raise UserError that names file and row."""
    raise UserError(f"{file}: row {number}: {clean(why)}")


def number_of(file: Path, row: int, name: str, value: Any) -> float | None:
    """A score as a number, true and false as 1 and 0. Raises UserError for NaN and infinities, and for what is no number."""
    if value is None or isinstance(value, bool):
        return None if value is None else float(value)
    if not isinstance(value, int | float):
        refuse(file, row, f"{name} must be a number or null, not {str(value)[:40]!r}")
    if not math.isfinite(value):
        refuse(file, row, f"{name} is {value}, which is no score; write null, which counts as missing, or score it again")
    return float(value)


def text_of(file: Path, row: int, name: str, holder: Mapping[str, Any]) -> str:
    """A field that must be a text. Raises UserError."""
    if not isinstance(value := holder.get(name), str):
        refuse(file, row, f"{name} must be a text" if name in holder else f"{name} is missing")
    return value


def mapping_of(file: Path, row: int, value: Any) -> dict[str, Any]:
    """A row that must be an object. Raises UserError."""
    if not isinstance(value, dict):
        refuse(file, row, f"a row is a JSON object, not {str(value)[:40]}")
    return value
