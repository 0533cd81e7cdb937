"""The picture of a board: gains at equal KL as a forest plot, beside the frontier of gain against KL."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection
from typing import Any

import numpy as np

from isoalign.core.lazy import matplotlib
from isoalign.report.board.rows import DRIFT, METHOD, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import compared_at, headline, in_nats, unmeasured_sentence
from isoalign.report.charts.forest import MOST, TWIN, Line, draw_forest, lines_of
from isoalign.report.charts.labels import Box, Label, boxes_along, place_labels
from isoalign.report.charts.looks import (
    FAINT,
    GRID,
    HUES,
    INK,
    PAPER,
    SHAPES,
    even_steps,
    family_of,
    name_of,
    picture,
    setting,
    shorten,
)
from isoalign.stats.drift import Draws, drift_at
from isoalign.stats.frontier import pareto

WIDTH, LINE, TOP, BOTTOM, HEIGHT = 830, 17, 102, 62, 330  # pixels: of the picture, a line, the title, an axis, the frontier
FEW = 10  # rows that all have a name beside their mark
WORDS = {
    "pairs": "pairs of answers", "unpaired": "single answers", "reward": "a reward model", "judge": "an AI judge",
    "distillation": "a teacher", "none": "no feedback on answers", "other": "another package's method",
}  # fmt: skip
FRONTIER: dict[str, Any] = {"color": INK, "linewidth": 1.6, "drawstyle": "steps-post"}
Ends = list[tuple[Row, float, float]]  # rows with KL and gain at the end of the budget


def frontier_chart_name(number: int) -> str:
    """The file name of a section's chart."""
    return "frontier.svg" if number == 1 else f"frontier-{number}.svg"


def frontier_points(section: Section) -> Ends:
    """The rows that are shown in the frontier, with KL and gain at the end of their budget: those of the curves, where all
    rows are on the same prompts, else those of the ranking."""
    ends = []
    for row in section.rows:
        kl, gain = row.kl.value, row.estimate(row.objective.gain).value
        if row.name in section.curves:
            paths = section.curves[row.name].observed.pooled
            kl, gain = float(paths.kl[-1]), float(paths.gold[-1])
        if kl is not None and gain is not None:
            ends.append((row, kl, gain))
    return ends


def frontier_chart(task: str, section: Section, kind: str = "svg", only: Collection[str] = ()) -> bytes | None:
    """Gains at equal KL beside the frontier, the same bytes for the same section; None without a row that has KL and gain.
    ``only``: names of rows, if not all are shown; ranks, the title and the frontier of all rows stay what they are.

    The title says what ranks say. Where too few rows are measured at any KL of the grid, gains are those at the end of the
    budget.
    """
    ends = frontier_points(section)
    if not ends:
        return None
    at = compared_at(section)
    every = lines_of(section, at)
    lines = [line for line in every if not only or any(row.name in only for row, _ in line.rows)][:MOST]
    shown = [end for end in ends if not only or end[0].name in only or end[0].algorithm in DRIFT]
    families = [name for name in WORDS if any(family_of(row) == name for line in lines for row, _ in line.rows)]
    places = len(lines) + (0 < sum(line.gain is None for line in lines) < len(lines))
    tall = max(LINE * places, min(HEIGHT, 28 * places))
    height = TOP + BOTTOM + max(tall, HEIGHT + LINE * (len(families) + 3))

    said = (setting(task, section), unmeasured_sentence(section, at), section.drift.sentence(section.rows))

    def draw(figure: Any) -> None:
        figure.set_layout_engine("none")
        _titles(figure, height, headline(section), " · ".join(filter(None, said)))
        longest = max(len(name_of(line.rows[0][0], 24)) for line in lines) if lines else 0
        left = max(22 + 6.6 * longest, 164)
        forest = _panel(figure, height, left, 450 - left, tall)
        draw_forest(forest, section, lines, at)
        forest.set_xlabel(_gain_label(section, at, len(every) - len(lines)), fontsize=9, loc="left")
        axes = _panel(figure, height, 522, WIDTH - 522 - 14, HEIGHT)
        _key(figure, height, families, lines, section)
        _frontier(figure, axes, section, shown, frontier_line(section, ends))

    return picture(draw, (WIDTH / 96, height / 96), kind)


