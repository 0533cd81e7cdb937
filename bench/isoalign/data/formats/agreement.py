"""What several raters said of the same items."""

from __future__ import annotations

from collections.abc import Iterable

from isoalign.core.records import Estimate
from isoalign.data.formats.types import Comparison, UnpairedLabel
from isoalign.stats.agreement import agreement

Table = dict[str, dict[str, int]]
"""Item to rater to verdict: which of two answers, or the label (0 or 1). Only what raters with a name said."""


def enter(table: Table, record: Comparison | UnpairedLabel) -> None:
    """Add a verdict to a table; a rater's first on an item counts."""
    if record.rater:
        table.setdefault(record.item, {}).setdefault(record.rater, record.verdict)


def table(records: Iterable[Comparison | UnpairedLabel]) -> Table:
    """The table of all these verdicts."""
    found: Table = {}
    for record in records:
        enter(found, record)
    return found


def shared(table: Table) -> Table:
    """The items that two raters or more judged."""
    return {item: verdicts for item, verdicts in table.items() if len(verdicts) > 1}


def figures(table: Table) -> dict[str, Estimate]:
    """Agreement of the raters with intervals, see `isoalign.stats.agreement`; nothing where no item has two of them."""
    raters = sorted({rater for verdicts in table.values() for rater in verdicts})
    return agreement([[verdicts.get(rater) for rater in raters] for verdicts in table.values()]) if table else {}
