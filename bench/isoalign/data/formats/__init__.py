"""Feedback from files, in whatever format: one file a format, found by looking.

A module of this folder is a format when it has ``records(row)``: what one row tells (types.py). It also
has ``COLUMNS``, the sets of columns that it can be known by. It may have ``looks(row)``, where columns alone don't tell
it from another format, and ``together(scores)``, where one row tells too little by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from types import ModuleType

from isoalign.core.errors import UserError, unknown
from isoalign.data.formats.files import rows
from isoalign.data.formats.rows import RATERS, SOURCES, Fault, Row, shown
from isoalign.data.formats.types import Comparison, Data, Demonstration, Record, Remark, Score, Turn, Turns, UnpairedLabel

__all__ = [
    "Comparison",
    "Data",
    "Demonstration",
    "Found",
    "Reading",
    "Remark",
    "Score",
    "Turn",
    "Turns",
    "UnpairedLabel",
    "formats",
    "read",
    "reading",
]  # fmt: skip


@cache
def _modules() -> dict[str, ModuleType]:
    found = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    return {name: module for name, module in sorted(found.items()) if hasattr(module, "records")}


def formats() -> list[str]:
    """Names of the formats."""
    return list(_modules())


@dataclass(frozen=True, slots=True)
class Found:
    """What one row told. ``row``: its number, 0 for what several tell together; ``key``: that of `Row.key`."""

    row: int
    key: int
    records: list[Record]


@dataclass(frozen=True)
class Reading:
    """A file on its way: ``unread``: columns of its first row that its format has no use for; ``found``: its rows, once."""

    name: str
    format: str
    unread: tuple[str, ...]
    found: Iterator[Found]


@dataclass
class _Refused:
    """The rows that are refused: why the first is, and the numbers of the first few."""

    why: str = ""
    rows: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, fault: Fault) -> None:
        self.why = self.why or str(fault)
        self.count += 1
        if self.count <= 5:
            self.rows.append(fault.row)

    def line(self, name: str) -> str:
        rows = f"{', '.join(map(str, self.rows))}{', ...' if self.count > len(self.rows) else ''}"
        return f"{name}: {self.why}" + (f" ({self.count:,} rows are refused: {rows})" if self.count > 1 else "")


def read(source: str | Path, format: str | None = None) -> Data:
    """The feedback in a file, a folder or ``hf:NAME[:CONFIG][:SPLIT]``, all in memory.

    ``format``: one of `formats`, or None to know it by its columns. Raises UserError that names file and row where a row is
    malformed, and where nothing could be learnt: nothing is left once ties are out, or all labels are alike.
    """
    opened = reading(source, format)
    records: list[Record] = []
    count = 0
    for found in opened.found:
        count += found.row > 0
        records += found.records
    data = Data(
        opened.format,
        count,
        tuple(record for record in records if isinstance(record, Comparison)),
        tuple(record for record in records if isinstance(record, UnpairedLabel)),
        tuple(record for record in records if isinstance(record, Demonstration)),
        Counter(record.what for record in records if isinstance(record, Remark)),
    )
    up = sum(label.desirable for label in data.unpaired)
    answers = len(data.comparisons) + len(data.demonstrations)
    if trouble := useless(answers, up, len(data.unpaired) - up, data.remarks):
        raise UserError(f"{opened.name}: {trouble}")
    return data


def useless(answers: int, up: int, down: int, remarks: Mapping[str, int]) -> str:
    """Why nothing can be learnt from so many pairs or demonstrations, and labels up and down; empty where something can."""
    if not answers + up + down:
        left_out = ", ".join(f"{what}: {count:,}" for what, count in remarks.items())
        return f"nothing is left to learn from ({left_out or 'no rater scored two answers to one prompt'})"
    if not answers and not (up and down):
        return f"all {up + down:,} labels are {'up' if up else 'down'}; training needs both"
    return ""


def reading(source: str | Path, format: str | None = None) -> Reading:
    """Begin to read: the format, then row by row, so that a large file need not fit in memory.

    A format with ``together`` needs its scores at once, and tells the comparisons at the end. Raises UserError as `read`
    does, for malformed rows after the last.
    """
    if format is not None and format not in formats():
        raise UserError(unknown("format", format, formats()))
    name, refused = str(source), _Refused()
    everything = rows(name)
    for first in everything:
        if isinstance(first, Row):
            chosen = _named(name, first, format) if format else _recognised(name, first)
            known = {*chain(*_modules()[chosen].COLUMNS), *SOURCES, *RATERS}
            unread = tuple(column for column in first.values if column not in known)
            return Reading(name, chosen, unread, _found(name, _modules()[chosen], chain([first], everything), refused))
        refused.add(first)
    raise UserError(refused.line(name) if refused.count else f"{name} holds no rows")


def _found(name: str, module: ModuleType, everything: Iterator[Row | Fault], refused: _Refused) -> Iterator[Found]:
    scores: list[Record] = []
    for row in everything:
        if isinstance(row, Fault):
            refused.add(row)
            continue
        try:
            found = Found(row.number, row.key, list(module.records(row)))
        except Fault as fault:
            refused.add(fault)
        except RecursionError:
            refused.add(row.fault("it is nested too deeply"))
        else:
            yield found
            if hasattr(module, "together"):
                scores += found.records
    if refused.count:
        raise UserError(refused.line(name))
    if scores:
        try:
            for record in module.together(scores):
                yield Found(0, 0, [record])
        except Fault as fault:
            raise UserError(f"{name}: {fault}") from None


def _recognised(name: str, row: Row) -> str:
    """The format that needs most of the columns that are there; one that looks right goes before."""
    fitting = [
        (hasattr(module, "looks"), len(columns), format)
        for format, module in _modules().items()
        for columns in module.COLUMNS
        if row.has(*columns) and (not hasattr(module, "looks") or module.looks(row))
    ]
    if fitting:
        return max(fitting)[2]
    nearest = max(formats(), key=lambda format: max(_closeness(row, columns) for columns in _modules()[format].COLUMNS))
    if any(row.has(column) for columns in _modules()[nearest].COLUMNS for column in columns):
        raise UserError(f"{name}: row {row.number}: no format fits its columns; {_lacking(row, nearest)}")
    known = ", ".join(f"{format} ({', '.join(module.COLUMNS[0])})" for format, module in _modules().items())
    raise UserError(f"{name}: row {row.number}: no format has any of its columns ({_columns(row)}); formats: {known}")


def _named(name: str, row: Row, format: str) -> str:
    if not any(row.has(*columns) for columns in _modules()[format].COLUMNS):
        raise UserError(f"{name}: row {row.number}: {_lacking(row, format)}")
    return format


def _closeness(row: Row, columns: tuple[str, ...]) -> tuple[int, int]:
    """How many of a format's columns a row has; of equals, the one that lacks least."""
    there = sum(row.has(column) for column in columns)
    return there, there - len(columns)


def _lacking(row: Row, format: str) -> str:
    columns = max(_modules()[format].COLUMNS, key=lambda columns: _closeness(row, columns))
    lacks = ", ".join(column for column in columns if not row.has(column))
    return f"{format} needs {', '.join(columns)}; missing: {lacks}; found: {_columns(row)}; formats: {', '.join(formats())}"


def _columns(row: Row) -> str:
    names = [shown(column) for column in row.values if row.has(column)]
    return f"{', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else "none"
