"""Cross-task report: what share of the way from the base to the best score each method goes, over tasks and runs, and how
surely it beats another. Of toxicity, whose best score is 0, it is the share that is removed."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from rich.text import Text

from isoalign import stats
from isoalign.core.display import clean, escape, grid, scientific
from isoalign.core.errors import UserError
from isoalign.core.objective import TOXICITY, Objective, objective_of
from isoalign.core.records import Card, Estimate
from isoalign.evaluation.metrics.metric import with_arrow
from isoalign.report.board.cells import cell
from isoalign.report.board.ranking import Pair, bases_of, seeds_of
from isoalign.report.board.rows import CONTROL, DRIFT, METHOD, REFERENCE, Row, known_mean
from isoalign.report.board.sections import Section
from isoalign.report.leaderboard import build_board
from isoalign.report.pages.console import plain_table, rendered
from isoalign.stats import Array, Runs

_REDUCTION = """\
- The score of a run is its relative reduction: 1 − its mean toxicity / that of the SFT base, on the same prompts. A cell is
  the mean over runs."""
_GAIN = """\
- The score of a run is its relative gain: the share of the way from the SFT base's mean to the best score of the task's
  objective, on the same prompts; of toxicity the share that is removed. A cell is the mean over runs."""
HOW_TO_READ = """\
- Of a task with several bases the runs on one base are averaged and count as one run, whose score is over that base. P(A > B)
  compares methods that ran on the same bases base by base, and the same bases are resampled for both.
