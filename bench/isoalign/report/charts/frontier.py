"""The frontier: mean toxicity against exact KL, as an SVG; and what all charts share: their looks."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isoalign.core.display import clean, scientific
from isoalign.core.lazy import matplotlib
from isoalign.core.records import Card, Estimate
from isoalign.report.board.rows import CONTROL, METHOD, REFERENCE, UNMETERED, Row, Section
from isoalign.report.charts.labels import FAINT, Box, Label, along, place_labels
from isoalign.stats.curves import Curves, collect, pareto

_INK = "#222222"
_GRID = "#ececec"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, without yellow
_MARKERS = "osD^vPX*"
_LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
CROWD = 10  # more rows than these can't be told by colour, nor named beside their marks


def chart_name(number: int) -> str:
    """The file of a section's chart."""
    return "frontier.svg" if number == 1 else f"frontier-{number}.svg"


def points_of(section: Section) -> list[tuple[Row, Estimate, Estimate]]:
    """Rows that have a place in the chart, with their KL and toxicity. The base has drifted 0 from itself."""
    points = []
    for row in section.rows:
        kl, toxicity = row.drift, row.estimate("toxicity_mean")
        if kl.value is not None and toxicity.value is not None:
            points.append((row, kl, toxicity))
    return points


def curves_of(section: Section) -> dict[str, Curves]:
    """The curves along the budget of the rows that have any, by name; the reference is where they all begin."""
    rows = [row for row in section.rows if row.part != REFERENCE]
    if not any(card.curve for row in rows for card in row.cards):
        return {}
    return collect({row.name: row.cards for row in rows})


def frontier(task: str, section: Section) -> bytes | None:
    """Mean toxicity against exact KL as an SVG, the same bytes for the same section; None with nothing to draw.

    Where cards have curves, with each method's way there and the Pareto frontier of all points along the budget. In a crowd,
    where lines would hide the marks (`curve_chart` has a panel for each), of the ends alone, on a scale with room for small
    drifts.
    """
    points = points_of(section)
    if not points:
        return None
    if len(points) > CROWD:
        size = (11.5, max(6.2, 0.4 + 0.21 * len(points)))
        return picture(lambda figure: _draw(figure, points, {}, setting(task, section)), size)
    return picture(lambda figure: _draw(figure, points, curves_of(section), setting(task, section)), (8, 5))


def setting(task: str, section: Section) -> str:
    """What a chart is of, in its subtitle."""
    return f"{clean(task)}, {scientific(section.budget.get('flops'))} FLOP"


def picture(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    """An SVG of what ``draw`` puts on a figure of a size in inches; the same bytes for the same drawing."""
    rc: dict[Any, Any] = {"svg.hashsalt": "isoalign", "font.size": 10, "axes.spines.top": False}
    rc |= {"axes.spines.right": False, "axes.edgecolor": FAINT, "text.color": _INK, "axes.labelcolor": _INK}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name with letters that the font lacks
        matplotlib.style.use(["default", rc])
        figure = matplotlib.figure.Figure(figsize=size, dpi=100, layout="constrained")
        matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "isoalign"})
    return file.getvalue()


