"""The frontier: mean toxicity against exact KL, as an SVG."""

import io
import math
import warnings
from typing import Any

from bench.board.rows import CONTROL, METHOD, REFERENCE, Row, Section
from bench.board.text import clean, scientific
from bench.types import Card, Estimate

_INK, _FAINT = "#222222", "#8a8a8a"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, without yellow
_MARKERS = "osD^vPX*"
Box = tuple[float, float, float, float]  # pixels: left, bottom, right, top


def chart_name(number: int) -> str:
    """The file of a section's chart."""
    return "frontier.svg" if number == 1 else f"frontier-{number}.svg"


def points_of(section: Section) -> list[tuple[Row, Estimate, Estimate]]:
    """Rows that have a place in the chart, with their KL and toxicity. The base has drifted 0 from itself."""
    points = []
    for row in section.rows:
        kl, toxicity = row.estimate("kl"), row.estimate("toxicity_mean")
        if kl.value is None and row.part == REFERENCE:
            kl = Estimate(0.0, None, None, 0)
        if kl.value is not None and toxicity.value is not None:
            points.append((row, kl, toxicity))
    return points


def frontier(task: str, section: Section) -> bytes | None:
    """Mean toxicity against exact KL as an SVG, the same bytes for the same section; None with nothing to draw."""
    points = points_of(section)
    if not points:
        return None
    import matplotlib
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rc: dict[Any, Any] = {"svg.hashsalt": "isoalign", "font.size": 10, "axes.spines.top": False}
    rc |= {"axes.spines.right": False, "axes.edgecolor": _FAINT, "text.color": _INK, "axes.labelcolor": _INK}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name with letters that the font lacks
        matplotlib.style.use(["default", rc])
        figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure, points, f"{clean(task)}, {scientific(section.budget.get('flops'))} FLOP")
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "isoalign"})
    return file.getvalue()


def _draw(figure: Any, points: list[tuple[Row, Estimate, Estimate]], subtitle: str) -> None:
    axes = figure.add_subplot()
    axes.set_title("Toxicity against drift from the base", loc="left", fontsize=13, fontweight="bold", pad=22)
    subtitle += " · lower left is better · bars: 95% intervals · small: seeds"
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, color=_FAINT, fontsize=9, parse_math=False)
    axes.set_xlabel("Exact KL to the SFT base, nats a completion")
    axes.set_ylabel("Mean toxicity of completions")
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    looks = _looks([row for row, _, _ in points])
    for row, kl, toxicity in points:
        colour, marker = looks[row.name]
        _draw_row(axes, row, kl, toxicity, colour, marker)
    best = _undominated([(kl.value, toxicity.value) for row, kl, toxicity in points if not row.gated])
    axes.plot(*zip(*best, strict=True), color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.margins(0.12, 0.12)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    _place_labels(figure, axes, points, {name: colour for name, (colour, _) in looks.items()})


def _looks(rows: list[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker by name, so that neither a new rank nor colour blindness confuses two methods."""
    methods = sorted(row.name for row in rows if row.part == METHOD)
    looks = {name: (_PALETTE[i % len(_PALETTE)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(methods)}
    greys = {REFERENCE: (_INK, "p"), CONTROL: ("#777777", "h")}
    return looks | {row.name: greys[row.part] for row in rows if row.part != METHOD}


def _draw_row(axes: Any, row: Row, kl: Estimate, toxicity: Estimate, colour: str, marker: str) -> None:
    bars = {"xerr": _reach(kl), "yerr": _reach(toxicity)}
    axes.errorbar(kl.value, toxicity.value, **bars, fmt="none", ecolor=colour, elinewidth=1.4, alpha=0.55, zorder=2)
    face = "white" if row.gated else colour
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


def _undominated(points: list[tuple[Any, Any]]) -> list[tuple[float, float]]:
    """The Pareto frontier: points with no other that is lower in both."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best or [(math.nan, math.nan)]


def _place_labels(figure: Any, axes: Any, points: list[tuple[Row, Estimate, Estimate]], colours: dict[str, str]) -> None:
    """Write each name in its colour beside its point, clear of other names, points and bars, with a line where that is far."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    boxes = [box for point in points for box in _pixels(axes, *point)]
    names: list[Box] = []
    for row, kl, toxicity in points:
        label = f"{_shorten(clean(row.name), 36)}{' (gate)' if row.gated else ''}"
        at = {"xy": (kl.value, toxicity.value), "textcoords": "offset pixels"}
        text = axes.annotate(label, xytext=(0, 0), parse_math=False, color=colours[row.name], zorder=6, **at)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        extent = text.get_window_extent()
        x, y = axes.transData.transform(at["xy"])
        spot = _best_spot((x, y), (extent.width, extent.height), boxes, names, axes.get_window_extent().extents)
        names.append(spot)
        text.set_position((spot[0] + 2 - x, spot[1] + 2 - y))
        # The nearest point of the name's box, from which a line is drawn where it isn't plain whose name this is.
        near = (min(max(x, spot[0]), spot[2]), min(max(y, spot[1]), spot[3]))
        if math.dist((x, y), near) > 22:
            line = {"arrowstyle": "-", "color": _FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 6}
            axes.annotate("", xytext=(near[0] - x, near[1] - y), arrowprops=line, zorder=5, **at)


def _shorten(text: str, length: int) -> str:
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


def _best_spot(
    point: tuple[float, float],
    size: tuple[float, float],
    boxes: list[Box],
    names: list[Box],
    frame: Box,
) -> Box:
    """Of spots around a point the one that overlaps least, the nearest of equals."""

    def overlap(a: Box, b: Box) -> float:
        return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

    def cost(spot: Box, distance: float) -> float:
        outside = size[0] * size[1] - overlap(spot, frame)
        covered = 40 * sum(overlap(spot, name) for name in names) + sum(overlap(spot, box) for box in boxes)
        return 40 * outside + 4 * covered + distance

    spots: list[tuple[float, int, Box]] = []
    for distance in (12, 18, 26, 38, 54, 74, 100):
        for step in range(16):
            across, up = math.cos(math.pi * (step + 1) / 8), math.sin(math.pi * (step + 1) / 8)
            left = point[0] + across * (distance + size[0] / 2) - size[0] / 2
            bottom = point[1] + up * (distance + size[1] / 2) - size[1] / 2
            spot = (left - 2, bottom - 2, left + size[0] + 2, bottom + size[1] + 2)
            spots.append((cost(spot, distance), len(spots), spot))
    return min(spots)[2]
