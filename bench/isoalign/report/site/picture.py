"""The picture of a section: gains at equal KL as a forest plot, and the frontier of gain against KL beside it."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from isoalign.core.records import Estimate
from isoalign.report.board.columns import gain_digits
from isoalign.report.board.rows import DRIFT, METHOD, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import compared_at, in_nats
from isoalign.report.charts.forest import MOST, Line, lines_of
from isoalign.report.charts.frontier import FEW, Ends, drift_along, frontier_line, frontier_points, on_prompts
from isoalign.report.charts.looks import even_steps, name_of
from isoalign.report.pages.phrases import pareto_phrase, rank_phrase, surely_pareto
from isoalign.report.site.charts import chart
from isoalign.report.site.parts import KL, LOOKS, POINT, SAYS, html_table, hue, learns_from, look, shown
from isoalign.stats.drift import drift_at

STEP, FEWEST, TALL = 18, 12, 30  # pixels of a line, as many as have them, and of fewer at most
X: dict[str, Any] = {
    "type": "quantitative", "scale": {"zero": False, "nice": True}, "axis": {"grid": True, "tickCount": 5, "format": "~g"},
}  # fmt: skip


def forest(section: Section, identifier: str) -> Markup:
    """The gain of each method at one KL with its interval, best on top, over the band of drift."""
    at = compared_at(section)
    every = lines_of(section, at)
    if not any(
        gain.value is not None or row.estimate(row.objective.gain).value is not None for one in every for row, gain in one.rows
    ):
        return Markup("<p>No method has a gain to show.</p>")
    lines, where = every[:MOST], "at the end of the budget" if at is None else f"at {in_nats(at)} of KL"
    known = sum(line.gain is not None for line in lines)
    split = 0 < known < len(lines)
    places = [place + (split and place >= known) for place in range(len(lines))]
    names = {place: name_of(line.rows[0][0], 26) for place, line in zip(places, lines, strict=True)}
    hues = {place: hue(line.rows[0][0]) for place, line in zip(places, lines, strict=True)}
    if split:
        names[known], hues[known] = "not measured there:", "var(--faint)"
    order = sorted(names)
    step = min(TALL, max(STEP, STEP * FEWEST // len(order)))
    marks = [mark for place, line in zip(places, lines, strict=True) for mark in _marks(section, line, place, at)]
    axis = {"labelExpr": "names[datum.value]", "labelColor": {"expr": "hues[datum.value]"}, "title": None, "ticks": False}
    y = {
        "field": "place",
        "type": "ordinal",
        "scale": {"domain": order, "padding": 0},
        "axis": axis | {"domain": False, "labelPadding": 6},
    }
    lane = {"field": "lane", "type": "quantitative", "scale": {"domain": [-1, 1], "range": [0, step]}}
    x = X | {"title": section.objective.gain_axis}
    known_marks = {"data": {"values": [mark for mark in marks if mark["gain"] is not None]}}
    ends = {"data": {"values": [mark for mark in marks if mark["end"] is not None]}} if at is not None else None
    hues_of = {"stroke": LOOKS["stroke"], "y": y, "yOffset": lane}
    layers: list[dict[str, Any]] = [*_drift(section, at), {"mark": {"type": "rule"}, "encoding": {"x": {"datum": 0}}}]
    if ends:
        tick = {"type": "tick", "thickness": 2, "size": 9, "opacity": 0.8}
        tick_looks = {"x": x | {"field": "end"}, "y": y, "yOffset": lane, "color": LOOKS["stroke"], **SAYS}
        layers.append(ends | {"mark": tick, "encoding": tick_looks})
    span = {"x": x | {"field": "low"}, "x2": {"field": "high"}}
    layers.append(known_marks | {"mark": {"type": "rule", "strokeWidth": 1.6, "aria": False}, "encoding": hues_of | span})
    point = hues_of | LOOKS | {"x": x | {"field": "gain"}} | SAYS
    layers.append(known_marks | {"mark": POINT, "encoding": point})
    params = [{"name": "names", "value": [names[i] for i in order]}, {"name": "hues", "value": [hues[i] for i in order]}]
    spec = {"height": step * len(order), "params": params, "layer": layers}
    left = f" {len(every) - MOST} more rows are on the board." if len(every) > MOST else ""
    rest = "" if at is None else " A stroke is the gain at the end of the budget."
    note = f"{section.objective.gain_axis} {where}, with 95% intervals.{rest}{left}"
    return chart(identifier, f"Gain {where}", spec, _forest_table(section, every, at, where), note)


def _marks(section: Section, line: Line, place: int, at: float | None) -> list[dict[str, Any]]:
    """The rows of a line as data, its twin in a lane of its own."""
    found = []
    for twin, (row, gain) in enumerate(line.rows):
        end = row.estimate(row.objective.gain)
        lane = 0.4 * (len(line.rows) - 1) * (2 * twin - 1)
        found.append(
            look(row) | {"place": place, "lane": lane, "says": _says(section, row, gain, at)}
            | {"gain": gain.value, "low": gain.low, "high": gain.high, "end": end.value}
        )  # fmt: skip
    return found


def _says(section: Section, row: Row, gain: Estimate, at: float | None) -> str:
    """A row's gain in words: what its mark says."""
    where = "at the end of the budget" if at is None else f"at {in_nats(at)}"
    lines = [name_of(row, 60), f"{section.objective.gain_noun} {where}: {shown(gain)}"]
    found = None if at is None else section.equal_kl[at].get(row.name)
    rank = row.rank if at is None else found.rank if found else None
    lines += [f"rank {rank_phrase(rank)}"] if rank else []
    lines += [f"at the end of the budget: {shown(row.estimate(row.objective.gain))}"] if at is not None else []
    return "\n".join([*lines, f"learns from {learns_from(row)}"])