def dress(axes: Any, title: str, subtitle: str) -> None:
    """Title, what is to know under it, and a grid behind the data."""
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=22)
    told = axes.text(0, 1.025, subtitle, transform=axes.transAxes, color=FAINT, fontsize=9, parse_math=False)
    told.set_in_layout(False)  # it may run on above the next panel
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw(figure: Any, points: list[tuple[Row, Estimate, Estimate]], curves: dict[str, Curves], subtitle: str) -> None:
    axes, crowded = figure.add_subplot(), len(points) > CROWD
    if curves:
        subtitle += " · bars: 95% · small: seeds · lines: along the budget · dashed: Pareto frontier"
    else:
        subtitle += " · lower left is better · bars: 95% intervals · small: seeds · dashed: Pareto frontier"
    dress(axes, "Toxicity against drift from the base", subtitle)
    axes.set_xlabel("Exact KL to the SFT base, nats a completion" + (" (square-root scale)" if crowded else ""))
    axes.set_ylabel("Mean toxicity of completions")
    looks = looks_of([row for row, _, _ in points])
    if crowded:
        _square_root(axes, max(kl.high or kl.value or 0.0 for _, kl, _ in points))
        _key(figure, [(f"{i}  {name_of(row)}", row, looks[row.name]) for i, (row, _, _) in enumerate(points, 1)])
    for row, kl, toxicity in points:
        _draw_row(axes, row, kl, toxicity, looks[row.name])
    ways = _draw_ways(axes, points, curves, looks)
    reached: dict[str, Any] = {"color": FAINT, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}
    if curves:
        reached |= {"color": "#b0b0b0", "drawstyle": "steps-post"}
    axes.plot(*zip(*_reached(points, curves), strict=True), **reached)
    axes.margins(0.12, 0.12)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    figure.draw_without_rendering()
    boxes = [box for point in points for box in _pixels(axes, *point)] + [box for way in ways for box in along(axes, *way)]
    labels = [_label(looks, *point) for point in points]
    labels = [replace(label, text=str(i)) for i, label in enumerate(labels, 1)] if crowded else labels
    place_labels(figure, axes, labels, boxes)


def even_steps(farthest: float, most: int) -> list[float]:
    """At most ``most`` round steps of d = sqrt(KL) from 0 to a little past ``farthest``: along d gains are about straight."""
    steps = (digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5))
    step = next((step for step in steps if farthest <= most * step), 1e4)
    return [i * step for i in range(int(1.1 * farthest / step) + 1)]


def _square_root(axes: Any, farthest: float) -> None:
    """A scale of d = sqrt(KL) across, told in nats of KL; a margin may lie below 0."""
    axes.set_xscale("function", functions=(lambda kl: np.sign(kl) * np.sqrt(np.abs(kl)), lambda d: np.sign(d) * d * d))
    ticks = [d**2 for d in even_steps(math.sqrt(farthest), most=7)]
    axes.set_xticks(ticks, [f"{kl:.4g}" for kl in ticks])


def _key(figure: Any, rows: Sequence[tuple[str, Row, Look]]) -> None:
    """Beside the panel, the name and mark of each number in it."""
    marks = [
        matplotlib.lines.Line2D(
            [], [], color=look.colour, marker=look.marker, markerfacecolor=look.colour if row.sound else "white", linestyle=""
        )
        for _, row, look in rows
    ]
    key = figure.legend(marks, [name for name, _, _ in rows], loc="outside right upper", frameon=False, fontsize=9)
    for text in key.get_texts():
        text.set_parse_math(False)


def _draw_ways(
    axes: Any, points: list[tuple[Row, Estimate, Estimate]], curves: dict[str, Curves], looks: dict[str, Look]
) -> list[tuple[list[float], list[float]]]:
    """The way of each method along its budget, mean over seeds, and on to its mark: the same policy on more prompts."""
    ways = []
    for row, kl, toxicity in points:
        if row.name not in curves:
            continue
        look: dict[str, Any] = {"color": looks[row.name].colour, "alpha": 0.6, "zorder": 2}
        paths = curves[row.name].observed.pooled
        x, y = paths.kl.tolist(), paths.toxicity.tolist()
        axes.plot(x, y, linewidth=1.1, linestyle=looks[row.name].line, marker=".", markersize=4, **look)
        axes.plot([x[-1], kl.value], [y[-1], toxicity.value], linewidth=1, linestyle=":", **look)
        ways.append((x, y))
    return ways


