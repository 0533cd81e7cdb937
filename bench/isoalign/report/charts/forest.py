"""A forest plot: the gain of each row with its interval, a line a method, TRL's twin hollow on the same line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isoalign.core.lazy import matplotlib
from isoalign.core.records import Estimate
from isoalign.report.board.rows import DRIFT, METHOD, REFERENCE, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import gain_of, in_nats
from isoalign.report.charts.looks import FAINT, GRID, HUES, INK, PAPER, SHAPES, family_of, name_of
from isoalign.stats.drift import drift_at

TWIN = "trl_"
MOST = 60  # lines; of more rows the last are left out, and counted


@dataclass(frozen=True)
class Line:
    """A line of the plot: its rows, the second one the twin of the first, each with its gain at the KL that is compared."""

    rows: tuple[tuple[Row, Estimate], ...]

    @property
    def gain(self) -> float | None:
        """Of the first row that has one."""
        return next((gain.value for _, gain in self.rows if gain.value is not None), None)

    @property
    def end(self) -> float:
        """The gain of the first row at the end of its budget."""
        row = self.rows[0][0]
        value = row.estimate(row.objective.gain).value
        return -1e9 if value is None else value


def lines_of(section: Section, at: float | None) -> list[Line]:
    """Lines by their gain at a KL, then those that are not measured there by their gain at the end. The base has none, and
    controls for drift are a band."""
    shown = {row.name: row for row in section.rows if row.part != REFERENCE and row.algorithm not in DRIFT}
    twins = {name: shown[TWIN + name] for name in shown if TWIN + name in shown}
    hidden = {row.name for row in twins.values()}
    lines = [
        Line(tuple((own, gain_of(section, own, at)) for own in (row, twins.get(name)) if own is not None))
        for name, row in shown.items() if name not in hidden
    ]  # fmt: skip
    return sorted(lines, key=lambda line: (line.gain is None, -(line.end if line.gain is None else line.gain)))


def draw_forest(axes: Any, section: Section, lines: list[Line], at: float | None) -> None:
    """Marks with bars, best on top, over the band of drift; a short stroke is the gain at the end of the budget."""
    if not lines:  # the base and controls for drift alone
        axes.set_axis_off()
        return
    known = sum(line.gain is not None for line in lines)
    places = [i + (0 < known <= i) for i in range(len(lines))]  # with a line for a word between
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_yticks(places, [name_of(line.rows[0][0], 24) for line in lines])
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_color(HUES.get(family_of(line.rows[0][0]), INK))
        label.set_fontstyle("normal" if line.rows[0][0].part == METHOD else "italic")
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.locator_params(axis="x", nbins=5)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    if at is not None:
        _band(axes, section, at)
        if 0 < known < len(lines):
            _divider(axes, known, f"not measured at {in_nats(at)}:")
    for place, line in zip(places, lines, strict=True):
        for twin, (row, gain) in enumerate(line.rows):
            _mark(
                axes, row, gain, place + 0.14 * (len(line.rows) - 1) * (2 * twin - 1), hollow=bool(twin), ends=at is not None
            )


def _mark(axes: Any, row: Row, gain: Estimate, y: float, hollow: bool, ends: bool) -> None:
    family = family_of(row)
    colour = HUES.get(family, INK)
    end = row.estimate(row.objective.gain).value
    if ends and end is not None:
        axes.plot(end, y, "|", color=colour, markersize=7, markeredgewidth=1.2, alpha=0.75, zorder=2)
    if gain.value is None:
        return
    if gain.low is not None and gain.high is not None:
        axes.plot([gain.low, gain.high], [y, y], color=colour, linewidth=1.3, alpha=0.8, zorder=3)
    face = PAPER if hollow or not row.comparable else colour
    axes.plot(gain.value, y, SHAPES.get(family, "P"), color=colour, markerfacecolor=face, markersize=5.5, zorder=4)


def _band(axes: Any, section: Section, at: float) -> None:
    """The gain of each control for drift at the KL, with its interval."""
    for draws in section.drift.controls.values():
        reading = drift_at(draws, at)
        if reading is not None:
            gain = reading.estimate()
            axes.axvspan(gain.low, gain.high, color=FAINT, alpha=0.18, linewidth=0, zorder=0)
            axes.axvline(gain.value, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _divider(axes: Any, place: int, text: str) -> None:
    axes.axhline(place - 0.45, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
    blended = matplotlib.transforms.blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(-0.02, place, text, transform=blended, color=FAINT, fontsize=9, va="center", ha="right")
