"""Across tasks: what share of the base's toxicity each method removes, over tasks and runs, and how sure it beats another."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np

from isoalign import stats
from isoalign.core.display import clean, escape, grid, printable, scientific
from isoalign.core.errors import UserError
from isoalign.core.lazy import rich
from isoalign.core.records import Card, Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import Column
from isoalign.report.board.ranking import Pair, seeds_of
from isoalign.report.board.rows import CONTROL, METHOD, REFERENCE, Row, Section, mean
from isoalign.report.leaderboard import build
from isoalign.stats import Array, Runs

SCORE = Column("toxicity_reduction_relative", "IQM ↑")

NOTES = """\
- The score of a run is its relative reduction: 1 − its mean toxicity / that of the SFT base, on the same prompts. A cell is
  the mean over runs.
- IQM: the mean of the middle half of all runs on all tasks, each task with the same weight. P(A > B): how often a run of A
  scores above one of B on the same task, mean over tasks, ties half (Agarwal et al. 2021, "Deep reinforcement learning at
  the edge of the statistical precipice"). Only methods that ran on every task have them.
- Intervals: 95%, runs resampled within each task, and its prompts for all methods together; none where cards have no values
  by prompt. Tasks are taken as they are, not as a sample of tasks. One run a task tells nothing of training and three tell
  little, so intervals are too narrow: they are the least that is uncertain. Which method is better on a task is for that
  task's board to say."""


@dataclass(frozen=True)
class Entrant:
    """A method and its scores: ``runs`` by task; ``iqm`` over all of them, None unless it has some on every task."""

    name: str
    part: str
    runs: dict[str, tuple[float, ...]]
    iqm: Estimate | None = None


@dataclass(frozen=True)
class Across:
    """Methods on several tasks, best first. ``setting``: by task, what of its board was taken."""

    setting: dict[str, str]
    entrants: tuple[Entrant, ...]
    improvement: dict[Pair, Estimate]

    def markdown(self) -> str:
        """As a Markdown page."""
        named = {e.name: escape(e.name) if e.part == METHOD else f"*{escape(e.name)}*" for e in self.entrants}
        told = "\n".join(f"- **{escape(task)}:** {escape(setting)}" for task, setting in self.setting.items())
        titles = ["Method", *(f"{escape(task)} (runs)" for task in self.setting), SCORE.title]
        scores = grid(titles, [[named[e.name], *self._scores(e), cell(e.iqm, SCORE)] for e in self.entrants])
        parts = [f"# Across tasks: {escape(', '.join(self.setting))}", told, scores]
        if self.improvement:
            pairs = [[named[a], named[b], cell(e, SCORE)] for (a, b), e in self.improvement.items()]
            parts += ["## Probability of improvement", grid(["A", "B", "P(A > B)"], pairs, left=(0, 1))]
        return "\n\n".join([*parts, "## How to read it", NOTES]) + "\n"

    def terminal(self, width: int = 110) -> str:
        """For a terminal, as plain text."""
        text = io.StringIO()
        console = rich.console.Console(file=text, width=width, color_system=None, highlight=False)
        rows = [[clean(e.name), *self._scores(e), cell(e.iqm, SCORE)] for e in self.entrants]
        title = "share of the base's toxicity that is gone (runs)"
        console.print(printable(title, ["method", *map(clean, self.setting), "IQM"], rows, 1))
        if self.improvement:
            pairs = [[clean(a), clean(b), cell(e, SCORE)] for (a, b), e in self.improvement.items()]
            console.print(printable("probability that a run of A scores above one of B", ["A", "B", "P(A > B)"], pairs, 2))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"

    def _scores(self, entrant: Entrant) -> list[str]:
        found = [entrant.runs.get(task, ()) for task in self.setting]
        return [f"{cell(Estimate(mean(runs), None, None, 0), SCORE)} ({len(runs)})" if runs else "–" for runs in found]


def across(cards_by_task: Mapping[str, Sequence[Card]]) -> Across:
    """Methods across tasks, from each task's cards. Raises UserError for fewer than two tasks.

    Of a task with several budgets or bases the section with most methods counts, the cheapest of equals. What is ranked on
    its board takes part, and the control.
    """
    if len(cards_by_task) < 2:
        raise UserError(f"across tasks needs two or more, not {len(cards_by_task)}: {', '.join(cards_by_task) or 'no cards'}")
    setting: dict[str, str] = {}
    parts: dict[str, str] = {}
    scores, drawn = {}, {}
    for task, cards in sorted(cards_by_task.items()):
        sections = build(cards).sections
        section = max(sections, key=lambda one: len(_entrants(one)))
        rows = _entrants(section)
        setting[task] = f"{scientific(section.budget.get('flops'))} FLOP, base {section.base or 'not told'}"
        if len(sections) > 1:
            setting[task] += f" (the largest of {len(sections)} sections of its board)"
        scores[task], drawn[task] = _scored(section, rows)
        parts |= {row.name: row.part for row in rows}
    entrants = []
    for name, part in parts.items():
        runs = {task: found[name] for task, found in scores.items() if name in found}
        whole = len(runs) == len(setting)
        iqm = _estimate(stats.iqm, [list(runs.values())], [[drawn[task][name] for task in runs]]) if whole else None
        entrants.append(Entrant(name, part, {task: tuple(map(float, own)) for task, own in runs.items()}, iqm))
    entrants.sort(key=lambda e: (e.iqm is None, -(e.iqm.value or 0.0) if e.iqm else 0.0, e.name))
    ranked = [e.name for e in entrants if e.iqm is not None]
    arrays = {name: [scores[task][name] for task in setting] for name in ranked}
    replicates = {name: [drawn[task][name] for task in setting] for name in ranked}
    improvement = {
        (a, b): _estimate(stats.improvement, [arrays[a], arrays[b]], [replicates[a], replicates[b]])
        for a, b in combinations(ranked, 2)
    }
    return Across(setting, tuple(entrants), improvement)


def _estimate(statistic: Callable[..., Array], methods: Sequence[Runs], drawn: Sequence[Runs]) -> Estimate:
    """The statistic with its interval, if it is known what prompts add to it on every task."""
    found = stats.stratified(statistic, *methods, drawn=drawn)
    known = all(task.ndim == 2 for runs in drawn for task in runs)
    return found if known else replace(found, low=None, high=None)


def _entrants(section: Section) -> list[Row]:
    rows = [row for row in section.rows if row.rank is not None or (row.part == CONTROL and row.sound)]
    return [row for row in rows if _values(section, row) is not None or _told(row)]


def _scored(section: Section, rows: Sequence[Row]) -> tuple[dict[str, Array], dict[str, Array]]:
    """By name the score of each run [runs], and the same on resampled prompts [RESAMPLES, runs], one set for all methods;
    just the scores again where there are no values by prompt."""
    scores = {row.name: np.array(_told(row)) for row in rows}
    drawn = dict(scores)
    values = {row.name: table for row in rows if (table := _values(section, row)) is not None}
    if values:
        whole = np.logical_and.reduce([np.isfinite(table).all(0) for table in values.values()])
        for name, table in values.items():
            kept = table[:, whole]
            scores[name] = 1 - kept[1:].mean(1) / kept[0].mean()
            drawn[name] = stats.resample(partial(_shares, kept), kept.shape[1])
    return scores, drawn


def _shares(values: Array, weights: Array) -> Array:
    """1 - the weighted mean of each run over that of the base, which is the first row of values [1 + runs, prompts]."""
    sums = weights @ values.T
    return 1 - np.divide(sums[:, 1:], sums[:, :1], out=np.ones_like(sums[:, 1:]), where=sums[:, :1] > 0)


def _values(section: Section, row: Row) -> Array | None:
    """Toxicity by prompt of the base, then of each run [1 + runs, prompts]; None where they can't be paired."""
    reference = next((one for one in section.rows if one.part == REFERENCE and not one.outdated), None)
    base = None if reference is None else seeds_of(reference.cards, "toxicity_mean")
    own = seeds_of(row.cards, "toxicity_mean")
    if base is None or own is None or base[0].keys() != own[0].keys():
        return None
    prompts = sorted(base[0])
    table = np.array([[seed[p] for p in prompts] for seed in [*base, *own]], dtype=float)
    table = np.concatenate([table[: len(base)].mean(0, keepdims=True), table[len(base) :]])
    return table if np.nansum(table[0]) > 0 else None


def _told(row: Row) -> list[float]:
    """Relative reductions as the cards tell them, cards of a seed averaged."""
    seeds: dict[int, list[float | None]] = {}
    for card in row.cards:
        figure = card.metrics.get(SCORE.metric)
        seeds.setdefault(card.seed, []).append(figure.value if figure else None)
    return [value for found in seeds.values() if (value := mean(found)) is not None]
