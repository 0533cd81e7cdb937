"""The frontier: the mean score against exact KL, as an SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isoalign.core.lazy import matplotlib
from isoalign.core.records import Estimate
from isoalign.evaluation.metrics.metric import value_of
from isoalign.report.board.rows import METHOD, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.labels import Box, Label, boxes_along, place_labels
from isoalign.report.charts.looks import (
    CROWD,
    FAINT,
    GAP,
    MOST,
    OTHERS,
    Look,
    dress,
    even_steps,
    known_parts,
    looks_of,
    name_of,
    picture,
    setting,
)
from isoalign.stats.curves import Curves
from isoalign.stats.frontier import pareto

Marks = list[tuple[Row, Estimate, Estimate]]  # rows with their KL and score


def frontier_chart_name(number: int) -> str:
    """The file name of a section's chart."""
    return "frontier.svg" if number == 1 else f"frontier-{number}.svg"


def frontier_points(section: Section) -> Marks:
    """The rows that are shown in the chart, with their KL and score."""
    points = []
    for row in section.rows:
        kl, level = row.kl, row.estimate(row.objective.level)
        if kl.value is not None and level.value is not None:
            points.append((row, kl, level))
    return points


def frontier_chart(task: str, section: Section) -> bytes | None:
    """The mean score against exact KL as an SVG, the same bytes for the same section; None without points.

    If cards have curves, the chart shows each method's path and the Pareto frontier of all points along the budget. With many
    rows, where lines would hide the marks (the chart of curves has a panel for each), it shows the ends only, on a scale with
    room for small KL. With more than `MOST` rows it names the first and those without a rank; the others are grey dots.
    """
    points = frontier_points(section)
    if not points:
        return None
    if len(points) > CROWD:
        size = (11.5, max(6.2, 0.4 + 0.21 * len(_named(points))))
        return picture(lambda figure: _draw(figure, points, {}, setting(task, section)), size)
    return picture(lambda figure: _draw(figure, points, section.curves, setting(task, section)), (8, 5))


def _named(points: Marks) -> Marks:
    """The points that a chart names."""
    return [point for place, point in enumerate(points) if place < MOST or point[0].part != METHOD]


def _draw(figure: Any, points: Marks, curves: Mapping[str, Curves], subtitle: str) -> None:
    axes, crowded, objective = figure.add_subplot(), len(points) > CROWD, points[0][0].objective
    if curves:
        subtitle += (
            " · bars: 95% · small: seeds · lines: along the budget, dotted where not measured · dashed: Pareto frontier"
        )
    else:
        corner = "upper" if objective.higher_is_better else "lower"
        subtitle += f" · {corner} left is better · bars: 95% intervals · small: seeds · dashed: Pareto frontier"
    everything, points = points, _named(points)
    names = {row.name for row, _, _ in points}
    rest = [point for point in everything if point[0].name not in names]
    subtitle += f" · grey: {len(rest)} more rows" if rest else ""
    dress(axes, f"{objective.title} against KL from the base", subtitle)
    axes.set_xlabel("Exact KL from the SFT base, nats per completion" + (" (square-root scale)" if crowded else ""))
    axes.set_ylabel(f"Mean {objective.noun} of completions")
    looks = looks_of([row for row, _, _ in points])
    if crowded:
        _square_root(axes, max(kl.high or kl.value or 0.0 for _, kl, _ in everything))
        _draw_key(figure, [(f"{i}  {name_of(row)}", row, looks[row.name]) for i, (row, _, _) in enumerate(points, 1)])
    if rest:
        axes.plot(*zip(*((kl.value, level.value) for _, kl, level in rest), strict=True), ".", color=OTHERS, zorder=1)
    for row, kl, level in points:
        _draw_row(axes, row, kl, level, looks[row.name])
    paths = _draw_paths(axes, points, curves, looks)
    style: dict[str, Any] = {"color": FAINT, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}
    if curves:
        style |= {"color": "#b0b0b0", "drawstyle": "steps-post"}
    axes.plot(*zip(*_pareto_line(everything, curves), strict=True), **style)
    axes.margins(0.12, 0.12)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom=max(objective.low, bottom), **({} if objective.is_toxicity else {"top": min(objective.high, top)}))
    figure.draw_without_rendering()
    boxes = [box for point in points for box in _pixels(axes, *point)]
    boxes += [box for path in paths for box in boxes_along(axes, *path)]
    labels = [_label(looks, *point) for point in points]
    labels = [replace(label, text=str(i)) for i, label in enumerate(labels, 1)] if crowded else labels
    place_labels(figure, axes, labels, boxes)


