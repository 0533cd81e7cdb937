"""Columns beside demonstrations that may say which of them are good, so that the bad ones are not imitated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from isoalign.core.errors import UserError
from isoalign.data.formats.types import UNREAD, Demonstration, Record, Remark

NAMES = ("score", "rating", "label", "desirable", "rank", "helpfulness")  # whatever they hold
_MORE_IS_BETTER = {"score", "scores", "helpfulness", "score_0", "score_1", "label"}  # of the columns of formats
_NEGATIONS = {"no", "non", "not", "without", "free", "less", "un", "anti", "inverse", "inverted", "negative", "negated", "neg"}
_LESS_IS_BETTER = {
    "rank", "ranking", "place", "position", "loss", "error", "errors", "mistakes", "toxic", "toxicity", "harm", "harmful",
    "harmfulness", "offensive", "unsafe", "perplexity", "ppl", "nll", "cost", "penalty", "distance", "wer", "risk", "worse",
}  # fmt: skip
_MOST, _FURTHEST = 11, 10.0  # different values of a scale, and its ends
_COUNTERS = re.compile(
    r"(^|[._])(id|idx|index|uuid|hash|turn|round|time|timestamp|date|day|year|token|word|char|character|length|len|size|seed|step"
    r"|draw|sample|epoch|version|fold|shard|temperature|top_p)s?($|[._])|[a-z]Id$"
)
_WORDS = {
    "true", "false", "yes", "no", "up", "down", "good", "bad", "better", "worse", "best", "worst", "poor", "fair",
    "okay", "excellent", "perfect", "terrible", "low", "medium", "high", "pass", "fail", "passed", "failed", "correct",
    "incorrect", "right", "wrong", "accepted", "rejected", "positive", "negative", "neutral", "like", "dislike",
}  # fmt: skip


def check_direction(columns: Mapping[str, str]) -> None:
    """Raise UserError where a column whose name says that less is better stands for one of which more is."""
    for new, old in columns.items():
        words = set(re.findall("[a-z]+", old.lower()))
        if new in _MORE_IS_BETTER and words & _LESS_IS_BETTER and not words & _NEGATIONS:
            raise UserError(
                f"columns={{{new}: {old}}}: of {new} more is better, and the name of {old!r} says that less is; write its "
                "values, with their sign turned if so, into a column of another name"
            )


@dataclass
class _Column:
    """What an unread column holds. ``varies``: whether it differs between answers to one prompt; ``counts``: whether it only
    numbers them, 0, 1, 2 or 1, 2, 3."""

    values: set[float | str] = field(default_factory=set)
    rows: int = 0
    again: int = 0
    varies: bool = False
    counts: bool = True
    last: dict[int, float | str] = field(default_factory=dict)

    def add(self, prompt: int, value: float | str) -> None:
        before = self.last.get(prompt)
        self.again += before is not None
        self.varies |= before is not None and before != value
        step = value in (0, 1) if before is None else isinstance(before, float) and value == before + 1
        self.counts &= step
        self.last[prompt] = value
        self.values.add(value)
        self.rows += 1

    @property
    def is_scale(self) -> bool:
        """A few whole numbers, or with one decimal, or words for good and bad."""
        return 1 < len(self.values) <= _MOST and all(isinstance(value, str) or _on_scale(value) for value in self.values)


@dataclass
class Grades:
    """The columns of numbers, truth values and words for good and bad that a format of demonstrations does not read.

    A scale of a few values that differs between answers to one prompt is a problem, unless it only numbers them. Where that
    can't be told, as each prompt has one answer or there are more values, it is a remark.
    """

    known: set[str]
    columns: dict[str, _Column | None] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], records: Iterable[Record]) -> None:
        """Look at the columns of a row, and one level into their objects."""
        prompt = hash(tuple(record.prompt for record in records if isinstance(record, Demonstration)))
        for name, value in _flat(values, self.known):
            column = self.columns.setdefault(name, None if _COUNTERS.search(name) else _Column())
            if column is None or value is None:
                continue
            if (grade := _grade(value)) is None:
                self.columns[name] = None  # it holds something else
            else:
                column.add(prompt, grade)

    @property
    def problem(self) -> str:
        """Why nothing may be trained on these demonstrations; empty if nothing speaks against it."""
        for name, column in self.columns.items():
            if column and column.is_scale and column.varies and not column.counts:
                shown = ", ".join(_shown(value) for value in sorted(column.values, key=lambda v: (isinstance(v, str), v)))
                return quality_problem(name, f" (it differs between answers to one prompt: {shown})", len(column.values) == 2)
        return ""

    def remarks(self) -> Iterator[Remark]:
        """A remark for each row whose column may say how good it is, where there is no problem."""
        for name, column in self.columns.items():
            if column and (column.varies or (column.is_scale and not column.again)) and len(column.values) < column.rows:
                yield from [Remark(f"{UNREAD} {name}, which may say how good an answer is")] * column.rows


def quality_problem(name: str, how: str = "", two: bool = False) -> str:
    """The line on a column that says which answers are good. ``two``: whether it holds two values."""
    said = f"columns={{score: {name}}} or columns={{label: {name}}}"
    said = f"columns={{label: {name}}} or columns={{score: {name}}}" if two else said
    return (
        f"column {name} beside demonstrations is not read, so bad answers would be imitated too{how}; say what it is with "
        f"{said}, which makes them feedback, remove it, or set format=demonstrations to ignore it"
    )


def _flat(values: Mapping[str, Any], known: set[str]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name in known:
            continue
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in value.items())
        else:
            yield name, value


def _grade(value: Any) -> float | str | None:
    """A number, or a word for good or bad; None for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (word := value.strip().lower()) in _WORDS:
        return word
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None


def _on_scale(value: float) -> bool:
    return abs(value) <= _FURTHEST and abs(10 * value - round(10 * value)) < 1e-9


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
