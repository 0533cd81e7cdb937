"""Charts of one run: its figures along the budget, as its card has them, and the scalars of its training log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from markupsafe import Markup

from isoalign.core.display import clean, plain
from isoalign.core.objective import Objective
from isoalign.core.records import Card
from isoalign.report.board.columns import metric
from isoalign.report.site.charts import chart
from isoalign.report.site.parts import html_table

POINTS = 120  # of a series of the log that are drawn, so that a page stays small whatever the run
MOST = 24  # charts of one run's log
ROWS = 12  # of a series' table
FIRST = ("loss", "reward", "kl", "lr", "grad_norm")  # of the log; what a method logs itself follows
APART = ("step", "flops_spent")
BUDGET = {"title": "share of the budget", "axis": {"format": ".0%", "tickCount": 5}}
STEPS = {"title": "optimizer step", "axis": {"format": "d", "tickMinStep": 1, "tickCount": 5}}
Spec = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """One quantity along a run: what is drawn at each of ``points`` (x, y, and what they say, the title first, with an
    interval where there is one), the ``table`` that says the same, and the ``note`` under the title."""

    identifier: str
    title: str
    ends: tuple[str, str]
    x: Spec
    points: list[dict[str, Any]]
    titles: list[str]
    table: list[list[str]]
    note: str = ""
    changes: bool = True


@dataclass
class Charts:
    """Charts of the series that change, and in words those that do not; ``left``: how many more than ``most`` there are."""

    charts: list[Markup] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    left: int = 0
    most: int = MOST

    @property
    def any(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.charts or self.constant)


def charts_of(series: Iterable[Series]) -> Charts:
    """The charts of some series."""
    found = Charts()
    for one in series:
        if not one.changes:
            found.constant.append(f"{one.title} {one.ends[0]}")
        elif len(found.charts) == MOST:
            found.left += 1
        else:
            table = html_table(one.title, one.titles, one.table)
            found.charts.append(chart(one.identifier, f"{one.title}: {' to '.join(one.ends)}", _spec(one), table, one.note))
    return found


def curve_series(card: Card, objective: Objective) -> Iterator[Series]:
    """The figures that the card has along the budget, with their intervals."""
    names = dict.fromkeys(name for point in card.curve for name in point.metrics)
    for place, name in enumerate(names):
        if objective.level in names and name == objective.gain:
            continue  # the same curve upside down
        one = metric(name, objective)
        known = [(point, e) for point in card.curve if (e := point.metrics.get(name)) and e.value is not None]
        if len(known) < 2:
            continue
        points, table = [], []
        for point, e in known:
            bounds = ["–" if value is None else f"{value:.{one.digits}f}" for value in (e.value, e.low, e.high)]
            interval = "" if "–" in bounds else f", interval {bounds[1]} to {bounds[2]}"
            said = f"{one.heading}\n{point.fraction:.0%} of the budget, step {point.steps}: {bounds[0]}{interval}"
            points.append({"x": point.fraction, "y": e.value, "low": e.low, "high": e.high, "said": said})
            table.append([f"{point.fraction:.0%}", str(point.steps), *bounds])
        missing = sum(e.missing for _, e in known)
        note = f"{missing} values are missing over all points" if missing else ""
        titles = ["Budget", "Step", "Value", "Low", "High"]
        changes = len({e.value for _, e in known}) > 1
        yield Series(f"curve-{place}", one.heading, (table[0][2], table[-1][2]), BUDGET, points, titles, table, note, changes)


def log_series(log: Sequence[dict[str, Any]]) -> Iterator[Series]:
    """The scalars of a training log, thinned to `POINTS` steps."""
    names = [name for name in dict.fromkeys(name for row in log for name in row) if name not in APART]
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    for place, name in enumerate(names):
        known = [(row.get("step", i), float(row[name])) for i, row in enumerate(log, start=1) if _is_number(row.get(name))]
        if len(known) < 2:
            continue
        ends_of = {min(known, key=itemgetter(1)), max(known, key=itemgetter(1))}  # what thinning would hide
        drawn = sorted({*thinned(known, POINTS), *ends_of})
        title = clean(name)[:60]
        points = [{"x": step, "y": float(f"{y:.9g}"), "said": f"{title}\nstep {plain(step)}: {y:.4g}"} for step, y in drawn]
        table = [[plain(step), f"{value:.4g}"] for step, value in thinned(known, ROWS)]
        notes = [f"{len(drawn)} of {len(known):,} steps are drawn"] if len(drawn) < len(known) else []
        notes += [f"no value at {len(log) - len(known):,} of {len(log):,} steps"] if len(known) < len(log) else []
        ends = (f"{known[0][1]:.3g}", f"{known[-1][1]:.3g}")
        changes = len({value for _, value in known}) > 1
        yield Series(f"log-{place}", title, ends, STEPS, points, ["Step", "Value"], table, "; ".join(notes), changes)


def thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _spec(series: Series) -> Spec:
    """A line with its band; what is reached by pointer and keyboard says its value."""
    y: Spec = {"field": "y", "type": "quantitative", "title": None, "scale": {"zero": False}, "axis": {"tickCount": 5}}
    hue = {"color": "var(--hue-pairs)", "aria": False}
    dot = {"type": "circle", "size": 40 if len(series.points) <= POINTS / 3 else 12, "opacity": 1, **hue, "aria": True}
    layers: list[Spec] = [
        {"mark": {"type": "line", **hue}, "encoding": {"y": y}},
        {"mark": dot, "encoding": {"y": y, "description": {"field": "said"}}},
    ]
    if any(point.get("low") is not None for point in series.points):
        band = {"mark": {"type": "area", "opacity": 0.16, **hue}}
        layers.insert(0, {**band, "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}}})
    across = {"field": "x", "type": "quantitative"} | series.x
    return {"data": {"values": series.points}, "height": 150, "encoding": {"x": across}, "layer": layers}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
