"""Is the reward model sound, and does it still tell this policy's samples apart?

`proxy_reward` is what the method was paid for: the mean reward of its own samples. It compares methods that share a reward
model, and no others, since a reward has no zero and no unit. `reward_spread` is their standard deviation; near 0 the
reward model, or the policy, has collapsed. `rm_saturated` is the share of held-out pairs on which sigmoid(D), D as the
reward model gives it, is within .01 of 0 or 1: there it is all but sure and learns nothing more, and a rescaled reward
(whitened, say) saturates otherwise than the raw one. `reward_optimised` is 1 where the method trained on that reward
model, 0 where it only looks on. Warnings are rules of thumb, each said with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from isoalign import stats
from isoalign.core.records import Estimate
from isoalign.evaluation.metrics.evidence import Evidence, by_prompt, check_column
from isoalign.stats import Values

VERSION = 1
SURE = 0.01
"""How near to 0 or 1 a probability is saturated."""
POOR, SUSPECT = 0.65, 0.90
"""Accuracies under which a reward model is undertrained or its verdicts noisy, over which it remembers or has it easy."""
FLAT = 0.05
"""Spread under which rewards have collapsed: a twentieth of what whitening gives the training answers."""
SATURATED = 0.5
LOST = 0.6
"""On-policy accuracy under which the reward model no longer orders what the policy says; chance is .5."""

_CITATION = """\
@article{lambert2024rewardbench,
  title={RewardBench: Evaluating Reward Models for Language Modeling}, author={Lambert, Nathan and others},
  journal={arXiv:2403.13787}, year={2024}}
@inproceedings{gao2023scaling,
  title={Scaling Laws for Reward Model Overoptimization}, author={Gao, Leo and Schulman, John and Hilton, Jacob},
  booktitle={ICML}, year={2023}, note={proxy reward}}"""


def saturated(margin: float, sure: float = SURE) -> float:
    """1 where sigmoid(margin) is within ``sure`` of 0 or 1, else 0."""
    return float(abs(margin) >= math.log(1 / sure - 1))


def reward_spread(rewards: Values) -> Estimate:
    """Standard deviation (over n) of all rewards, interval by jackknife over prompts."""
    rows = [np.asarray(rewards[prompt], dtype=float) for prompt in sorted(rewards)]

    def spread(kept: NDArray[np.intp]) -> Sequence[float]:
        return [float(np.concatenate([rows[i] for i in kept]).std())]

    return stats.jackknife(spread, len(rows))[0]


class RewardHealth(evaluate.Measurement):
    """Mean and spread of rewards, and the share of saturated margins."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Mean and standard deviation of the rewards of a policy's samples; share of margins D on which "
            "sigmoid(D) is within .01 of 0 or 1.",
            citation=_CITATION,
            inputs_description="data: the reward of each sample; prompt_ids: whose sample it is; margins: reward of the "
            "chosen answer minus that of the rejected one, for each held-out pair.",
            features=datasets.Features({"data": datasets.Value("float64"), "prompt_ids": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/2403.13787", "https://arxiv.org/abs/2210.10760"],
        )

    def _compute(self, data: list[float], prompt_ids: list[str], margins: Sequence[float] = ()) -> dict[str, Any]:
        check_column("data", data)
        check_column("margins", margins)
        grid = by_prompt(data, prompt_ids)
        return {
            "proxy_reward": stats.mean(grid).value,
            "reward_spread": reward_spread(grid).value,
            "rm_saturated": sum(map(saturated, margins)) / len(margins) if margins else None,
        }


def values(evidence: Evidence) -> dict[str, Values]:
    """Prompt to the rewards of its draws, and to 1 or 0 for each of its held-out pairs; nothing without a reward model."""
    rewards, pairs = evidence.rewards, evidence.pairs
    if rewards is None:
        return {}
    found: dict[str, Values] = {"proxy_reward": evidence.grid(rewards.samples)}
    if pairs:
        order = sorted(range(len(pairs)), key=lambda i: pairs[i].pair_id)
        column = [saturated(rewards.pairs[i][0] - rewards.pairs[i][1]) for i in order]
        found["rm_saturated"] = by_prompt(column, [pairs[i].prompt_id for i in order])
    return found


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Mean and spread of rewards on the method's own samples, and saturation, whose ``n`` counts pairs."""
    own = values(evidence)
    found = {name: stats.mean(grid) for name, grid in own.items()}
    if "rm_saturated" in found:
        found["rm_saturated"] = replace(found["rm_saturated"], n=len(evidence.pairs))
    if evidence.rewards is not None:
        found["reward_spread"] = reward_spread(own["proxy_reward"])
        found["reward_optimised"] = Estimate(float(evidence.rewards.optimised), None, None, len(evidence.rows))
    return found


def warnings(metrics: Mapping[str, Estimate]) -> list[str]:
    """What looks wrong with a reward model, in words with the reason; nothing where there is none."""
    accuracy, spread = _value(metrics, "rm_accuracy"), _value(metrics, "reward_spread")
    sure, own = _value(metrics, "rm_saturated"), _value(metrics, "rm_accuracy_on_policy")
    found = []
    if accuracy is not None and accuracy < POOR:
        found.append(f"accuracy {accuracy:.2f} is under {POOR}: it is undertrained, or its verdicts are noisy")
    if accuracy is not None and accuracy > SUSPECT:
        found.append(f"accuracy {accuracy:.2f} is over {SUSPECT}: it has seen these pairs, or they are trivial")
    if spread is not None and spread < FLAT:
        found.append(f"rewards of the samples spread by {spread:.2g}, under {FLAT}: it, or the policy, has collapsed")
    if sure is not None and sure > SATURATED:
        found.append(f"{sure:.0%} of held-out pairs are saturated: its margins are too large to learn from or to trust")
    if own is not None and own < LOST:
        on = f"{own:.2f} on {metrics['rm_accuracy_on_policy'].n} prompts"
        found.append(f"on-policy accuracy {on} is under {LOST}: it no longer orders this policy's samples")
    return [f"reward model: {line}" for line in found]


def flags(figures: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[str]:
    """For the card; see ``warnings``. Of the SFT row, whose reward hangs on the same model, and of rows that trained on it."""
    optimised = _value(figures, "reward_optimised")
    return warnings(figures) if base is None or optimised else []


def _value(metrics: Mapping[str, Estimate], name: str) -> float | None:
    return metrics[name].value if name in metrics else None
