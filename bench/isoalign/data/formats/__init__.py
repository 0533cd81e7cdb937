"""Formats of feedback files, one module each.

A module of this folder is a format if it has ``records(row)``, the records of one row (types.py), and ``COLUMNS``, the sets of
columns that identify it. It may have ``matches(row)``, if columns alone don't distinguish it from another format, and
``compare_scores(scores)``, if its comparisons need several rows.
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
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.rows import RATERS, SOURCES, Fault, Row, quoted
from isoalign.data.formats.types import Comparison, Data, Demonstration, Record, Remark, Score, Turn, Turns, UnpairedLabel

__all__ = [
    "Comparison",
    "Data",
    "Demonstration",
    "FeedbackFile",
    "Remark",
    "RowRecords",
    "Score",
    "Turn",
    "Turns",
    "UnpairedLabel",
    "format_names",
    "open_file",
    "read_file",
]  # fmt: skip


@cache
def _formats() -> dict[str, ModuleType]:
    modules = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    return {name: module for name, module in sorted(modules.items()) if hasattr(module, "records")}


def format_names() -> list[str]:
    """Names of the formats."""
    return list(_formats())


@dataclass(frozen=True, slots=True)
class RowRecords:
    """The records of one row. ``number``: of the row, 0 for records that need several rows; ``key``: `Row.key`."""

    number: int
    key: int
    records: list[Record]


@dataclass(frozen=True)
class FeedbackFile:
    """An open file. ``unread``: columns of the first row that its format ignores; ``rows``: iterates over the file once."""

    name: str
    format: str
    unread: tuple[str, ...]
    rows: Iterator[RowRecords]


@dataclass
class _RejectedRows:
    """The rejected rows: why the first is rejected, and the numbers of the first five."""

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
        return f"{name}: {self.why}" + (f" ({self.count:,} rows are rejected: {rows})" if self.count > 1 else "")


def read_file(source: str | Path, format: str | None = None) -> Data:
    """Read all feedback in a file, a folder or ``hf:NAME[:CONFIG][:SPLIT]`` into memory.

    ``format``: one of `format_names`, or None to recognise it by its columns. Raises UserError naming file and row if a row is
    malformed, and if the file can't train anything: nothing is left without ties, or all labels are equal.
    """
    opened = open_file(source, format)
    records: list[Record] = []
    count = 0
    for row in opened.rows:
        count += row.number > 0
        records += row.records
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
    if problem := training_problem(answers, up, len(data.unpaired) - up, data.remarks):
        raise UserError(f"{opened.name}: {problem}")
    return data


def training_problem(answers: int, up: int, down: int, remarks: Mapping[str, int]) -> str:
    """Why these counts of pairs or demonstrations (``answers``) and of labels can't train anything; empty if they can."""
    if not answers + up + down:
        left_out = ", ".join(f"{what}: {count:,}" for what, count in remarks.items())
        return f"nothing is left to train on ({left_out or 'no annotator scored two answers to one prompt'})"
    if not answers and not (up and down):
        return f"all {up + down:,} labels are {'up' if up else 'down'}; training needs both"
    return ""


def open_file(source: str | Path, format: str | None = None) -> FeedbackFile:
    """Recognise the format, then iterate row by row, so that a large file need not fit in memory.

    A format with ``compare_scores`` keeps its scores and yields the comparisons at the end. Raises UserError as `read_file`
    does; malformed rows are reported after the last row.
    """
    if format is not None and format not in format_names():
        raise UserError(unknown("format", format, format_names()))
    name, rejected = str(source), _RejectedRows()
    rows = iterate_rows(name)
    for first in rows:
        if isinstance(first, Row):
            chosen = _check_format(name, first, format) if format else _recognise(name, first)
            known = {*chain(*_formats()[chosen].COLUMNS), *SOURCES, *RATERS}
            unread = tuple(column for column in first.values if column not in known)
            return FeedbackFile(name, chosen, unread, _records(name, _formats()[chosen], chain([first], rows), rejected))
        rejected.add(first)
    raise UserError(rejected.line(name) if rejected.count else f"{name} has no rows")


def _records(name: str, module: ModuleType, rows: Iterator[Row | Fault], rejected: _RejectedRows) -> Iterator[RowRecords]:
    scores: list[Record] = []
    for row in rows:
        if isinstance(row, Fault):
            rejected.add(row)
            continue
        try:
            records = list(module.records(row))
        except Fault as fault:
            rejected.add(fault)
        except RecursionError:
            rejected.add(row.fault("it is nested too deeply"))
        else:
            yield RowRecords(row.number, row.key, records)
            if hasattr(module, "compare_scores"):
                scores += records
    if rejected.count:
        raise UserError(rejected.line(name))
    if scores:
        try:
            for record in module.compare_scores(scores):
                yield RowRecords(0, 0, [record])
        except Fault as fault:
            raise UserError(f"{name}: {fault}") from None


def _recognise(name: str, row: Row) -> str:
    """The format that uses most of the columns; formats that check with ``matches`` take precedence."""
    fitting = [
        (hasattr(module, "matches"), len(columns), format)
        for format, module in _formats().items()
        for columns in module.COLUMNS
        if row.has(*columns) and (not hasattr(module, "matches") or module.matches(row))
    ]
    if fitting:
        return max(fitting)[2]
    nearest = max(format_names(), key=lambda format: max(_closeness(row, columns) for columns in _formats()[format].COLUMNS))
    if any(row.has(column) for columns in _formats()[nearest].COLUMNS for column in columns):
        raise UserError(f"{name}: row {row.number}: no format fits the columns; {_missing_columns(row, nearest)}")
    known = ", ".join(f"{format} ({', '.join(module.COLUMNS[0])})" for format, module in _formats().items())
    raise UserError(f"{name}: row {row.number}: no format has any of the columns ({_column_names(row)}); formats: {known}")


def _check_format(name: str, row: Row, format: str) -> str:
    if not any(row.has(*columns) for columns in _formats()[format].COLUMNS):
        raise UserError(f"{name}: row {row.number}: {_missing_columns(row, format)}")
    return format


def _closeness(row: Row, columns: tuple[str, ...]) -> tuple[int, int]:
    """Sort key: number of a format's columns that the row has, then minus the number of missing ones."""
    present = sum(row.has(column) for column in columns)
    return present, present - len(columns)


def _missing_columns(row: Row, format: str) -> str:
    columns = max(_formats()[format].COLUMNS, key=lambda columns: _closeness(row, columns))
    missing = ", ".join(column for column in columns if not row.has(column))
    needed = f"{format} needs {', '.join(columns)}; missing: {missing}"
    return f"{needed}; found: {_column_names(row)}; formats: {', '.join(format_names())}"


def _column_names(row: Row) -> str:
    names = [quoted(column) for column in row.values if row.has(column)]
    return f"{', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else "none"
