"""The objective of a task, from saved scores: its mean, and how far a method moved it in the direction that is better.

Measured for every objective but toxicity, which has metrics of its own (toxicity.py). `gain` is the figure that methods are
ranked by. `_second` is the second scorer's, on a scale of its own: read its sign, and whether its interval lies above 0. What
narrows a metric down stands last: `gain/clean`, `objective_mean_second/source:rtp_scored`. Where each score is 0 or 1, as of a
rule, `pass_at_k` is the chance that one of k completions is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb, inf, isfinite

from isoalign import stats
from isoalign.core.objective import Objective
from isoalign.core.records import Estimate, Flag
from isoalign.evaluation.metrics.metric import UNBOUNDED, Metric, gained, shown
from isoalign.evaluation.metrics.scored_samples import ScoredSamples, subset
from isoalign.stats import Values

VERSION = 1
KS = (1, 2, 4, 8, 16, 32, 64)  # of pass@k, as far as there are draws

METRICS = (
    Metric("gain", "Gain", True, bounds=UNBOUNDED,
           description="How far the mean score moved from the SFT base's in the direction that is better, paired by prompt."),
    Metric("gain_second", "Gain, second scorer", True, bounds=UNBOUNDED, description="The gain by the second scorer."),
    Metric("gain_relative", "Relative gain", True, bounds=(-inf, 1.0),
           description="The gain as a share of the way from the SFT base's mean to the best score, paired by prompt."),
    Metric("objective_mean", "Mean", bounds=UNBOUNDED, description="Mean score of completions."),
    Metric("objective_mean_second", "Mean, second scorer", bounds=UNBOUNDED,
           description="Mean score of completions by the second scorer."),
    Metric("objective_share", "Share", True,
           description="Share of completions on the better side of the objective's threshold."),
    *(Metric(f"pass_at_{k}", f"Pass@{k}", True,
             description=f"Chance that at least one of {k} completions of a prompt fulfils the rule, without bias.",
             section="Pass@k")
      for k in KS),
)  # fmt: skip


def values(scored: ScoredSamples) -> dict[str, Values]:
    """Prompt to its scores by both scorers, and to which of them by the main one are on the better side of the threshold."""
    objective = scored.objective
    columns: dict[str, Values] = {f"objective_mean{end}": grid for end, grid in _grids(scored).items()}
    if objective.threshold is not None:
        rows = columns["objective_mean"].items()
        columns["objective_share"] = {prompt: [_on_better_side(score, objective) for score in row] for prompt, row in rows}
    if _is_rule(scored):
        fulfilled = columns["objective_mean"].items()
        for k in (k for k in KS if k <= scored.draws):
            columns[f"pass_at_{k}"] = {prompt: [_pass_of(row, k, objective)] for prompt, row in fulfilled}
    return columns


def pass_at(draws: int, right: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k completions is right, of ``draws`` of which ``right`` are:
    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1)."""
    return 1 - comb(draws - right, k) / comb(draws, k)


def measure(scored: ScoredSamples) -> dict[str, Estimate]:
    """Mean and gain by both scorers, in all and by stratum and source, with 95% intervals over prompts.

    The relative gain needs a best score; a source may have few prompts: read ``n`` before the interval.
    """
    objective, own = scored.objective, values(scored)
    estimates = {name: stats.mean(column) for name, column in own.items()}
    base, strata = values(scored.base) if scored.base else None, scored.strata()
    for end in scored.scorers():
        after = own[f"objective_mean{end}"]
        estimates |= {f"objective_mean{end}{part}": stats.mean(subset(after, p)) for part, p in strata.items()}
        if base is None:
            continue
        before = base[f"objective_mean{end}"]
        shares = objective.bounds == (0.0, 1.0) and not end  # the second scorer has a scale of its own
        estimates[f"gain{end}"] = _gain(before, after, objective, shares)
        for part, prompts in strata.items():
            estimates[f"gain{end}{part}"] = _gain(subset(before, prompts), subset(after, prompts), objective, shares)
    if base is not None and isfinite(objective.best):
        before, after = (_to_best(one["objective_mean"], objective) for one in (base, own))
        estimates["gain_relative"] = stats.relative_reduction(before, after)
    return estimates


def flags(estimates: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[Flag]:
    """Warns of a gain that only the second scorer sees. One that only the main scorer sees fails a gate of quality.py."""
    main, second = estimates.get("gain"), estimates.get("gain_second")
    if base is None or main is None or second is None or not gained(second) or gained(main):
        return []
    return [Flag("warning", f"gains by the second scorer only: {shown(second)}, by the main one {shown(main)}")]


def _is_rule(scored: ScoredSamples) -> bool:
    """Whether each score, the base's too, is 0 or 1."""
    both = [one.scores[one.main_scorer] for one in (scored, scored.base) if one]
    return scored.objective.bounds == (0.0, 1.0) and {score for scores in both for score in scores} <= {0.0, 1.0, None}


def _pass_of(row: Sequence[float | None], k: int, objective: Objective) -> float | None:
    """Pass@k of one prompt, None with less than k scores."""
    right = [score == objective.best for score in row if score is not None]
    return pass_at(len(right), sum(right), k) if len(right) >= k else None


def _grids(scored: ScoredSamples) -> dict[str, Values]:
    return {end: scored.grid(scored.scores[scorer]) for end, scorer in scored.scorers().items()}


def _gain(before: Values, after: Values, objective: Objective, shares: bool) -> Estimate:
    difference = stats.share_difference if shares else stats.difference
    return difference(after, before) if objective.higher_is_better else difference(before, after)


def _to_best(values: Values, objective: Objective) -> Values:
    return {p: [None if score is None else objective.to_best(score) for score in row] for p, row in values.items()}


def _on_better_side(score: float | None, objective: Objective) -> float | None:
    """1 on the better side of the threshold, which itself counts as on the higher one; None without a score."""
    if score is None or objective.threshold is None:
        return None
    return float((score >= objective.threshold) == objective.higher_is_better)