def _reached(points: list[tuple[Row, Estimate, Estimate]], curves: dict[str, Curves]) -> list[tuple[float, float]]:
    """The Pareto frontier: of all points along the budget where there are curves, else of where the methods end."""
    if not curves:
        ends = [(kl.value or 0.0, toxicity.value or 0.0) for row, kl, toxicity in points if row.pareto]
        return sorted(ends) or [(math.nan, math.nan)]
    best = pareto({row.name: curves[row.name] for row, _, _ in points if row.sound and row.name in curves})
    return [(place.kl, place.toxicity) for place in best] or [(math.nan, math.nan)]


@dataclass(frozen=True)
class Look:
    """How a row is drawn: colour, marker, and the style of its lines."""

    colour: str
    marker: str
    line: Any = "-"


def looks_of(rows: list[Row]) -> dict[str, Look]:
    """Looks by name, so that neither a new rank nor colour blindness confuses two methods. Colours begin again after six."""
    methods = sorted(row.name for row in rows if row.part in (METHOD, UNMETERED))
    looks = {REFERENCE: Look(_INK, "p"), CONTROL: Look("#777777", "h")}
    own = {
        name: Look(_PALETTE[i % 6], _MARKERS[(i + i // 24) % 8], _LINES[i // 6 % 3]) for i, name in enumerate(methods)
    }  # 48 different ones
    return own | {row.name: looks[row.part] for row in rows if row.part in looks}


def _draw_row(axes: Any, row: Row, kl: Estimate, toxicity: Estimate, look: Look) -> None:
    colour, marker = look.colour, look.marker
    bars = {"xerr": _reach(kl), "yerr": _reach(toxicity)}
    axes.errorbar(kl.value, toxicity.value, **bars, fmt="none", ecolor=colour, elinewidth=1.4, alpha=0.55, zorder=2)
    face = colour if row.sound else "white"
    axes.plot(kl.value, toxicity.value, marker, color=colour, markerfacecolor=face, markersize=9, zorder=4)
    for x, y in _seed_points(row):
        axes.plot(x, y, marker, color=colour, alpha=0.35, markersize=4.5, zorder=3)


def _seed_points(row: Row) -> list[tuple[float, float]]:
    """KL and toxicity of each card, where there are several."""
    points = [(_at(card, "kl"), _at(card, "toxicity_mean")) for card in row.cards]
    return [(x, y) for x, y in points if x is not None and y is not None] if len(points) > 1 else []


def _at(card: Card, metric: str) -> float | None:
    return card.metrics[metric].value if metric in card.metrics else None


def _reach(e: Estimate) -> list[list[float]] | None:
    if e.value is None or e.low is None or e.high is None:
        return None
    return [[max(0.0, e.value - e.low)], [max(0.0, e.high - e.value)]]


def name_of(row: Row) -> str:
    """A row's name as charts write it, with what keeps it from being compared."""
    why = "" if row.sound else " (gate)" if row.gated else " (unmetered)" if row.part == UNMETERED else " (outdated)"
    return shorten(clean(row.name), 36) + why


def _label(looks: dict[str, Look], row: Row, kl: Estimate, toxicity: Estimate) -> Label:
    return Label(name_of(row), looks[row.name].colour, (kl.value or 0.0, toxicity.value or 0.0))


def shorten(text: str, length: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _pixels(axes: Any, row: Row, kl: Estimate, toxicity: Estimate) -> list[Box]:
    """Boxes on the canvas of a point's mark, its seeds' marks and its two bars."""

    def box(x0: Any, y0: Any, x1: Any, y1: Any, margin: float) -> Box:
        (left, bottom), (right, top) = axes.transData.transform([(x0, y0), (x1, y1)])
        return left - margin, bottom - margin, right + margin, top + margin

    boxes = [box(kl.value, toxicity.value, kl.value, toxicity.value, 9)]
    boxes += [box(x, y, x, y, 4) for x, y in _seed_points(row)]
    if kl.low is not None:
        boxes.append(box(kl.low, toxicity.value, kl.high, toxicity.value, 1))
    if toxicity.low is not None:
        boxes.append(box(kl.value, toxicity.low, kl.value, toxicity.high, 1))
    return boxes
