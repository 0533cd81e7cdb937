"""Gold score and proxy along the budget, against drift, as an SVG: where one falls while the other rises, they have parted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.board.chart import FAINT, Label, Look, along, curves_of, dress, looks_of, name_of, picture, place_labels, setting
from bench.board.rows import Row, Section

if TYPE_CHECKING:
    from bench.curves import Curves, Paths
    from bench.stats import Array


def curves_name(number: int) -> str:
    """The file of a section's chart of curves."""
    return "curves.svg" if number == 1 else f"curves-{number}.svg"


def charts(task: str, section: Section, number: int = 1) -> dict[str, bytes]:
    """The chart of a section's curves by its file name; none where no card has a curve. Same section, same bytes."""
    curves = curves_of(section)
    if not curves:
        return {}
    looks = looks_of(list(section.rows))  # of all rows, so that a method looks the same in every chart
    lines = [_Line(row, curves[row.name], looks[row.name]) for row in section.rows if row.name in curves]
    scored = [line for line in lines if line.curves.observed.proxy is not None]

    def draw(figure: Any) -> None:
        figure.get_layout_engine().set(wspace=0.05)
        panels = figure.subplots(1, 2 if scored else 1, sharex=True, squeeze=False)[0]
        dress(panels[0], "Gold: less toxicity", f"{setting(task, section)} · {_legend(lines)}")
        _panel(panels[0], lines, lambda paths: paths.gold, "Reduction of mean toxicity")
        if scored:
            dress(panels[1], "Proxy: the reward model's score", "")
            _panel(panels[1], scored, lambda paths: paths.rise, "Mean reward, above the base's")
        _drift_axis(panels, math.sqrt(max(float(line.curves.observed.kl.max()) for line in lines)))
        figure.draw_without_rendering()
        _names(figure, panels[0], lines, lambda paths: paths.gold)
        if scored:
            _names(figure, panels[1], scored, lambda paths: paths.rise)

    return {curves_name(number): picture(draw, (11.0, 4.8) if scored else (8.0, 4.8))}


@dataclass(frozen=True)
class _Line:
    """A method with its looks."""

    row: Row
    curves: Curves
    look: Look

    def at(self, metric: Callable[[Paths], Array]) -> tuple[list[float], list[float]]:
        """Drift and score of the mean curve."""
        paths = self.curves.observed.pooled
        return [math.sqrt(kl) for kl in paths.kl.tolist()], metric(paths).tolist()

    @cached_property
    def passed(self) -> int | None:
        """The point of a peak that was passed, where that is sure."""
        from bench.curves import flags, peak

        return peak(self.curves).index if flags(self.curves) else None


def _legend(lines: list[_Line]) -> str:
    told = ["dots: along the budget", "bands: 95% intervals"]
    told += ["faint: seeds"] if any(line.curves.seeds > 1 for line in lines) else []
    told += ["ring: a peak that was passed"] if any(line.passed is not None for line in lines) else []
    return " · ".join(told)


def _panel(axes: Any, lines: list[_Line], metric: Callable[[Paths], Array], label: str) -> None:
    """One score of every method against drift: seeds, band, mean, and a mark where the budget ended."""
    from bench.curves import bands

    axes.set_ylabel(label)
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    for line in lines:
        d, score = line.at(metric)
        within = bands(line.curves, metric)
        if within is not None:
            axes.fill_between(d, *within, color=line.look.colour, alpha=0.09, linewidth=0, zorder=1)
        observed = line.curves.observed
        if line.curves.seeds > 1:
            for kl, one in zip(observed.kl, metric(observed), strict=True):
                axes.plot([math.sqrt(x) for x in kl], one, color=line.look.colour, linewidth=0.8, alpha=0.3, zorder=2)
        axes.plot(d, score, color=line.look.colour, linewidth=2, linestyle=line.look.line, marker=".", markersize=5, zorder=3)
        face = "white" if line.row.gated else line.look.colour
        axes.plot(d[-1], score[-1], line.look.marker, color=line.look.colour, markerfacecolor=face, markersize=8, zorder=4)
        if line.passed is not None:
            ring = {"markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.6}
            axes.plot(d[line.passed], score[line.passed], "o", color=line.look.colour, zorder=5, **ring)


def _drift_axis(panels: Any, farthest: float) -> None:
    """Even steps of d = sqrt(KL), in which gains are about straight, told in nats of KL."""
    steps = (digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5))
    step = next((step for step in steps if farthest <= 7 * step), 1e4)
    ticks = [i * step for i in range(int(1.1 * farthest / step) + 1)]
    for axes in panels:
        axes.set_xticks(ticks, [f"{d**2:.4g}" for d in ticks])
        axes.set_xlim(-0.04 * farthest, 1.14 * farthest)
        axes.set_xlabel("Exact KL to the SFT base, nats a completion (square-root scale)")


def _names(figure: Any, axes: Any, lines: list[_Line], metric: Callable[[Paths], Array]) -> None:
    """Each method's name where its curve ends, clear of all curves and marks."""
    boxes, labels = [], []
    for line in lines:
        d, score = line.at(metric)
        marked = [-1] if line.passed is None else [-1, line.passed]
        marks = axes.transData.transform([(d[i], score[i]) for i in marked])
        boxes += [*along(axes, d, score), *((x - 10, y - 10, x + 10, y + 10) for x, y in marks)]
        labels.append(Label(name_of(line.row), line.look.colour, (d[-1], score[-1])))
    place_labels(figure, axes, labels, boxes)