def _square_root(axes: Any, farthest: float) -> None:
    """A horizontal scale of d = sqrt(KL), with ticks in nats of KL; the margin may be below 0."""
    axes.set_xscale("function", functions=(lambda kl: np.sign(kl) * np.sqrt(np.abs(kl)), lambda d: np.sign(d) * d * d))
    ticks = [d**2 for d in even_steps(math.sqrt(farthest), most=7)]
    axes.set_xticks(ticks, [f"{kl:.4g}" for kl in ticks])


def _draw_key(figure: Any, rows: Sequence[tuple[str, Row, Look]]) -> None:
    """Beside the panel, the name and mark of each number."""
    marks = [
        matplotlib.lines.Line2D([], [], color=look.colour, marker=look.marker, markerfacecolor=_face(row, look), linestyle="")
        for _, row, look in rows
    ]
    figure.legend(marks, [name for name, _, _ in rows], loc="outside right upper", frameon=False, fontsize=9)


def _draw_paths(
    axes: Any, points: Marks, curves: Mapping[str, Curves], looks: dict[str, Look]
) -> list[tuple[list[float], list[float]]]:
    """The path of each method along its budget, mean over seeds, and on to its mark: the final policy on more prompts."""
    drawn = []
    for row, kl, level in points:
        if row.name not in curves:
            continue
        look: dict[str, Any] = {"color": looks[row.name].colour, "alpha": 0.6, "zorder": 2}
        paths = curves[row.name].observed.pooled
        x, y = paths.kl.tolist(), paths.level.tolist()
        axes.plot(x, y, linewidth=0.7, linestyle=GAP, marker=".", markersize=4, **look)
        d, known = known_parts(np.sqrt(x).tolist(), y)
        axes.plot(np.square(d), known, linewidth=1.1, linestyle=looks[row.name].line, **look)
        axes.plot([x[-1], kl.value], [y[-1], level.value], linewidth=1, linestyle=":", **look)
        drawn.append((x, y))
    return drawn


def _pareto_line(points: Marks, curves: Mapping[str, Curves]) -> list[tuple[float, float]]:
    """The Pareto frontier: of all points along the budget if there are curves, else of the ends."""
    if not curves:
        ends = [(kl.value or 0.0, level.value or 0.0) for row, kl, level in points if row.pareto]
        return sorted(ends) or [(math.nan, math.nan)]
    best = pareto({row.name: curves[row.name] for row, _, _ in points if row.comparable and row.name in curves})
    return [(place.kl, place.level) for place in best] or [(math.nan, math.nan)]


def _draw_row(axes: Any, row: Row, kl: Estimate, level: Estimate, look: Look) -> None:
    colour, marker = look.colour, look.marker
    bars = {"xerr": _reach(kl), "yerr": _reach(level)}
    axes.errorbar(kl.value, level.value, **bars, fmt="none", ecolor=colour, elinewidth=1.4, alpha=0.55, zorder=2)
    axes.plot(kl.value, level.value, marker, color=colour, markerfacecolor=_face(row, look), markersize=9, zorder=4)
    for x, y in _seed_points(row):
        axes.plot(x, y, marker, color=colour, alpha=0.35, markersize=4.5, zorder=3)


def _face(row: Row, look: Look) -> str:
    """The colour inside a mark: none if the row can't be compared."""
    return look.colour if row.comparable else "white"


def _seed_points(row: Row) -> list[tuple[float, float]]:
    """KL and score of each card, if there are several."""
    points = [(value_of(card.metrics, "kl"), value_of(card.metrics, row.objective.level)) for card in row.cards]
    return [(x, y) for x, y in points if x is not None and y is not None] if len(points) > 1 else []


def _reach(e: Estimate) -> list[list[float]] | None:
    if e.value is None or e.low is None or e.high is None:
        return None
    return [[max(0.0, e.value - e.low)], [max(0.0, e.high - e.value)]]


def _label(looks: dict[str, Look], row: Row, kl: Estimate, level: Estimate) -> Label:
    return Label(name_of(row), looks[row.name].colour, (kl.value or 0.0, level.value or 0.0))


def _pixels(axes: Any, row: Row, kl: Estimate, level: Estimate) -> list[Box]:
    """Boxes on the canvas around a point's mark, its seeds' marks and its two bars."""

    def box(x0: Any, y0: Any, x1: Any, y1: Any, margin: float) -> Box:
        (left, bottom), (right, top) = axes.transData.transform([(x0, y0), (x1, y1)])
        return left - margin, bottom - margin, right + margin, top + margin

    boxes = [box(kl.value, level.value, kl.value, level.value, 9)]
    boxes += [box(x, y, x, y, 4) for x, y in _seed_points(row)]
    if kl.low is not None:
        boxes.append(box(kl.low, level.value, kl.high, level.value, 1))
    if level.low is not None:
        boxes.append(box(kl.value, level.low, kl.value, level.high, 1))
    return boxes
