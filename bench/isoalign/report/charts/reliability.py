"""Reliability of the reward models: share of verdicts that agreed against the model's probability, as an SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import cycle
from typing import Any

from isoalign.core.display import clean
from isoalign.report.board.rows import REFERENCE
from isoalign.report.board.sections import Section
from isoalign.report.charts.looks import FAINT, PALETTE, dress, picture, setting

NAMED = 4  # rows that are listed beside a reward model's name
Bins = list[dict[str, Any]]


def reliability_chart_name(number: int) -> str:
    """The file name of a section's chart."""
    return "reliability.svg" if number == 1 else f"reliability-{number}.svg"


def reliability_by_model(section: Section) -> dict[str, Bins]:
    """The bins of each reward model behind the section's rows, by whose verdicts it was trained on and which rows used it."""
    rows_by: defaultdict[str, list[str]] = defaultdict(list)
    bins: dict[str, Bins] = {}
    for row in section.rows:
        for card in row.cards:
            own = (card.data.get("calibration") or {}).get("reliability")
            key = next((f"{name.removeprefix('reward_')} {key}" for name, key in sorted(card.parents.items())
                        if name.startswith("reward_")), "")  # fmt: skip
            if own and row.part != REFERENCE:
                bins[key] = own
                if clean(row.name) not in rows_by[key]:
                    rows_by[key].append(clean(row.name))
    names = {key: f"{key.split(' ')[0]}'s ({_listed(rows_by[key])})" for key in sorted(bins)}
    if len(set(names.values())) < len(names):  # the first few rows are the same: list all of them
        names = {key: f"{key.split(' ')[0]}'s ({', '.join(rows_by[key])})" for key in names}
    return {name: bins[key] for key, name in names.items()}


def _listed(names: list[str]) -> str:
    """The first few names, and the number of others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED + 1 else ""
    return ", ".join(names[:NAMED] if more else names) + more


def reliability_chart(task: str, section: Section, kind: str = "svg") -> bytes | None:
    """Share of verdicts that agreed in each bin of confidence; None if no card has a calibration.

    Pairs are counted in both orders, so only the upper half is drawn; a mark's area is the number of pairs in its bin.
    """
    models = reliability_by_model(section)
    if not models:
        return None

    def draw(figure: Any) -> None:
        title = "Are the reward models calibrated?"
        draw_bins(figure, title, setting(task, section), zip(cycle(PALETTE), models.items(), strict=False))

    return picture(draw, (7, 4.6), kind)


def draw_bins(figure: Any, title: str, subtitle: str, models: Iterable[tuple[str, tuple[str, Bins]]]) -> None:
    """Each model's bins in its colour under its name, and the line of perfect calibration."""
    axes = figure.add_subplot()
    dress(axes, title, f"{subtitle} · held-out verdicts, noise included")
    axes.plot([0.5, 1], [0.5, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    for colour, (name, bins) in models:
        upper = [b for b in bins if b["low"] >= 0.5 and b["count"]]
        total = sum(b["count"] for b in upper)
        x, y = [b["confidence"] for b in upper], [b["right"] for b in upper]
        axes.plot(x, y, color=colour, linewidth=1.4)
        area = [400 * b["count"] / total for b in upper]
        axes.scatter(x, y, s=area, color=colour, alpha=0.85, label=name, zorder=3)
    axes.set_xlim(0.5, 1.01)
    axes.set_xlabel("Probability of the answer that the model preferred, after temperature")
    axes.set_ylabel("Share of verdicts that agreed")
    for mark in axes.legend(loc="lower right", frameon=False, fontsize=9).legend_handles:
        mark.set_sizes([40])