def _panel(figure: Any, height: float, left: float, width: float, tall: float) -> Any:
    """Axes at a place in pixels, below the title."""
    return figure.add_axes((left / WIDTH, 1 - (TOP + tall) / height, width / WIDTH, tall / height))


def _titles(figure: Any, height: float, title: str, subtitle: str) -> None:
    lines = textwrap.wrap(title, 88)
    if len(lines) > 2:  # the area is on the board as well
        lines = textwrap.wrap(title.partition(". By the area")[0], 88)[:2]
    figure.text(12 / WIDTH, 1 - 12 / height, "\n".join(lines), va="top", fontsize=11.5, fontweight="bold")
    below = 34 if len(lines) == 1 else 52
    first, *rest = textwrap.wrap(subtitle, 120) or [""]
    said = "\n".join([first, *([shorten(" ".join(rest), 120)] if rest else [])])
    figure.text(12 / WIDTH, 1 - below / height, said, va="top", fontsize=9, color=FAINT)


def _gain_label(section: Section, at: float | None, left_out: int) -> str:
    where, end = (
        ("at the end of the budget", "") if at is None else (f"at {in_nats(at)} of KL", " · |: at the end of the budget")
    )
    more = f" · {left_out} more row{'s' * (left_out > 1)} left out" if left_out else ""
    return f"{section.objective.gain_axis} {where}\nbars: 95% intervals{end}{more}"


def _frontier(figure: Any, axes: Any, section: Section, ends: Ends, best: list[tuple[float, float]]) -> None:
    """Gain against KL: each row's own steps, faint, the ``best`` steps of all, and the band of drift."""
    axes.set_title(f"Each step: what a KL buys{on_prompts(section)}", loc="left", fontsize=9, color=FAINT, pad=6)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    few = len(ends) <= FEW
    _drift_bands(axes, section)
    inside = [end for end in ends if end[0].algorithm not in DRIFT] or ends  # what drifted may have ended far beyond
    seen = [0.0, *(gain for _, _, gain in inside), *(gain for _, gain in best)]
    for row, kl, gain in ends:
        colour = HUES.get(family_of(row), INK)
        if few and row.name in section.curves and row.algorithm not in DRIFT:
            paths = section.curves[row.name].observed.pooled
            style: dict[str, Any] = {"color": colour, "linewidth": 0.9, "alpha": 0.3, "zorder": 2}
            axes.plot(np.sqrt(np.maximum(paths.kl, 0)), paths.gold, drawstyle="steps-post", **style)
            seen += paths.gold.tolist()
        hollow = row.name.startswith(TWIN) or not row.comparable
        face = PAPER if hollow else colour
        size = 3.5 if row.algorithm in DRIFT else 5.5
        axes.plot(
            math.sqrt(kl), gain, SHAPES.get(family_of(row), "P"), color=colour, markerfacecolor=face, markersize=size, zorder=4
        )
    farthest = max(math.sqrt(kl) for kl in [*(kl for _, kl, _ in inside), best[-1][0]])
    room = 0.1 * ((max(seen) - min(seen)) or 1.0)
    x = [math.sqrt(kl) for kl, _ in best]
    axes.plot([*x, farthest], [*(gain for _, gain in best), best[-1][1]], zorder=3, **FRONTIER)
    ticks = even_steps(farthest, 5)
    axes.set_xticks(ticks, [f"{d**2:.4g}" for d in ticks])
    axes.set_xlim(-0.03 * farthest, 1.08 * farthest)
    axes.set_ylim(min(seen) - room, max(seen) + room)
    axes.tick_params(labelsize=9)
    axes.set_xlabel("Exact KL from the base, nats (square-root scale)", fontsize=9)
    axes.set_ylabel(section.objective.gain_axis, fontsize=9)
    figure.draw_without_rendering()
    boxes = boxes_along(axes, x, [gain for _, gain in best])
    named = [end for end in ends if end[0].algorithm not in DRIFT and (few or end[0].pareto or end[0].part != METHOD)]
    boxes += [_around(axes, math.sqrt(kl), gain) for _, kl, gain in ends]
    labels = [Label(name_of(row, 20), HUES.get(family_of(row), INK), (math.sqrt(kl), gain)) for row, kl, gain in named]
    place_labels(figure, axes, labels, boxes, size=8.5)


