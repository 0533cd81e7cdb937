"""What a gain costs: the bill by role, and diversity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from isoalign.core.display import scientific, share
from isoalign.report.board.columns import metric
from isoalign.report.board.rows import REFERENCE, Row
from isoalign.report.board.sections import ROLES, Section
from isoalign.report.charts.forest import MOST
from isoalign.report.charts.looks import name_of
from isoalign.report.site.charts import chart
from isoalign.report.site.document import TINTS
from isoalign.report.site.parts import LOOKS, POINT, SAYS, html_table, look, shown

DIVERSITY = "distinct_2"
X: dict[str, Any] = {"scale": {"zero": False}, "axis": {"tickCount": 6}}
STEP = 18  # pixels of a bar


def bill(section: Section, identifier: str) -> Markup:
    """FLOPs of each row as a bar, by who was asked: policy, reference, reward model and so on."""
    rows = [row for row in section.rows if row.spent("flops")]
    roles = section.roles
    if not rows or not roles:
        return Markup("")
    bars, shown_rows = [], rows[:MOST]
    unit = 10 ** math.floor(math.log10(max(row.spent("flops") or 1.0 for row in rows)))
    for place, row in enumerate(shown_rows):
        start, spent = 0.0, row.spent("flops") or 0.0
        for role, flops in _parts(roles, row):
            says = f"{name_of(row, 60)}\n{role}: {scientific(flops)} FLOP, {share(100 * flops / spent)} of its bill"
            bars.append({"place": place, "from": start / unit, "to": (start + flops) / unit, "role": role, "says": says})
            start += flops
    names = [name_of(row, 26) for row in shown_rows]
    axis = {"labelExpr": "names[datum.value]", "title": None, "ticks": False, "domain": False}
    order = [*ROLES, *(role for role in roles if role not in ROLES)]  # a role has one colour in every section
    colours = [f"var(--role-{order.index(role) % len(TINTS)})" for role in roles]
    scale = {"domain": roles, "range": colours}
    legend = {"orient": "top", "title": None, "columns": 3, "symbolType": "square"}
    spec = {
        "height": STEP * len(shown_rows), "data": {"values": bars}, "params": [{"name": "names", "value": names}],
        "mark": {"type": "bar", "height": {"band": 0.7}, "stroke": "var(--paper)", "strokeWidth": 1},
        "encoding": {
            "y": {"field": "place", "type": "ordinal", "axis": axis},
            "x": {"field": "from", "type": "quantitative", "title": f"{unit:.0e} FLOP", "axis": {"tickCount": 6}},
            "x2": {"field": "to"},
            "color": {"field": "role", "type": "nominal", "scale": scale, "legend": legend},
        } | SAYS,
    }  # fmt: skip
    others = {row.name: 1 - dict(_parts(roles, row)).get("policy", 0.0) / (row.spent("flops") or 1.0) for row in rows}
    most = max(others, key=lambda name: others[name])
    low, high = min(others.values()), max(others.values())
    title = f"Between {low:.0%} and {high:.0%} of a bill is not the policy's; most of {name_of(_named(rows, most))}'s"
    cells = [[scientific(row.flops_by_role().get(role)) for role in roles] for row in rows]
    lines = [[row.name, *own, scientific(row.spent("flops"))] for row, own in zip(rows, cells, strict=True)]
    table = html_table("The bill by role, in FLOP, mean over seeds", ["Method", *roles, "All"], lines)
    left = f" {len(rows) - MOST} more rows are in the table." if len(rows) > MOST else ""
    return chart(identifier, title, spec, table, f"FLOPs by formula, by whose passes they are.{left}")


def _parts(roles: Sequence[str], row: Row) -> list[tuple[str, float]]:
    spent = row.flops_by_role()
    return [(role, spent[role]) for role in roles if role in spent]


def _named(rows: list[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def diversity(section: Section, identifier: str) -> Markup:
    """Diversity against gain, both with intervals, and where the base is."""
    gain = section.objective.gain
    rows = [row for row in section.rows if row.estimate(DIVERSITY).value is not None and not row.is_outdated(DIVERSITY)]
    reference = next((row for row in rows if row.part == REFERENCE), None)
    rows = [row for row in rows if row.estimate(gain).value is not None and row.part != REFERENCE]
    if not rows:
        return Markup("")
    one = metric(DIVERSITY, section.objective)
    marks = []
    for row in rows:
        own, of = row.estimate(gain), row.estimate(DIVERSITY)
        says = f"{name_of(row, 60)}\n{section.objective.gain_noun} {shown(own)}\n{one.title} {shown(of)}"
        marks.append(look(row) | {"gain": own.value, "glow": own.low, "ghigh": own.high, "says": says}
                     | {"of": of.value, "low": of.low, "high": of.high})  # fmt: skip
    x = {"field": "gain", "type": "quantitative", "title": section.objective.gain_axis} | X
    y = {"field": "of", "type": "quantitative", "title": one.heading, "scale": {"zero": False}}
    rule = {"mark": {"type": "rule", "opacity": 0.35, "aria": False}}
    layers: list[dict[str, Any]] = [
        rule | {"encoding": {"x": x | {"field": "glow"}, "x2": {"field": "ghigh"}, "y": y, "stroke": LOOKS["stroke"]}},
        rule | {"encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "stroke": LOOKS["stroke"]}},
        {"mark": POINT, "encoding": {"x": x, "y": y} | LOOKS | SAYS},
    ]
    title = f"{one.title} against gain; the base's is not measured"
    if reference is not None and (base := reference.estimate(DIVERSITY)).value is not None:
        layers.insert(0, {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": {"datum": base.value}}})
        below = sum(
            (high := row.estimate(DIVERSITY).high) is not None and base.low is not None and high < base.low for row in rows
        )
        title = f"{one.title} of {below} of {len(rows)} rows is below the base's, by intervals that do not overlap"
    rows_of = [[row.name, shown(row.estimate(gain)), shown(row.estimate(DIVERSITY))] for row in rows]
    table = html_table(title, ["Method", section.objective.gain_title, one.title], rows_of)
    return chart(
        identifier,
        title,
        {"height": 340, "data": {"values": marks}, "layer": layers},
        table,
        f"{one.description} Dashes: the base.",
    )
