"""Gold score and proxy along the budget against KL, as an SVG. Where one falls while the other rises, they diverge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from isoalign.core.lazy import matplotlib
from isoalign.report.board.rows import CONTROL, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.labels import Label, boxes_along, place_labels
from isoalign.report.charts.looks import (
    CROWD,
    FAINT,
    GAP,
    INK,
    MOST,
    OTHERS,
    Look,
    cut_name,
    dress,
    even_steps,
    known_parts,
    looks_of,
    name_of,
    picture,
    setting,
)
from isoalign.stats import Array
from isoalign.stats.curves import Curves, Paths, bands
from isoalign.stats.overoptimization import find_peak, peak_warnings

KL_LABEL = "Exact KL from the base, nats per completion (square-root scale)"


def curves_chart_name(number: int) -> str:
    """The file name of a section's chart of curves."""
    return "curves.svg" if number == 1 else f"curves-{number}.svg"


def curves_chart(task: str, section: Section, kind: str = "svg") -> bytes | None:
    """The chart of a section's curves, the same bytes for the same section; None if no card has a curve."""
    curves = section.curves
    if not curves:
        return None
    looks = looks_of(list(section.rows))  # of all rows, so that a method looks the same in every chart
    rows = sorted(section.rows, key=lambda row: row.part == CONTROL)  # each method has a panel before the draws of drift
    lines = [_Line(row, curves[row.name], looks[row.name]) for row in rows if row.name in curves]
    scored = [line for line in lines if line.curves.observed.proxy is not None]
    if len(lines) > CROWD:
        subtitle = f"{setting(task, section)} · {_legend(lines[:MOST])}"
        subtitle += f" · the first {MOST} of {len(lines)} rows" if len(lines) > MOST else ""
        size = (11.5, 1.6 + 1.6 * math.ceil(min(len(lines), MOST) / PER_ROW))
        return picture(lambda figure: _multiples(figure, lines, subtitle), size, kind)

    def draw(figure: Any) -> None:
        figure.get_layout_engine().set(wspace=0.05)
        panels = figure.subplots(1, 2 if scored else 1, sharex=True, squeeze=False)[0]
        dress(panels[0], f"Gold: {section.objective.better}", f"{setting(task, section)} · {_legend(lines)}")
        _panel(panels[0], lines, lambda paths: paths.gold, section.objective.gain_axis)
        if scored:
            dress(panels[1], "Proxy: the reward model's score", "")
            _panel(panels[1], scored, lambda paths: paths.rise, "Mean reward minus the base's")
        _kl_axis(panels, math.sqrt(max(float(line.curves.observed.kl.max()) for line in lines)))
        figure.draw_without_rendering()
        _names(figure, panels[0], lines, lambda paths: paths.gold)
        if scored:
            _names(figure, panels[1], scored, lambda paths: paths.rise)

    return picture(draw, (11.0, 4.8) if scored else (8.0, 4.8), kind)


@dataclass(frozen=True)
class _Line:
    """A method's curves and look."""

    row: Row
    curves: Curves
    look: Look

    def at(self, metric: Callable[[Paths], Array]) -> tuple[list[float], list[float]]:
        """sqrt(KL) and score of the mean curve."""
        paths = self.curves.observed.pooled
        return [math.sqrt(kl) for kl in paths.kl.tolist()], metric(paths).tolist()

    @cached_property
    def passed(self) -> int | None:
        """The index of the best point, if its loss by going on is significant."""
        peak = find_peak(self.curves)
        return peak.index if peak.measured and peak_warnings(self.curves) else None


PER_ROW = 6  # panels beside each other


def _multiples(figure: Any, lines: list[_Line], subtitle: str) -> None:
    """A small panel for each of the first methods: its gain in its colour, those of all others in grey, and its proxy, thin
    and dark, by the axis on the right, with both zeros at one height."""
    figure.set_layout_engine("none")  # laid out by hand: matplotlib needs seconds for a hundred axes
    width, height = figure.get_size_inches()
    edges = {"left": 0.75 / width, "right": 1 - 0.55 / width, "bottom": 0.65 / height, "top": 1 - 1.15 / height}
    everyone, lines = lines, lines[:MOST]
    grid = figure.add_gridspec(math.ceil(len(lines) / PER_ROW), PER_ROW, wspace=0.08, hspace=0.32, **edges)
    panels = [figure.add_subplot(grid[divmod(place, PER_ROW)]) for place in range(len(lines))]
    figure.text(
        0.01, 1 - 0.12 / height, "Gold and proxy along the budget, against KL", va="top", fontsize=13, fontweight="bold"
    )
    text = f"{subtitle}\ngrey: the others · thin, on the right: the reward model's score minus the base's"
    figure.text(0.01, 1 - 0.4 / height, text, va="top", color=FAINT, fontsize=9)
    others = [list(zip(*line.at(lambda paths: paths.gold), strict=True)) for line in everyone]
    panels[0].update_datalim([point for path in others for point in path])
    for place, (axes, line) in enumerate(zip(panels, lines, strict=True)):
        _curve(axes, line, lambda paths: paths.gold)
        axes.set_title(cut_name(line.row, 22), loc="left", fontsize=9, color=line.look.colour)
        axes.tick_params(labelsize=8, labelbottom=place + PER_ROW >= len(lines), labelleft=place % PER_ROW == 0)
    _proxies(panels, lines)
    _kl_axis(panels, math.sqrt(max(float(line.curves.observed.kl.max()) for line in everyone)), "", most=4)
    _behind(figure, panels, others)
    figure.supxlabel(KL_LABEL, fontsize=10, y=0.12 / height)
    figure.supylabel(lines[0].row.objective.gain_axis, fontsize=10, x=0.12 / width)


