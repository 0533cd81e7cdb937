"""Agreement of several raters on the same items."""

from __future__ import annotations

from collections.abc import Iterable

from isoalign.core.records import Estimate
from isoalign.data.formats.types import Comparison, UnpairedLabel
from isoalign.stats.agreement import agreement

Table = dict[str, dict[str, int]]
"""Verdict by item and rater: index of the chosen answer, or the label (0 or 1). Named raters only."""


def add_verdict(table: Table, record: Comparison | UnpairedLabel) -> None:
    """Add a verdict to a table; the first verdict of a rater on an item counts."""
    if record.rater:
        table.setdefault(record.item, {}).setdefault(record.rater, record.verdict)


def verdict_table(records: Iterable[Comparison | UnpairedLabel]) -> Table:
    """The table of all verdicts."""
    table: Table = {}
    for record in records:
        add_verdict(table, record)
    return table


def judged_by_several(table: Table) -> Table:
    """The items that at least two raters judged."""
    return {item: verdicts for item, verdicts in table.items() if len(verdicts) > 1}


def rater_agreement(table: Table) -> dict[str, Estimate]:
    """Agreement of the raters with intervals, see `isoalign.stats.agreement`; empty for an empty table."""
    raters = sorted({rater for verdicts in table.values() for rater in verdicts})
    return agreement([[verdicts.get(rater) for rater in raters] for verdicts in table.values()]) if table else {}
