"""What a gain costs: the bill by role, and diversity."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from isoalign.core.display import scientific, share
from isoalign.report.board.columns import metric
from isoalign.report.board.rows import REFERENCE, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.forest import MOST
from isoalign.report.charts.looks import name_of
from isoalign.report.site.charts import chart
from isoalign.report.site.parts import LOOKS, POINT, SAYS, html_table, look, shown

DIVERSITY = "distinct_2"
STEP = 18  # pixels of a bar
TINTS = ("pairs", "reward", "judge", "unpaired", "distillation", "other", "none")  # of roles, in the section's order


def bill(section: Section, identifier: str) -> Markup:
    """FLOPs of each row as a bar, by who was asked: policy, reference, reward model and so on."""
    rows = [row for row in section.rows if row.spent("flops")]
    if not rows:
        return Markup("")
    bars, shownrows = [], rows[:MOST]
    for place, row in enumerate(shownrows):
        start, spent = 0.0, row.spent("flops") or 0.0
        for role, flops in _parts(section, row):
            says = f"{name_of(row, 60)}\n{role}: {scientific(flops)} FLOP, {share(100 * flops / spent)} of its bill"
            bars.append({"place": place, "from": start, "to": start + flops, "role": role, "says": says})
            start += flops
    names = [name_of(row, 26) for row in shownrows]
    axis = {"labelExpr": "names[datum.value]", "title": None, "ticks": False, "domain": False}
    colours = [f"var(--hue-{TINTS[i % len(TINTS)]})" for i in range(len(section.roles))]
    scale = {"domain": section.roles, "range": colours}
    spec = {
        "height": STEP * len(shownrows), "data": {"values": bars}, "params": [{"name": "names", "value": names}],
        "mark": {"type": "bar", "height": {"band": 0.7}, "stroke": "var(--paper)", "strokeWidth": 1},
        "encoding": {
            "y": {"field": "place", "type": "ordinal", "axis": axis},
            "x": {"field": "from", "type": "quantitative", "title": "FLOP, mean over seeds", "axis": {"format": "~e"}},
            "x2": {"field": "to"},
            "color": {"field": "role", "type": "nominal", "scale": scale, "legend": {"orient": "top", "title": None, "columns": 4}},
        } | SAYS,
    }  # fmt: skip
    others = {row.name: 1 - dict(_parts(section, row)).get("policy", 0.0) / (row.spent("flops") or 1.0) for row in rows}
    most = max(others, key=lambda name: others[name])
    title = f"Between {min(others.values()):.0%} and {max(others.values()):.0%} of a bill is not the policy's; most of {name_of(_named(rows, most))}'s"
    table = html_table("The bill by role, in FLOP", ["Method", *section.roles, "All"], [
        [row.name, *(scientific(dict(_parts(section, row)).get(role)) for role in section.roles), scientific(row.spent("flops"))]
        for row in rows
    ])  # fmt: skip
    left = f" {len(rows) - MOST} more rows are in the table." if len(rows) > MOST else ""
    return chart(identifier, title, spec, table, f"FLOPs by formula, by whose passes they are.{left}")


def _parts(section: Section, row: Row) -> list[tuple[str, float]]:
    spent = row.flops_by_role()
    return [(role, spent[role]) for role in section.roles if role in spent]


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
    x = {"field": "gain", "type": "quantitative", "title": section.objective.gain_axis, "scale": {"zero": False}}
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
