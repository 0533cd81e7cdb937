"""Win rate: how often a judge prefers the policy's answer to another one, in both orders, from saved verdicts.

Common mistakes that are avoided here: one order alone, which is biased by position; a tie counted as a loss; a question
without a verdict left out, which favours answers that judges won't judge: it is a tie, and counted; a long answer that wins
because it is long: the win rate at equal lengths stands beside. Two equal answers are a tie, and no judge is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from isoalign import stats
from isoalign.core.records import Contest, Estimate, Flag
from isoalign.evaluation.metrics.metric import Metric, value_of
from isoalign.evaluation.metrics.scored_samples import ScoredSamples, by_prompt, subset
from isoalign.stats import Values
from isoalign.stats.length_control import length_controlled

VERSION = 1
SECTION = "Win rate"
ONE_SIDED = 0.95  # share of answers on one side of the opponent's length, beyond which equal lengths are out of sight
BIASED = 0.25  # of 1/2

METRICS = (
    Metric("win_rate", "Win rate", True, section=SECTION,
           description="Share of answers that the judge prefers to the opponent's, mean over both orders, a tie a half."),
    Metric("win_rate_length_controlled", "Win rate, equal length", True, section=SECTION,
           description="The win rate that a logistic regression predicts where both answers are equally long."),
    Metric("win_rate_longer", "Longer", section=SECTION,
           description="Share of answers with more characters than the opponent's, equal ones being a half."),
    Metric("judge_position_bias", "Position bias", bounds=(-0.5, 0.5), section=SECTION,
           description="How much more often than 1/2 the win rate's judge prefers the answer that is shown first."),
    Metric("judge_flips", "Flips", False, section=SECTION,
           description="Share of verdicts that turn with the order of the answers."),
    Metric("judge_missing", "No verdict", False, section=SECTION,
           description="Share of contests without a verdict in both orders; they count as ties."),
    Metric("judge_questions", "Questions", digits=0, bounds=(0.0, inf), section=SECTION,
           description="Questions that the win rate's judge was asked, each order one; they are free of the budget."),
    Metric("judge_tokens", "Judge's tokens", digits=0, bounds=(0.0, inf), section=SECTION,
           description="Tokens that the win rate's judge read and wrote."),
)  # fmt: skip


def values(scored: ScoredSamples) -> dict[str, Values]:
    """Prompt to what follows from its contests."""
    columns: dict[str, list[float | None]] = {
        "win_rate": [contest.win for contest in scored.contests],
        "win_rate_longer": [_longer(contest) for contest in scored.contests],
        "judge_position_bias": [_bias(contest) for contest in scored.contests],
        "judge_flips": [_flips(contest) for contest in scored.contests],
        "judge_missing": [None if contest.equal else float(contest.sides is None) for contest in scored.contests],
    }
    prompts = [contest.prompt_id for contest in scored.contests]
    return {name: by_prompt(column, prompts) for name, column in columns.items()}


def measure(scored: ScoredSamples) -> dict[str, Estimate]:
    """Win rate, in all, by stratum and source, and at equal lengths, with 95% intervals over prompts, and what is to be known
    of the judge: bias of position, flips, questions without a verdict. Empty without contests."""
    contests = scored.contests
    if not contests:
        return {}
    own = values(scored)
    estimates = {name: stats.mean(column) for name, column in own.items()}
    judged = own["win_rate"].keys()
    for end, prompts in scored.strata().items():
        estimates[f"win_rate{end}"] = stats.mean(subset(own["win_rate"], [p for p in prompts if p in judged]))
    wins, differences = [c.win for c in contests], [c.length - c.other_length for c in contests]
    estimates["win_rate_length_controlled"] = length_controlled(wins, differences, [c.prompt_id for c in contests])
    totals = {"judge_questions": 2 * sum(not c.equal for c in contests), "judge_tokens": sum(c.tokens for c in contests)}
    return estimates | {name: Estimate(total, None, None, len(judged)) for name, total in totals.items()}


def flags(estimates: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[Flag]:
    """Warns of questions without a verdict, of a judge that sees the position, and of lengths that never meet."""
    warnings = []
    if missing := value_of(estimates, "judge_missing"):
        warnings.append(f"win rate: the judge gave no verdict on {missing:.1%} of the contests, which count as ties")
    bias = value_of(estimates, "judge_position_bias")
    if bias is not None and abs(bias) > BIASED:
        place = "first" if bias > 0 else "second"
        share = 0.5 + abs(bias)
        warnings.append(f"win rate: its judge prefers the answer that is shown {place} in {share:.0%} of the showings")
    longer = value_of(estimates, "win_rate_longer")
    if longer is not None and max(longer, 1 - longer) > ONE_SIDED:
        side = "longer" if longer > 0.5 else "shorter"
        warnings.append(
            f"win rate: {max(longer, 1 - longer):.0%} of the answers are {side} than the opponent's, so the one at equal "
            "length is an extrapolation"
        )
    return [Flag("warning", text) for text in warnings]


def _longer(contest: Contest) -> float:
    return 0.5 if contest.length == contest.other_length else float(contest.length > contest.other_length)


def _bias(contest: Contest) -> float | None:
    """Half the difference of the two orders: 1/2 where the answer shown first wins both, -1/2 where the other does."""
    return None if contest.equal or contest.sides is None else (contest.sides[0] - contest.sides[1]) / 2


def _flips(contest: Contest) -> float | None:
    return None if contest.equal or contest.sides is None else float(set(contest.sides) == {0.0, 1.0})