def _drift(section: Section, at: float | None) -> list[dict[str, Any]]:
    """The gain of each control for drift at a KL, as a band with its mean."""
    layers: list[dict[str, Any]] = []
    for name, draws in section.drift.controls.items():
        reading = None if at is None else drift_at(draws, at)
        if reading is None:
            continue
        gain = reading.estimate()
        data = {
            "data": {
                "values": [
                    {
                        "low": gain.low,
                        "high": gain.high,
                        "gain": gain.value,
                        "says": f"{name}, a control for drift\n{shown(gain)}",
                    }
                ]
            }
        }
        band = {"type": "rect", "color": "var(--faint)", "opacity": 0.2}
        layers.append(data | {"mark": band, "encoding": {"x": X | {"field": "low"}, "x2": {"field": "high"}} | SAYS})
        layers.append(data | {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": X | {"field": "gain"}}})
    return layers


def _forest_table(section: Section, lines: list[Line], at: float | None, where: str) -> Markup:
    rows = [
        [row.name, learns_from(row), shown(gain), shown(row.estimate(row.objective.gain))]
        for line in lines
        for row, gain in line.rows
    ]
    return html_table(f"Gain {where}", ["Method", "Learns from", where.capitalize(), "At the end of the budget"], rows)


def frontier(section: Section, identifier: str) -> Markup:
    """Gain against KL at the end of each row's budget, and the steps of what no other row beats in both."""
    ends = frontier_points(section)
    if not ends:
        return Markup("")
    best = frontier_line(section, ends)
    inside = [end for end in ends if end[0].algorithm not in DRIFT] or ends  # what drifted may have ended far beyond
    farthest = max(kl for _, kl, _ in inside) or 1.0
    drawn = [end for end in ends if end[1] <= 1.05 * farthest]
    line = [{"kl": kl, "gain": gain} for kl, gain in [*best, (farthest, best[-1][1])]]
    ticks = [d**2 for d in even_steps(math.sqrt(farthest), 8)]
    x = KL | {
        "field": "kl",
        "axis": {"values": ticks, "format": ".4~g"},
        "scale": {"type": "sqrt", "domain": [0, 1.08 * farthest]},
    }
    y = {"field": "gain", "type": "quantitative", "title": section.objective.gain_axis}
    points = [
        look(row) | {"kl": kl, "gain": gain, "left": kl < 0.05 * farthest, "says": _end_says(section, row, kl, gain)}
        for row, kl, gain in drawn
    ]
    steps = {"type": "line", "interpolate": "step-after", "color": "var(--ink)", "strokeWidth": 2, "aria": False}
    named = [point for point, (row, _, _) in zip(points, drawn, strict=True) if _is_named(row, ends)]
    text = {"type": "text", "dy": -12, "align": {"expr": "datum.left ? 'left' : 'center'"}, "fontSize": 11, "aria": False}
    words = {"x": x, "y": y, "text": {"field": "name"}}
    halo = text | {"stroke": "var(--paper)", "strokeWidth": 4, "strokeJoin": "round"}
    apart = {"data": {"values": _apart(named, farthest)}}
    layers = [
        *_drift_area(section, x, y),
        {"data": {"values": line}, "mark": steps, "encoding": {"x": x, "y": y}},
        {"data": {"values": points}, "mark": POINT, "encoding": {"x": x, "y": y} | LOOKS | SAYS},
        apart | {"mark": halo, "encoding": words},
        apart | {"mark": text, "encoding": words | {"color": LOOKS["stroke"]}},
    ]  # fmt: skip
    digits = gain_digits(section.objective)
    rows = [[row.name, f"{kl:.2f}", f"{gain:.{digits}f}", pareto_phrase(row) or "no"] for row, kl, gain in ends]
    where = f"at the end of the budget{on_prompts(section)}"
    table = html_table(f"Gain and KL {where}", ["Method", "KL, nats", "Gain", "On the frontier"], rows)
    note = f"A mark is a row {where}. A step of the line is the gain that a KL buys, along all runs."
    note += f" {len(ends) - len(drawn)} draws of drift ended farther away." if len(drawn) < len(ends) else ""
    return chart(identifier, f"What a KL buys: {section.objective.better}", {"height": 380, "layer": layers}, table, note)


def _end_says(section: Section, row: Row, kl: float, gain: float) -> str:
    noun, digits = section.objective.gain_noun, gain_digits(section.objective)
    lines = [name_of(row, 60), f"{noun} {gain:.{digits}f} at {kl:.2f} nats, at the end of its budget"]
    lines += [f"on all prompts: {shown(row.estimate(section.objective.gain))}"]
    return "\n".join([*lines, *(["on the frontier"] if surely_pareto(row) else [])])


def _is_named(row: Row, ends: Ends) -> bool:
    return row.algorithm not in DRIFT and (len(ends) <= FEW or row.pareto or row.part != METHOD)


def _apart(points: list[dict[str, Any]], farthest: float) -> list[dict[str, Any]]:
    """Those whose names do not cover one another; the others say theirs when they are pointed at."""
    kept: list[dict[str, Any]] = []
    gains = [point["gain"] for point in points]
    high = max(1e-9, max(gains, default=0.0) - min(gains, default=0.0))

    def covers(a: dict[str, Any], b: dict[str, Any]) -> bool:
        across = abs(math.sqrt(a["kl"] / farthest) - math.sqrt(b["kl"] / farthest)) if farthest else 0.0
        return across < 0.008 * (len(a["name"]) + len(b["name"])) and abs(a["gain"] - b["gain"]) / high < 0.05

    for point in sorted(points, key=lambda point: -point["gain"]):
        if not any(covers(point, other) for other in kept):
            kept.append(point)
    return kept


def _drift_area(section: Section, x: dict[str, Any], y: dict[str, Any]) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []
    for draws in section.drift.controls.values():
        columns = zip(*drift_along(draws), strict=True)
        values = [{"kl": d * d, "low": low, "high": high, "gain": gain} for d, low, high, gain in columns]
        data = {"data": {"values": values}}
        area = {"type": "area", "color": "var(--faint)", "opacity": 0.2, "aria": False, "clip": True}
        layers.append(data | {"mark": area, "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}})
        dashes = {"type": "line", "color": "var(--faint)", "strokeDash": [4, 3], "aria": False, "clip": True}
        layers.append(data | {"mark": dashes, "encoding": {"x": x, "y": y}})
    return layers
