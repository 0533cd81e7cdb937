"""The chart of a sweep report: the mean score and rank of each method along a setting, as an SVG."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isoalign.core.display import clean, scientific
from isoalign.core.objective import Objective
from isoalign.core.records import Estimate
from isoalign.report.board.rows import REFERENCE
from isoalign.report.charts.labels import Box, Label, boxes_along, place_labels
from isoalign.report.charts.looks import FAINT, Look, dress, looks_of, picture, shorten
from isoalign.report.sweeps.sweep_report import FLOPS, SweepReport, axis_value

_WIDE = 30.0  # ratio of the highest to the lowest axis value from which the axis is logarithmic
_NEAR = 1.5  # the base is drawn if it is below this times the highest bound of a method
_LETTER = 7.0  # pixels of a letter, roughly
_BESIDE = 0.25  # how far bars of ranks may be from their axis value; axis values are 1 apart
_LINE = 15.0  # pixels of a line of text
_LONGEST = 30  # letters of a name; longer names are cut


@dataclass(frozen=True)
class _Line:
    """A method's estimates, at the axis values where it has some; ``hollow`` ones failed a gate. ``same``: whether the same
    methods are ranked at the next point. ``last``: whether it has the last axis value."""

    name: str
    look: Look
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    hollow: list[bool]
    same: list[bool]
    last: bool


def sweep_chart(report: SweepReport) -> bytes:
    """The chart of a report, the same bytes for the same report."""
    ranked = any(len(standings) > 1 for standings in report.robustness.standings.values())
    return picture(lambda figure: _draw(figure, report), (11.0, 4.8) if ranked else (8.0, 4.8))


def _draw(figure: Any, report: SweepReport) -> None:
    looks = looks_of(list(report.rows.values()))
    drawn = [_line(report, name, looks[name], {v: report.mean(v, name) for v in report.values}) for name in report.rows]
    base = [line for line in drawn if report.rows[line.name].part == REFERENCE]
    lines = [line for line in drawn if line.x and line not in base]
    budget = [] if report.sweep.key == FLOPS else [f"{scientific(report.sweep.setting.get(FLOPS))} FLOP"]
    legend = [clean(report.sweep.task), *budget, "bands: 95% intervals"]
    legend += ["hollow: failed a gate"] if any(any(line.hollow) for line in lines) else []
    top = max(max(line.high) for line in lines)
    near = [line for line in base if line.y and (max(line.y) < _NEAR * top or not report.objective.is_toxicity)]
    legend += [f"{'dashed: ' * (line in near)}SFT base, {line.y[0]:.3f}" for line in base if line.y]
    placed = _side_by_side([line for name in report.methods if (line := _rank_line(report, name, looks[name])).x])
    figure.get_layout_engine().set(wspace=0.06)
    scores, *ranks = figure.subplots(1, 2 if placed else 1, width_ratios=(1.25, 1)[: 2 if placed else 1], squeeze=False)[0]
    dress(scores, f"{report.objective.title} along {shorten(clean(report.sweep.key), 40)}", " · ".join(legend))
    for axes in ranks:
        dress(axes, "Rank", f"1: {report.objective.superlative} · dotted: different methods ranked")
    figure.draw_without_rendering()
    _scores(scores, lines, near, top, report.objective)
    _axis(scores, report.values, report, lines)
    for axes in ranks:
        _ranks(axes, placed)
        _axis(axes, list(range(len(report.values))), report, placed, _BESIDE)
    figure.draw_without_rendering()
    for axes, own in zip((scores, *ranks), (lines, placed), strict=False):
        _names(figure, axes, own)


def _line(report: SweepReport, name: str, look: Look, estimates: Mapping[float, Estimate]) -> _Line:
    known = [(x, e.value, e) for x, e in estimates.items() if e.value is not None]
    low, high = [y if e.low is None else e.low for _, y, e in known], [y if e.high is None else e.high for _, y, e in known]
    hollow = [report.gated(x, name) for x, _, _ in known]
    x, last = [x for x, _, _ in known], report.values[-1] in [x for x, _, _ in known]
    return _Line(name, look, x, [y for _, y, _ in known], low, high, hollow, [True] * len(known), last)


def _rank_line(report: SweepReport, name: str, look: Look) -> _Line:
    """A method's ranks, at evenly spaced axis values; none where it is the only method. Ranks among different methods can't be
    compared, so ``same`` marks whether the methods are the same."""
    ranked = {value: at for value, at in report.robustness.standings.items() if len(at) > 1}
    line = _line(report, name, look, {value: at[name].rank for value, at in ranked.items() if name in at})
    order = report.values
    same = [ranked[a].keys() == ranked[b].keys() for a, b in itertools.pairwise(line.x)]
    return replace(line, x=[float(order.index(x)) for x in line.x], same=[*same, True])


def _side_by_side(lines: Sequence[_Line]) -> list[_Line]:
    """Lines shifted a little, so that bars do not cover each other."""
    apart = min(0.08, 2 * _BESIDE / max(1, len(lines)))
    return [replace(line, x=[x + apart * (i - (len(lines) - 1) / 2) for x in line.x]) for i, line in enumerate(lines)]


def _scores(axes: Any, lines: Sequence[_Line], base: Sequence[_Line], top: float, objective: Objective) -> None:
    """Draw means in their bands (with a bar for a method at one axis value), and the base."""
    axes.set_ylabel(f"Mean {objective.noun} of completions")
    for line in lines:
        if len(line.x) > 1:
            axes.fill_between(line.x, line.low, line.high, color=line.look.colour, alpha=0.09, linewidth=0, zorder=1)
        else:
            axes.vlines(line.x, line.low, line.high, color=line.look.colour, alpha=0.5, linewidth=1.4, zorder=2)
        _marks(axes, line)
    for line in base:
        dashed: dict[str, Any] = {"color": FAINT, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}
        axes.plot(line.x, line.y, **dashed, marker="p", markersize=4)
    if objective.is_toxicity:  # others have no common zero
        axes.set_ylim(0, 1.08 * max([top, *(max(line.y) for line in base)]) or 1)


def _ranks(axes: Any, lines: Sequence[_Line]) -> None:
    """Draw ranks with their intervals, the best on top."""
    axes.set_ylabel("Rank of the mean")
    for line in lines:
        axes.vlines(line.x, line.low, line.high, color=line.look.colour, alpha=0.45, linewidth=1.6, zorder=2)
        _marks(axes, line)
    most = max([1, *(round(max(line.high)) for line in lines)])
    axes.set_yticks(range(1, most + 1))
    axes.set_ylim(most + 0.5, 0.5)


def _marks(axes: Any, line: _Line) -> None:
    colour = line.look.colour
    points = list(zip(line.x, line.y, line.same, line.hollow, strict=True))
    for (x0, y0, same, _), (x1, y1, _, _) in itertools.pairwise(points):
        style: dict[str, Any] = {"linewidth": 1.8, "linestyle": line.look.line}
        style = style if same else {"linewidth": 1.2, "linestyle": (0, (1, 2.5)), "alpha": 0.8}
        axes.plot([x0, x1], [y0, y1], color=colour, zorder=3, **style)
    for x, y, _, hollow in points:
        face = "white" if hollow else colour
        axes.plot(x, y, line.look.marker, color=colour, markerfacecolor=face, markersize=6.5, zorder=4)


def _axis(axes: Any, at: Sequence[float], report: SweepReport, lines: Sequence[_Line], beside: float = 0.0) -> None:
    """Set the axis values, drawn ``at``, labelled where there is room; with room on the right for the names of lines that end
    there."""
    axes.set_xlabel(clean(report.sweep.key))
    width = axes.get_window_extent().width
    longest = max([4, *(min(_LONGEST, len(clean(line.name))) for line in lines if line.last)])
    left, room = 0.07 + beside / (at[-1] - at[0]), min(0.45, (longest * _LETTER + 24) / width)
    right = left - 0.07 + room * (2 * left + 0.93) / (1 - room)
    if at[0] > 0 and at[-1] >= _WIDE * at[0]:
        axes.set_xscale("log")
        axes.set_xlim(at[0] / (at[-1] / at[0]) ** left, at[-1] * (at[-1] / at[0]) ** right)
    else:
        axes.set_xlim(at[0] - left * (at[-1] - at[0]), at[-1] + right * (at[-1] - at[0]))
    places = axes.transData.transform([(x, 1.0) for x in at])[:, 0].tolist()
    ticks, last = [], float("-inf")
    for value, x in zip(report.values, places, strict=True):
        roomy = x - last > 8 * len(axis_value(value)) + 6
        ticks.append(axis_value(value) if roomy else "")
        last = x if roomy else last
    axes.set_xticks(at, ticks)
    axes.minorticks_off()


def _names(figure: Any, axes: Any, lines: Sequence[_Line]) -> None:
    """Write each method's name: at the right of lines that reach the last axis value, else where nothing is covered."""
    boxes: list[Box] = []
    for line in lines:
        boxes += boxes_along(axes, line.x, line.y)
        boxes += [(x - 7, y - 7, x + 7, y + 7) for x, y in axes.transData.transform(list(zip(line.x, line.y, strict=True)))]
    labels = [Label(shorten(clean(line.name), _LONGEST), line.look.colour, (line.x[-1], line.y[-1])) for line in lines]
    ends = [label for label, line in zip(labels, lines, strict=True) if line.last]
    places = [(float(x), float(y)) for x, y in axes.transData.transform([label.at for label in ends])] if ends else []
    point, right = 72 / figure.dpi, max([0.0, *(x for x, _ in places)])  # offsets are in points
    for label, (x, y), height in zip(ends, places, _spread([y for _, y in places]), strict=True):
        beside: dict[str, Any] = {"xytext": ((right + 15 - x) * point, (height - y) * point), "textcoords": "offset points"}
        arrow = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 5}
        beside |= {"arrowprops": arrow} if abs(height - y) > 6 else {}
        axes.annotate(label.text, label.at, color=label.colour, va="center", zorder=6, **beside)
    place_labels(figure, axes, [label for label in labels if label not in ends], boxes)


def _spread(at: Sequence[float]) -> list[float]:
    """Heights in pixels near those given, in the same order, a line of text apart."""
    order = sorted(range(len(at)), key=lambda i: (at[i], i))
    spread = [at[i] for i in order]
    for _ in range(200):
        for i in range(len(spread) - 1):
            lack = _LINE - (spread[i + 1] - spread[i])
            if lack > 0:
                spread[i], spread[i + 1] = spread[i] - lack / 2, spread[i + 1] + lack / 2
    heights = dict(zip(order, spread, strict=True))
    return [heights[i] for i in range(len(at))]