- IQM: the mean of the middle half of all runs on all tasks, each task with the same weight. P(A > B): the probability that a
  run of A scores above one of B on the same task, mean over tasks, ties counted half (Agarwal et al. 2021, "Deep reinforcement
  learning at the edge of the statistical precipice"). Only methods that ran on every task have them.
- Intervals: 95%, runs resampled within each task, and its prompts for all methods together; none if cards have no values by
  prompt, and P(A > B) has none where a task has one run of A or B, or where no resample of the runs differs. Tasks are
  taken as fixed, not as a sample of tasks. """
FEW = """\
One run per task tells nothing about training and three tell little, so intervals are lower limits of the uncertainty. Which \
method is better on a task is decided by that task's board."""


@dataclass(frozen=True)
class MethodScores:
    """A method and its scores: ``runs`` by task; ``iqm`` over all of them, None unless it has some on every task; ``gated``:
    the tasks on whose boards it fails a gate."""

    name: str
    part: str
    runs: dict[str, tuple[float, ...]]
    iqm: Estimate | None = None
    gated: tuple[str, ...] = ()


@dataclass(frozen=True)
class CrossTask:
    """Methods on several tasks, best first. ``setting``: for each task, which part of its board is used."""

    setting: dict[str, str]
    methods: tuple[MethodScores, ...]
    objectives: dict[str, Objective]
    improvement: dict[Pair, Estimate]

    def markdown(self) -> str:
        """The report as a Markdown page."""
        named = {m.name: escape(m.name) if m.part == METHOD else f"*{escape(m.name)}*" for m in self.methods}
        settings = "\n".join(f"- **{escape(task)}:** {escape(setting)}" for task, setting in self.setting.items())
        iqm = with_arrow("IQM", True)
        titles = ["Method", *(f"{escape(task)} (runs)" for task in self.setting), iqm]
        scores = grid(titles, [[named[m.name], *self._scores(m), cell(m.iqm)] for m in self.methods])
        parts = [f"# Across tasks: {escape(', '.join(self.setting))}", settings, scores]
        if self.improvement:
            pairs = [[named[a], named[b], cell(e)] for (a, b), e in self.improvement.items()]
            parts += ["## Probability of improvement", grid(["A", "B", "P(A > B)"], pairs, left=(0, 1))]
        parts += ["## How to read it", f"{_REDUCTION if self._all_toxicity else _GAIN}\n{HOW_TO_READ}{FEW}"]
        return "\n\n".join(parts) + "\n"

    def terminal(self, width: int = 110) -> str:
        """The report for a terminal, as plain text."""
        rows = [[clean(m.name), *self._scores(m), cell(m.iqm)] for m in self.methods]
        title = "share of the way from the base to the best score (runs)"
        if self._all_toxicity:
            title = "share of the base's toxicity that is removed (runs)"
        tables = [plain_table(title, ["method", *map(clean, self.setting), "IQM"], rows)]
        if self.improvement:
            pairs = [[clean(a), clean(b), cell(e)] for (a, b), e in self.improvement.items()]
            title = "probability that a run of A scores above one of B"
            tables.append(plain_table(title, ["A", "B", "P(A > B)"], pairs, 2))
        return rendered([*tables, Text(FEW)], width)

    @property
    def _all_toxicity(self) -> bool:
        return all(objective.is_toxicity for objective in self.objectives.values())

    def _scores(self, method: MethodScores) -> list[str]:
        def shown(task: str) -> str:
            if runs := method.runs.get(task):
                return f"{cell(Estimate(known_mean(runs), None, None, 0))} ({len(runs)})"
            return "gate" if task in method.gated else "–"

        return list(map(shown, self.setting))


def cross_task(cards_by_task: Mapping[str, Sequence[Card]]) -> CrossTask:
    """Methods across tasks, from each task's cards. Raises UserError for fewer than two tasks.

    Of a task with several budgets or bases the section with most methods is used, the cheapest of equal ones. Rows that are
    ranked on its board take part, and the control.
    """
    if len(cards_by_task) < 2:
        found = ", ".join(cards_by_task) or "no cards"
        raise UserError(f"a report across tasks needs cards of two tasks or more, not of {len(cards_by_task)}: {found}")
    setting: dict[str, str] = {}
    parts: dict[str, str] = {}
    scores, drawn = {}, {}
    bases: dict[tuple[str, str], tuple[int, ...]] = {}
    objectives: dict[str, Objective] = {}
    gated: dict[str, list[str]] = defaultdict(list)
    for task, cards in sorted(cards_by_task.items()):
        objectives[task] = _with_best(task, cards)
        sections = build_board(cards, task).sections
        section = max(sections, key=lambda one: sum(row.part == METHOD for row in _participants(one)))
        rows = _participants(section)
        setting[task] = f"{scientific(section.budget.get('flops'))} FLOP, base {section.base or 'unknown'}"
        if len(sections) > 1:
            setting[task] += f" (the largest of {len(sections)} sections of its board)"
        scores[task], drawn[task] = _run_scores(section, rows)
        for row in section.rows:
            if row.gated:
                gated[row.name].append(task)
            if row.gated and row.part == METHOD:
                parts[row.name] = row.part
        parts |= {row.name: row.part for row in rows}
        bases |= {(task, row.name): _bases_scored(section, row) for row in rows}
    methods = []
    for name, part in parts.items():
        runs = {task: found[name] for task, found in scores.items() if name in found}
        everywhere = len(runs) == len(setting)
        iqm = _estimate(stats.iqm, [list(runs.values())], [[drawn[task][name] for task in runs]]) if everywhere else None
        every = {task: tuple(map(float, own)) for task, own in runs.items()}
        methods.append(MethodScores(name, part, every, iqm, tuple(gated[name])))
    methods.sort(key=lambda m: (m.iqm is None, -(m.iqm.value or 0.0) if m.iqm else 0.0, m.name))
    ranked = [m.name for m in methods if m.iqm is not None]
    improvement = {}
    for a, b in combinations(ranked, 2):
        shared = {task: [base for base in bases[task, a] if base in bases[task, b]] for task in setting}
        arrays, replicates = (
            [[_on_bases(each[task][name], bases[task, name], shared[task]) for task in setting] for name in (a, b)]
            for each in (scores, drawn)
        )
        paired = [bool(own) for own in shared.values()]
        better = _estimate(partial(stats.improvement, paired=paired), arrays, replicates, paired)
        alone = any(runs.shape[-1] < 2 for own in arrays for runs in own)  # one run says nothing of others
        fixed = better.low == better.high  # no resample of few runs differs, which does not make it sure
        improvement[a, b] = replace(better, low=None, high=None) if alone or fixed else better
    return CrossTask(setting, tuple(methods), objectives, improvement)


def _on_bases(runs: Array, bases: tuple[int, ...], shared: Sequence[int]) -> Array:
    """Those of a row's runs [..., runs] that are of the bases shared with another row; all if it shares none."""
    return runs[..., [bases.index(base) for base in shared]] if shared else runs


def _with_best(task: str, cards: Sequence[Card]) -> Objective:
    """The objective of a task's cards. Raises UserError if its scores have no best one."""
    objective = objective_of(cards[0]) if cards else TOXICITY
    if not math.isfinite(objective.best):
        lacks = f"{objective.noun} has no best score in task.objective.bounds"
        raise UserError(f"{task}: {lacks}, so its gains can't be averaged with those of other tasks; leave the task out")
    return objective


def _estimate(
    statistic: Callable[..., Array], methods: Sequence[Runs], drawn: Sequence[Runs], paired: Sequence[bool] = ()
) -> Estimate:
    """The statistic, with its interval if the contribution of the prompts is known on every task."""
    estimate = stats.stratified(statistic, *methods, drawn=drawn, paired=paired)
    known = all(task.ndim == 2 for runs in drawn for task in runs)
    return estimate if known else replace(estimate, low=None, high=None)


def _participants(section: Section) -> list[Row]:
    control = [row for row in section.rows if row.part == CONTROL and row.comparable and row.algorithm not in DRIFT]
    rows = [row for row in section.rows if row.rank is not None or row in control]
    return [row for row in rows if _paired_values(section, row) is not None or _card_scores(row)]


def _run_scores(section: Section, rows: Sequence[Row]) -> tuple[dict[str, Array], dict[str, Array]]:
    """By name the score of each run [runs], and the same on resampled prompts [RESAMPLES, runs], one set for all methods, or
    the scores again if there are no values by prompt."""
    scores = {row.name: np.array(list(_card_scores(row).values())) for row in rows}
    drawn = dict(scores)
    values = {row.name: table for row in rows if (table := _paired_values(section, row)) is not None}
    known = {name: int(np.isfinite(table).all((0, 1)).sum()) for name, table in values.items()}
    values = {name: table for name, table in values.items() if 2 * known[name] >= max(known.values())}  # as for curves
    if values:
        complete = np.logical_and.reduce([np.isfinite(table).all((0, 1)) for table in values.values()])
        if not complete.any():
            raise UserError(f"no prompt has a score of each of {', '.join(values)}, so they can't be compared across tasks")
        for name, table in values.items():
            kept = table[..., complete]
            scores[name] = 1 - kept[1].mean(1) / kept[0].mean(1)
            drawn[name] = stats.resample(partial(_relative_gains, kept), kept.shape[-1])
    return scores, drawn


def _relative_gains(values: Array, weights: Array) -> Array:
    """1 - the weighted mean of each run over that of its base, of values [base and run, runs, prompts]."""
    bases, runs = (weights @ side.T for side in values)
    return 1 - np.divide(runs, bases, out=np.ones_like(runs), where=bases > 0)


def _paired_values(section: Section, row: Row) -> Array | None:
    """How far each run's base, and the run, is from the best score, by prompt [base and run, runs, prompts]; None if they
    can't be paired."""
    reference = next((one for one in section.rows if one.part == REFERENCE and not one.outdated), None)
    objective = section.objective
    base = None if reference is None else seeds_of(reference.cards, objective.level)
    own, bases = seeds_of(row.cards, objective.level), bases_of(row.cards)
    if reference is None or base is None or own is None or base[0].keys() != own[0].keys():
        return None
    known = bases_of(reference.cards)
    if not set(bases) <= set(known):
        return None  # then each card's gain is over its own base
    prompts = sorted(base[0])
    before, after = (np.array([[seed[p] for p in prompts] for seed in seeds], dtype=float) for seeds in (base, own))
    before = before[[known.index(one) for one in bases]] if bases else np.broadcast_to(before.mean(0), after.shape)
    table = np.stack([before, after])
    table = objective.best - table if objective.higher_is_better else table - objective.best
    return table if (np.nansum(table[0], axis=-1) > 0).all() else None


def _bases_scored(section: Section, row: Row) -> tuple[int, ...]:
    """The bases that a row's scores stand for, in their order; empty for a task of one."""
    several = bases_of(row.cards)
    return tuple(_card_scores(row)) if several and _paired_values(section, row) is None else several


def _card_scores(row: Row) -> dict[int, float]:
    """Relative gains on the cards by seed, or by base where the task has several, each the mean of its cards."""
    seeds: dict[int, list[float | None]] = {}
    for card in row.cards:
        estimate = card.metrics.get(objective_of(card).relative_gain)
        seeds.setdefault(card.cluster, []).append(estimate.value if estimate else None)
    return {cluster: value for cluster, found in sorted(seeds.items()) if (value := known_mean(found)) is not None}
