"""Formats of feedback files, one module each.

A module of this folder is a format if it has ``records(row)``, the records of one row (types.py), and ``COLUMNS``, the sets of
columns that identify it. It may have ``OPTIONAL``, other columns that it reads, ``matches(row)``, if columns alone don't
distinguish it from another format, and ``compare(records)``, if its comparisons need several rows.
"""

from __future__ import annotations

import difflib
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
from isoalign.data.formats.conversation import WHOLE
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.grades import NAMES, Grades, check_direction, quality_problem
from isoalign.data.formats.rows import FAULTY, RATERS, SKIPS, SOURCES, Fault, Row, quoted
from isoalign.data.formats.types import (
    SKIPPED,
    Comparison,
    Data,
    Demonstration,
    Record,
    Remark,
    Score,
    Turn,
    Turns,
    UnpairedLabel,
)

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
    """An open file. ``unread``: columns of the first row that its format ignores; ``rows``: iterates over the file once;
    ``grades``: what ignored columns hold, of the rows read so far."""

    name: str
    format: str
    unread: tuple[str, ...]
    rows: Iterator[RowRecords]
    grades: Grades | None = None

    @property
    def problem(self) -> str:
        """What ignored columns say against training, as far as the rows are read; empty if nothing."""
        if self.grades is None:
            return ""
        found = [column for column in self.unread if column.lower() in NAMES]
        return quality_problem(found[0]) if found else self.grades.problem

    @property
    def remarks(self) -> Iterator[Remark]:
        """Doubts about ignored columns, after the last row."""
        return self.grades.remarks() if self.grades and not self.problem else iter(())


