"""Charts along the budget: gain against what was spent, and gain against the reward that methods are trained by."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from isoalign.report.board.columns import gain_digits
from isoalign.report.board.rows import DRIFT, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.looks import CROWD, name_of
from isoalign.report.site.charts import chart
from isoalign.report.site.parts import LOOKS, POINT, SAYS, html_table, look, shown
from isoalign.stats.curves import Curves, bands
from isoalign.stats.overoptimization import Peak, find_peak, peak_warnings

NAMED = 4  # methods in a title
FEW: dict[str, Any] = {"axis": {"tickCount": 6, "grid": False}}
NAMES: dict[str, Any] = {"description": {"field": "name", "type": "nominal"}}
QUANTITY: dict[str, Any] = {"type": "quantitative", "scale": {"zero": False}}


def along_budget(section: Section, identifier: str) -> list[Markup]:
    """Both charts of a section; empty if no card has a curve."""
    rows = [row for row in section.rows if row.name in section.curves]
    peaks: dict[str, Peak] = {}
    raised: dict[str, list[str]] = {}
    for row in rows:  # one after the other: replicates of curves are kept for a while only
        peaks[row.name] = find_peak(section.curves[row.name])
        raised[row.name] = peak_warnings(section.curves[row.name])
    return (
        [
            _gains(section, rows, peaks, f"{identifier}-curves"),
            _against_reward(section, rows, peaks, raised, f"{identifier}-reward"),
        ]
        if rows
        else []
    )


def _gains(section: Section, rows: list[Row], peaks: dict[str, Peak], identifier: str) -> Markup:
    """The gain at each snapshot against the share of the budget; bands where rows are few enough to see them."""
    points, ends = [], []
    for row in rows:
        curves = section.curves[row.name]
        gold = curves.observed.pooled.gold.tolist()
        within = bands(curves, lambda paths: paths.gold) if len(rows) <= CROWD else None  # not drawn of more
        low, high = (within[0].tolist(), within[1].tolist()) if within else ([None] * len(gold), [None] * len(gold))
        own = [
            look(row) | {"at": at, "gain": gain, "low": a, "high": b} | {"says": _says(section, row, at, gain, (a, b), peaks)}
            for at, gain, a, b in zip(curves.fraction.tolist(), gold, low, high, strict=True)
        ]
        points += own
        ends.append(own[-1])
    x = QUANTITY | {"field": "at", "title": "Share of the budget", "axis": {"format": ".0%", "grid": False, "tickCount": 5}}
    y = QUANTITY | {"field": "gain", "title": section.objective.gain_axis}
    at_end = sum(peak.index == len(section.curves[name].fraction) - 1 for name, peak in peaks.items())
    measured = sum(peak.measured for peak in peaks.values())
    title = f"{at_end} of {measured} rows have their best point at the end of the budget"
    spec = {"height": 340, "data": {"values": points}, "layer": _lines(x, y, len(rows) <= CROWD)}
    table = html_table(title, ["Method", "Best at", "Gain there", "Gain at the end"], [
        [row.name, peaks[row.name].at, shown(peaks[row.name].gold), shown(peaks[row.name].end)] for row in rows
    ])  # fmt: skip
    band = "; bands: 95%" if len(rows) <= CROWD else ""
    first = section.curves[rows[0].name]
    note = f"Mean over seeds at each snapshot, on {first.prompts} prompts, fewer than the ranking's{band}."
    return chart(identifier, title, spec, table, note)


def _lines(x: dict[str, Any], y: dict[str, Any], few: bool) -> list[dict[str, Any]]:
    """A line a row with a mark at each snapshot; of many rows the lines are thin."""
    detail = {"detail": {"field": "name", "type": "nominal"}, "stroke": LOOKS["stroke"]}
    order = {"order": {"field": "at", "type": "quantitative"}}
    line = {"type": "line", "strokeWidth": 2 if few else 1.2, "opacity": 1 if few else 0.55}
    small = POINT | {"size": 36 if few else 18}
    area = {"type": "area", "opacity": 0.1, "aria": False}
    span = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "detail": detail["detail"]}
    layers: list[dict[str, Any]] = []
    if few:
        layers.append({"mark": area, "encoding": span | {"fill": {"field": "hue", "type": "nominal", "scale": None}}})
    layers.append({"mark": {"type": "rule"}, "encoding": {"y": {"datum": 0}}})
    layers.append({"mark": line, "encoding": {"x": x, "y": y} | detail | order | NAMES})
    return [*layers, {"mark": small, "encoding": {"x": x, "y": y} | LOOKS | SAYS}]


def _says(
    section: Section, row: Row, at: float, gain: float, bounds: tuple[float | None, float | None], peaks: dict[str, Peak]
) -> str:
    (low, high), digits = bounds, gain_digits(section.objective)
    interval = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    best = "\nits best point" if at == peaks[row.name].fraction else ""
    return f"{name_of(row, 60)}\n{section.objective.gain_noun} {gain:.{digits}f}{interval} at {at:.0%} of the budget{best}"


def _against_reward(
    section: Section, rows: list[Row], peaks: dict[str, Peak], warnings: dict[str, list[str]], identifier: str
) -> Markup:
    """Gain against the rise of the reward, from the base on: where a path turns down, reward rises and the objective falls."""
    scored = [row for row in rows if section.curves[row.name].observed.proxy is not None and row.algorithm not in DRIFT]
    if not scored:
        return Markup("")
    points = [point for row in scored for point in _path(section, row, section.curves[row.name])]
    raised = {row.name: texts for row in scored if peaks[row.name].measured and (texts := warnings[row.name])}
    title = _overoptimised(section, raised, sum(peaks[row.name].measured for row in scored))
    x = QUANTITY | {"field": "reward", "title": "Reward model's mean score minus the base's"} | FEW
    y = QUANTITY | {"field": "gain", "title": section.objective.gain_axis}
    spec = {"height": 340, "data": {"values": points}, "layer": _lines(x, y, len(scored) <= CROWD)[-3:]}
    table = html_table(title, ["Method", "Best at", "Lost by going on", "Reward since", "Reading"], [
        [row.name, peaks[row.name].at, shown(peaks[row.name].loss), shown(peaks[row.name].rise, 2),
         "; ".join(warnings[row.name] or ["no loss shown"])]
        for row in scored
    ])  # fmt: skip
    note = (
        "From the base to the end of the budget, by the method's own reward model, or the annotator's. A path that turns down"
    )
    note += " buys reward with the objective."
    if any(card.notes.get("known_reward") for row in scored for card in row.cards):
        note += " The reward is known: it is the objective itself, shifted and scaled, unless a method learns from a judge."
    return chart(identifier, title, spec, table, note)


def _path(section: Section, row: Row, curves: Curves) -> list[dict[str, Any]]:
    paths = curves.observed.pooled
    columns = zip(curves.fraction.tolist(), paths.rise.tolist(), paths.gold.tolist(), strict=True)
    noun, digits = section.objective.gain_noun, gain_digits(section.objective)
    return [
        look(row) | {"at": at, "reward": reward, "gain": gain}
        | {"says": f"{name_of(row, 60)}\nreward +{reward:.2f}, {noun} {gain:.{digits}f}\nat {at:.0%} of the budget"}
        for at, reward, gain in columns
    ]  # fmt: skip


def _overoptimised(section: Section, raised: dict[str, list[str]], scored: int) -> str:
    """What the intervals say of losses by going on."""
    if not raised:
        return f"No row of {scored} is shown to lose {section.objective.gain_noun} by going on"
    named = ", ".join(list(raised)[:NAMED]) + (f" and {len(raised) - NAMED} more" if len(raised) > NAMED else "")
    return f"{len(raised)} of {scored} rows lose {section.objective.gain_noun} by going on: {named}"
