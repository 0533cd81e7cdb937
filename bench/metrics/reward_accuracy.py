"""Which of two answers a reward prefers, against held-out verdicts: for the reward model and for every policy.

Against noisy verdicts flipped at rate e nobody can be right more often than 1 - e: read `rm_accuracy` beside
`rm_accuracy_clean`. An accuracy under .65 speaks of an undertrained model or noise, one over .90 of memory or
triviality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import datasets
import evaluate

from bench import stats
from bench.metrics.evidence import Evidence, by_prompt
from bench.stats import Values
from bench.types import Estimate, ScoredPair

VERSION = 1
TIE = 1e-4
"""Nats within which two log-probabilities are one: a policy that equals its base differs from it by rounding alone, and
must get 0.5, not the accuracy of rounding errors. Far below any preference that was learnt."""

_CITATION = """\
@article{lambert2024rewardbench,
  title={RewardBench: Evaluating Reward Models for Language Modeling}, author={Lambert, Nathan and others},
  journal={arXiv:2403.13787}, year={2024}}
@inproceedings{rafailov2023direct,
  title={Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author={Rafailov, Rafael and others}, booktitle={NeurIPS}, year={2023}, note={the implicit reward, eq. 5}}
@article{chen2024preference,
  title={Preference Learning Algorithms Do Not Learn Preference Rankings}, author={Chen, Angelica and others},
  journal={arXiv:2405.19534}, year={2024}, note={ranking accuracy}}"""


def right(margin: float | None, tie: float = 0.0) -> float | None:
    """1 where the chosen answer has the higher reward, 1/2 on a tie, 0 otherwise, None without rewards."""
    if margin is None:
        return None
    return 0.5 if abs(margin) <= tie else float(margin > 0)


def explicit_margin(pair: ScoredPair) -> float | None:
    """r(chosen) - r(rejected) of the reward model."""
    if pair.chosen_reward is None or pair.rejected_reward is None:
        return None
    return pair.chosen_reward - pair.rejected_reward


def implicit_margin(pair: ScoredPair) -> float:
    """Difference of log pi - log pi_base, summed over tokens (DPO's implicit reward over beta, which is positive)."""
    return (pair.chosen_logp - pair.chosen_base_logp) - (pair.rejected_logp - pair.rejected_base_logp)


def normalised_margin(pair: ScoredPair) -> float:
    """The same with each answer's log-ratio divided by its length in tokens, so that longer isn't stronger."""
    chosen, rejected = pair.chosen_logp - pair.chosen_base_logp, pair.rejected_logp - pair.rejected_base_logp
    return chosen / max(pair.chosen_length, 1) - rejected / max(pair.rejected_length, 1)


def ranking_margin(pair: ScoredPair) -> float:
    """log pi(chosen) - log pi(rejected): whether the policy would rather say the better answer. No base in it, so it
    favours short answers and starts well off 0.5; another quantity than the implicit accuracy (Chen et al. 2024)."""
    return pair.chosen_logp - pair.rejected_logp


class PairAccuracy(evaluate.Metric):
    """How often the chosen answer has the higher reward; ties count half."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="mean(1[D > 0] + 1/2 1[D = 0]) with D = reward of chosen - reward of rejected, and a 95% "
            "interval that keeps pairs of one prompt together.",
            citation=_CITATION,
            inputs_description="predictions, references: reward of the chosen and of the rejected answer, or None; "
            "prompt_ids: the pair's prompt; tie: differences up to this are ties.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("float64"),
                    "prompt_ids": datasets.Value("string"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2403.13787", "https://arxiv.org/abs/2305.18290"],
        )

    def _compute(
        self,
        predictions: list[float | None],
        references: list[float | None],
        prompt_ids: list[str],
        tie: float = 0.0,
    ) -> dict[str, Any]:
        margins = [None if a is None or b is None else a - b for a, b in zip(predictions, references, strict=True)]
        found = _accuracy(by_prompt([right(m, tie) for m in margins], prompt_ids))
        return {
            "accuracy": found.value,
            "accuracy_low": found.low,
            "accuracy_high": found.high,
            "n": found.n,
            "missing": found.missing,
            "right": [right(m, tie) for m in margins],
        }


def values(evidence: Evidence) -> dict[str, Values]:
    """Prompt to 1, 1/2 or 0 for each of its pairs (sorted by pair_id); nothing where there are no pairs."""
    pairs = sorted(evidence.pairs, key=lambda pair: pair.pair_id)
    if not pairs:
        return {}
    explicit = [right(explicit_margin(pair)) for pair in pairs]
    # noise swapped chosen and rejected: against the clean verdict, what was right there is wrong and the reverse
    clean = [r if r is None or pair.clean else 1 - r for r, pair in zip(explicit, pairs, strict=True)]
    return {
        "rm_accuracy": _grid(pairs, explicit),
        "rm_accuracy_clean": _grid(pairs, clean),
        "implicit_accuracy": _grid(pairs, _judged(pairs, implicit_margin)),
        "implicit_accuracy_normalised": _grid(pairs, _judged(pairs, normalised_margin)),
        "ranking_accuracy": _grid(pairs, _judged(pairs, ranking_margin)),
    }


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Accuracies on the held-out pairs; ``n`` counts pairs, intervals keep a prompt's pairs together."""
    return {name: _accuracy(grid) for name, grid in values(evidence).items()}


def _accuracy(grid: Values) -> Estimate:
    known = sum(value is not None for row in grid.values() for value in row)
    return replace(stats.mean(grid), n=known)


def _judged(pairs: Sequence[ScoredPair], margin: Callable[[ScoredPair], float]) -> list[float | None]:
    return [right(margin(pair), TIE) for pair in pairs]


def _grid(pairs: Sequence[ScoredPair], column: Iterable[float | None]) -> Values:
    return by_prompt(column, [pair.prompt_id for pair in pairs])