def _behind(figure: Any, panels: list[Any], paths: list[list[tuple[float, float]]]) -> None:
    """Draw the same paths, grey, behind each of some panels of one size and scale: once in the file, in inches, and placed."""
    first = panels[0]
    inches = figure.dpi_scale_trans
    corners = [inches.inverted().transform(axes.bbox.p0) for axes in panels]
    points = inches.inverted().transform(first.transData.transform([point for path in paths for point in path])) - corners[0]
    starts = [place == 0 for path in paths for place in range(len(path))]
    codes = [matplotlib.path.Path.MOVETO if start else matplotlib.path.Path.LINETO for start in starts]
    grey = matplotlib.collections.PathCollection(
        [matplotlib.path.Path(points, codes)], offsets=corners, offset_transform=inches, transform=inches,
        facecolors="none", edgecolors=OTHERS, linewidths=0.8, zorder=-1,
    )  # fmt: skip
    figure.add_artist(grey)


def _proxies(panels: list[Any], lines: list[_Line]) -> None:
    """Give the panels one range of heights, and draw each line's proxy in a range of its own with zero at the same height. An
    axis for each would take longer than all else: its numbers are at the right edge alone."""
    scored = [(axes, line) for axes, line in zip(panels, lines, strict=True) if line.curves.observed.proxy is not None]
    proxies = [(axes, *line.at(lambda paths: paths.rise)) for axes, line in scored]
    rises = [rise for _, _, rise in proxies] or [[0.0, 1.0]]
    (low, top), (proxy_low, proxy_top) = _range([axes.get_ylim() for axes in panels]), _range(rises, margin=0.05)
    below = max(-low / top, -proxy_low / proxy_top)
    for axes in panels:
        axes.set_ylim(-below * top, top)
    for axes, d, rise in proxies:
        axes.plot(d, [y * top / proxy_top for y in rise], color=INK, linewidth=0.9, zorder=2)
    for axes in panels[PER_ROW - 1 :: PER_ROW]:
        right = axes.twinx()
        right.set_ylim(-below * proxy_top, proxy_top)
        right.tick_params(labelsize=8, right=False)
        right.spines[:].set_visible(False)


def _range(heights: Sequence[Sequence[float]], margin: float = 0.0) -> tuple[float, float]:
    """The least and the greatest of heights, with 0 between them."""
    low, high = (1 + margin) * min(map(min, heights)), (1 + margin) * max(map(max, heights))
    return min(0.0, low), max(1e-3, high)


def _legend(lines: list[_Line]) -> str:
    entries = ["dots: along the budget, dotted where they are too far apart to read", "bands: 95%"]
    entries += ["faint: seeds"] if any(line.curves.seeds > 1 for line in lines) else []
    entries += ["ring: best point, passed"] if any(line.passed is not None for line in lines) else []
    return " · ".join(entries)


def _panel(axes: Any, lines: list[_Line], metric: Callable[[Paths], Array], label: str) -> None:
    """Draw one score of every method against KL."""
    axes.set_ylabel(label)
    for line in lines:
        _curve(axes, line, metric)


def _curve(axes: Any, line: _Line, metric: Callable[[Paths], Array]) -> None:
    """Draw a score of a method against KL: seeds, band, mean, and a mark at the end of the budget."""
    colour, observed, (d, score) = line.look.colour, line.curves.observed, line.at(metric)
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    within = bands(line.curves, metric)
    if within is not None:
        axes.fill_between(d, *within, color=colour, alpha=0.09, linewidth=0, zorder=1)
    if line.curves.seeds > 1:
        for kl, one in zip(observed.kl, metric(observed), strict=True):
            axes.plot([math.sqrt(x) for x in kl], one, color=colour, linewidth=0.8, alpha=0.3, zorder=2)
    axes.plot(d, score, color=colour, linewidth=0.8, linestyle=GAP, marker=".", markersize=5, zorder=3)
    axes.plot(*known_parts(d, score), color=colour, linewidth=2, linestyle=line.look.line, zorder=3)
    face = "white" if line.row.gated else colour
    axes.plot(d[-1], score[-1], line.look.marker, color=colour, markerfacecolor=face, markersize=8, zorder=4)
    if line.passed is not None:
        ring = {"markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot(d[line.passed], score[line.passed], "o", color=colour, zorder=5, **ring)


def _kl_axis(panels: Any, farthest: float, label: str = KL_LABEL, most: int = 7) -> None:
    """Even steps of d = sqrt(KL), labelled in nats of KL."""
    ticks = even_steps(farthest, most)
    for axes in panels:
        axes.set_xticks(ticks, [f"{d**2:.4g}" for d in ticks])
        axes.set_xlim(-0.04 * farthest, 1.14 * farthest)
        axes.set_xlabel(label)


def _names(figure: Any, axes: Any, lines: list[_Line], metric: Callable[[Paths], Array]) -> None:
    """Write each method's name at the end of its curve, clear of all curves and marks."""
    boxes, labels = [], []
    for line in lines:
        d, score = line.at(metric)
        marked = [-1] if line.passed is None else [-1, line.passed]
        marks = axes.transData.transform([(d[i], score[i]) for i in marked])
        boxes += [*boxes_along(axes, d, score), *((x - 10, y - 10, x + 10, y + 10) for x, y in marks)]
        labels.append(Label(name_of(line.row), line.look.colour, (d[-1], score[-1])))
    place_labels(figure, axes, labels, boxes)
