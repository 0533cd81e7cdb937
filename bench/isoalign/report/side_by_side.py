"""Two sides with a paired difference on each of several metrics, as a table and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from isoalign import stats
from isoalign.core.display import clean
from isoalign.report.as_data import difference_data
from isoalign.report.pages.console import rendered
from isoalign.stats import Comparison

WIDTH, PADDING = 130, 3  # of a table, and between its columns


@dataclass(frozen=True)
class Compared:
    """One metric on both sides: the means of A and of B over the prompts that both have, and A minus B. ``p_holm``: p after
    Holm's correction over the metrics, None where nothing is tested; ``verdict``: what it says, in words."""

    name: str
    means: tuple[float | None, float | None]
    difference: Comparison
    p_holm: float | None
    verdict: str


@dataclass(frozen=True)
class SideBySide:
    """Both sides by ``names`` on all metrics. ``footer``: lines under the table; ``about``: what else is known of both, as
    data."""

    names: tuple[str, str]
    rows: tuple[Compared, ...]
    footer: str
    about: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """For a terminal."""
        rows = [[row.name, *map(_mean, row.means), _span(row.difference), _p(row.p_holm), row.verdict] for row in self.rows]
        return _table(["metric", *self.names, "A - B", "p (Holm)", "verdict"], rows) + self.footer

    def data(self) -> dict[str, Any]:
        """For other programs; docs/json.md has the names."""
        metrics = [
            {"name": row.name, "mean_a": row.means[0], "mean_b": row.means[1]}
            | difference_data(row.difference) | {"p_holm": row.p_holm, "verdict": row.verdict}
            for row in self.rows
        ]  # fmt: skip
        return {"a": self.names[0], "b": self.names[1]} | self.about | {"metrics": metrics}


def distinct(a: str, b: str) -> tuple[str, str]:
    """Two names that differ."""
    return (a, b) if a != b else (f"{a} (A)", f"{b} (B)")


def versus(a: str, b: str) -> str:
    """Which side is A and which is B."""
    first, second = (name if name.endswith(side) else name + side for name, side in ((a, " (A)"), (b, " (B)")))
    return f"{first} against {second}"


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(map(clean, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


def corrected(comparisons: dict[str, Comparison]) -> dict[str, float]:
    """Metric to its p after Holm's correction over all metrics that are tested."""
    tested = [name for name, c in comparisons.items() if c.p is not None and not c.single]
    return dict(zip(tested, stats.holm([comparisons[name].p or 0.0 for name in tested]), strict=True))


def verdict(c: Comparison, p_holm: float | None, a: str, b: str, higher_is_better: bool | None) -> str:
    """Which side is higher or better, and whether that holds after the correction for the number of metrics; of one training
    seed nothing is said."""
    if c.single:
        return "one seed"
    if c.value is None or c.p is None or p_holm is None:
        return "too few prompts"
    if c.p >= 1 - stats.LEVEL:
        return "equal" if c.value == c.low == c.high == 0 else "not resolved"
    a_is_higher = c.value > 0
    if higher_is_better is None:
        text = f"{a} is {'higher' if a_is_higher else 'lower'}"
    else:
        text = f"{a if a_is_higher == higher_is_better else b} is better"
    return text if p_holm < 1 - stats.LEVEL else f"{text}, before correction"


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _span(c: Comparison) -> str:
    if c.value is None or c.low is None or c.high is None:
        return "-"
    value, low, high = (0.0 if abs(bound) < 1e-12 else bound for bound in (c.value, c.low, c.high))  # rounding
    return f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"


def _p(p: float | None) -> str:
    return "-" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a terminal's width, or as wide as it must be: no value is cut off."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, title in enumerate(titles):
        table.add_column(Text(title), justify="left" if place in (0, len(titles) - 1) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    least = sum(max(map(cell_len, column)) + PADDING for column in zip(titles, *rows, strict=True))
    return rendered([table], max(WIDTH, least)) + "\n"
