"""Win rate: how often a judge prefers the policy's answer to another one, in both orders, from saved verdicts.

Common mistakes that are avoided here: one order alone, which is biased by position; a tie counted as a loss; a question
without a verdict left out, which favours answers that judges won't judge: it is a tie, and counted; a long answer that wins
because it is long: the win rate at equal lengths stands beside. Two equal answers are a tie, and no judge is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    Metric("win_rate_weighted", "Weighted win rate", True, section=SECTION,
           description="Mean probability that the judge gives the answer to be better, over both orders."),
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
    """Prompt to the wins of its contests, to the judge's probabilities, and to which answers are longer."""
    figures: dict[str, Callable[[Contest], float | None]] = {
        "win_rate": lambda contest: contest.win,
        "win_rate_weighted": lambda contest: contest.chance,
        "win_rate_longer": _longer,
    }
    return _columns(scored.contests, figures)


def measure(scored: ScoredSamples) -> dict[str, Estimate]:
    """Win rate, in all, by stratum and source, and at equal lengths, with 95% intervals over prompts, and what is to be known
    of the judge, on what it was asked: bias of position, flips, contests without a verdict. Empty without contests."""
    contests = scored.contests
    if not contests:
        return {}
    own, asked = values(scored), [contest for contest in contests if not contest.equal]
    judge = _columns(asked, {"judge_position_bias": _bias, "judge_flips": _flips, "judge_missing": _missing})
    estimates = {name: stats.mean(column) for name, column in (own | judge).items()}
    estimates |= {f"win_rate{end}": stats.mean(subset(own["win_rate"], p)) for end, p in scored.strata().items()}
    wins, differences = [c.win for c in contests], [c.length - c.other_length for c in contests]
    estimates["win_rate_length_controlled"] = length_controlled(wins, differences, [c.prompt_id for c in contests])
    totals, read = {"judge_questions": 2 * len(asked)}, [contest.tokens for contest in asked]
    if None not in read:
        totals["judge_tokens"] = sum(filter(None, read))
    return estimates | {name: Estimate(total, None, None, len(own["win_rate"])) for name, total in totals.items()}


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


def _columns(contests: Sequence[Contest], columns: Mapping[str, Callable[[Contest], float | None]]) -> dict[str, Values]:
    prompts = [contest.prompt_id for contest in contests]
    return {name: by_prompt(map(value, contests), prompts) for name, value in columns.items()}


def _longer(contest: Contest) -> float:
    return 0.5 if contest.length == contest.other_length else float(contest.length > contest.other_length)


def _bias(contest: Contest) -> float | None:
    """Half the difference of the two orders: 1/2 where the answer shown first wins both, -1/2 where the other does."""
    return None if contest.sides is None else (contest.sides[0] - contest.sides[1]) / 2


def _flips(contest: Contest) -> float | None:
    return None if contest.sides is None else float(set(contest.sides) == {0.0, 1.0})


def _missing(contest: Contest) -> float:
    return float(contest.sides is None)