@dataclass
class _RejectedRows:
    """The rejected rows: why the first is rejected, and the numbers of the first five. ``skip``: kind of rows that are left
    out instead."""

    skip: str = ""
    why: str = ""
    rows: list[int] = field(default_factory=list)
    count: int = 0

    def skipped(self, fault: Fault) -> Iterator[RowRecords]:
        """What stands for the row if it is skipped by choice; otherwise it is rejected."""
        if self.skip in (fault.kind, FAULTY):
            yield RowRecords(fault.row, hash((SKIPPED, fault.row)), [Remark(f"{SKIPPED} ({fault.kind})")])
        else:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Count a rejected row."""
        hint = f"; skip={fault.kind} leaves such rows out" if fault.kind != FAULTY else ""
        self.why = self.why or f"{fault}{hint}"
        self.count += 1
        if self.count <= 5:
            self.rows.append(fault.row)

    def line(self, name: str) -> str:
        rows = f"{', '.join(map(str, self.rows))}{', ...' if self.count > len(self.rows) else ''}"
        return f"{name}: {self.why}" + (f" ({self.count:,} rows are rejected: {rows})" if self.count > 1 else "")


def read_file(
    source: str | Path, format: str | None = None, *, columns: Mapping[str, str] | None = None, skip: str = ""
) -> Data:
    """Read all feedback in a file, a folder or ``hf:NAME[:CONFIG][@REVISION][#SPLIT]`` into memory.

    ``format``, ``columns``, ``skip``: as in `open_file`. Raises UserError naming file and row if a row is
    malformed, and if the file can't train anything: nothing is left without ties, or all labels are equal.
    """
    opened = open_file(source, format, columns=columns, skip=skip)
    records, count = list[Record](), 0
    for row in opened.rows:
        count += row.number > 0
        records += row.records
    if opened.problem:
        raise UserError(f"{opened.name}: {opened.problem}")
    records += opened.remarks
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
        alone = "no annotator scored two answers to one prompt; format=demonstrations learns from all answers"
        return f"nothing is left to train on ({left_out or alone})"
    if not answers and not (up and down):
        return f"all {up + down:,} labels are {'up' if up else 'down'}; training needs both"
    return ""


def open_file(
    source: str | Path, format: str | None = None, *, columns: Mapping[str, str] | None = None, skip: str = ""
) -> FeedbackFile:
    """Recognise the format, then iterate row by row, so that a large file need not fit in memory.

    ``format``: one of `format_names`, or None to recognise it by its columns; ``columns``: where a column of the format has
    another name in the file, ``{"prompt": "question"}``; ``skip``: rows that are left out and counted instead of refused:
    ``empty`` (a prompt or an answer is), ``tools`` (they call tools), ``faulty`` (any that can't be read), or none.

    A format with ``compare`` keeps its records and yields the comparisons at the end. Raises UserError as `read_file` does;
    malformed rows are reported after the last row.
    """
    if format is not None and format not in format_names():
        raise UserError(unknown("format", format, format_names()))
    if skip and skip not in SKIPS:
        raise UserError(unknown("kind of rows to skip", skip, list(SKIPS)))
    name, rejected = str(source), _RejectedRows(skip)
    rows = _renamed_rows(name, columns) if columns else iterate_rows(name)
    before: list[RowRecords] = []
    for first in rows:
        if isinstance(first, Row):
            chosen = _check_format(name, first, format) if format else _recognise(name, first)
            known = _known_columns(_formats()[chosen])
            unread = tuple(column for column in first.values if column not in known)
            grades = Grades(known) if chosen == "demonstrations" and not format else None
            records = _records(name, _formats()[chosen], chain([first], rows), rejected, grades)
            return FeedbackFile(name, chosen, unread, chain(before, records), grades)
        before += rejected.skipped(first)
    raise UserError(rejected.line(name) if rejected.count else f"{name} has no rows{' that can be read' * bool(before)}")


def _renamed_rows(name: str, columns: Mapping[str, str]) -> Iterator[Row | Fault]:
    known = sorted(set().union(*map(_known_columns, _formats().values())))
    for new in columns:
        if new not in known:
            near = difflib.get_close_matches(new, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"columns names {new!r}, which no format has{hint}")
    check_direction(columns)
    first = True
    for row in iterate_rows(name):
        if isinstance(row, Row) and first:
            first = False
            if missing := next((old for old in columns.values() if old not in row.values), None):
                raise UserError(f"{name}: row {row.number}: {unknown('column', missing, [str(each) for each in row.values])}")
        yield row.renamed(columns) if isinstance(row, Row) else row


def _known_columns(module: ModuleType) -> set[str]:
    """The columns that a format may read."""
    return {*chain(*module.COLUMNS), *getattr(module, "OPTIONAL", ()), *SOURCES, *RATERS}


def _records(
    name: str, module: ModuleType, rows: Iterator[Row | Fault], rejected: _RejectedRows, grades: Grades | None
) -> Iterator[RowRecords]:
    kept: list[Record] = []
    for row in rows:
        try:
            read = _read_row(module, row)
        except Fault as fault:
            yield from rejected.skipped(fault)
        else:
            yield read
            if grades and isinstance(row, Row):
                grades.add(row.values, read.records)
            if hasattr(module, "compare"):
                kept += [record for record in read.records if not isinstance(record, Remark)]
    if rejected.count:
        raise UserError(rejected.line(name))
    if kept:
        try:
            for record in module.compare(kept):
                yield RowRecords(0, 0, [record])
        except Fault as fault:
            raise UserError(f"{name}: {fault}") from None


def _read_row(module: ModuleType, row: Row | Fault) -> RowRecords:
    if isinstance(row, Fault):
        raise row
    try:
        return RowRecords(row.number, row.key, [*module.records(row), *map(Remark, sorted(row.left))])
    except RecursionError:
        raise row.fault("it is nested too deeply") from None


def _recognise(name: str, row: Row) -> str:
    """The format that uses most of the columns; those that check with ``matches`` come first, those of whole messages last."""
    if fitting := [
        (hasattr(module, "matches"), len(columns), columns[0] not in WHOLE, format)
        for format, module in _formats().items()
        for columns in module.COLUMNS
        if row.has(*columns) and (not hasattr(module, "matches") or module.matches(row))
    ]:
        return max(fitting)[-1]
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
    if sum(map(row.has, columns)) < 2:  # near to none
        columns = _formats()[format].COLUMNS[0]
    missing = [column for column in columns if not row.has(column)]
    needed = f"{format} needs {', '.join(columns)}; missing: {', '.join(missing)}"
    name = f"a column may be named: columns={{{missing[0]}: NAME}}"
    return f"{needed}; found: {_column_names(row)}; {name}; formats: {', '.join(format_names())}"


def _column_names(row: Row) -> str:
    names = [quoted(column) for column in row.values if row.has(column)]
    return f"{', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else "none"