def _around(axes: Any, x: float, y: float) -> Box:
    at = axes.transData.transform((x, y))
    return float(at[0]) - 5, float(at[1]) - 5, float(at[0]) + 5, float(at[1]) + 5


def on_prompts(section: Section) -> str:
    """On how many prompts `frontier_points` are, where these are fewer than those of the ranking; empty where they are not."""
    few = min((curves.prompts for curves in section.curves.values()), default=0)
    most = max((row.estimate(row.objective.gain).n for row in section.rows), default=0)
    return f", on {few} of {most} prompts" if 0 < few < most else ""


def frontier_line(section: Section, ends: Ends) -> list[tuple[float, float]]:
    """KL and gain of what no other row beats in both: of all points along the budget, or of the ends. Drift alone is apart."""
    ends = [end for end in ends if end[0].comparable and end[0].algorithm not in DRIFT]
    curves = {row.name: section.curves[row.name] for row, _, _ in ends if row.name in section.curves}
    if curves:
        return [(place.kl, place.gain) for place in pareto(curves)]
    best: list[tuple[float, float]] = [(0.0, 0.0)]
    for _, kl, gain in sorted(ends, key=lambda end: (end[1], -end[2])):
        if gain > best[-1][1]:
            best.append((kl, gain))
    return best


def _drift_bands(axes: Any, section: Section) -> None:
    """The gain of each control for drift wherever two of its draws are known, with its interval."""
    for draws in section.drift.controls.values():
        places, low, high, mean = drift_along(draws)
        if places:
            axes.fill_between(places, low, high, color=FAINT, alpha=0.18, linewidth=0, zorder=0)
            axes.plot(places, mean, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def drift_along(draws: Draws) -> tuple[list[float], list[float], list[float], list[float]]:
    """Places in sqrt(KL) with the bounds and the mean of a control's gain there, where half of its draws are known: a line
    that goes on with fewer would turn with those that end."""
    farthest = max(float(run[0].mean(-1).max()) for curves in draws.values() for run in curves.every_run)
    rows = []
    for d in np.linspace(0.5, math.sqrt(farthest), 24):
        reading = drift_at(draws, float(d * d))
        gain = reading.estimate() if reading and 2 * len(reading.seeds) >= len(draws) else None
        if gain and gain.low is not None and gain.high is not None:
            rows.append((float(d), gain.low, gain.high, gain.value or 0.0))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    return columns[0], columns[1], columns[2], columns[3]


def _key(figure: Any, height: float, families: list[str], lines: list[Line], section: Section) -> None:
    """What marks, lines and the band mean, under the frontier."""
    handle = matplotlib.lines.Line2D
    marks = [handle([], [], color=HUES.get(name, INK), marker=SHAPES.get(name, "P"), linestyle="") for name in families]
    words = [f"learns from {WORDS[name]}" if name not in ("none", "other") else WORDS[name] for name in families]
    if any(len(line.rows) > 1 for line in lines):
        marks.append(handle([], [], color=FAINT, marker="o", markerfacecolor=PAPER, linestyle=""))
        words.append("hollow: TRL's twin, or not ranked")
    marks.append(handle([], [], color=INK, linewidth=1.6))
    words.append("no other has as much for less KL")
    if section.drift.controls:
        marks.append(handle([], [], color=FAINT, linewidth=7, alpha=0.3))
        words.append("drift alone, with 95% interval")
    top = 1 - (TOP + HEIGHT + BOTTOM - 12) / height
    box = ((522 - 12) / WIDTH, top)
    figure.legend(marks, words, loc="upper left", bbox_to_anchor=box, frameon=False, fontsize=9, labelspacing=0.35)
