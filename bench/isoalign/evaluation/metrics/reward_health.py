"""Is the reward model sound, and does it still tell this policy's samples apart?

`proxy_reward` is what the method optimised: the mean reward of its own samples. It compares methods that share a reward model,
and no others, since a reward has neither a zero nor a unit. `reward_spread` is the standard deviation of those rewards; near 0
the reward model, or the policy, has collapsed. `rm_saturated` is the share of held-out pairs on which sigmoid(D), D as the
reward model gives it, is within .01 of 0 or 1: there the model is almost certain and learns nothing more. A rescaled reward (a
whitened one, for example) saturates differently from the raw one. `reward_optimised` is 1 if the method trained on that reward
model, else 0. `reward_known` is 1 where the reward is the objective itself: then there is no proxy, its accuracy is exact
by construction, and no warning of a reward model holds. Warnings are rules of thumb, each with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from isoalign import stats
from isoalign.core.records import Estimate, Flag
from isoalign.evaluation.metrics.metric import UNBOUNDED, Metric, value_of
from isoalign.evaluation.metrics.scored_samples import ScoredSamples, by_prompt, check_column
from isoalign.stats import Values

VERSION = 1
SURE = 0.01
"""A probability within this of 0 or 1 is saturated."""
POOR, SUSPECT = 0.65, 0.90
"""Accuracy below which a reward model is undertrained or its verdicts are noisy, and above which it has seen the pairs or they
are trivial."""
FLAT = 0.05
"""Spread below which rewards have collapsed: a twentieth of the spread that whitening gives the training answers."""
SATURATED = 0.5
LOST, FEWEST = 0.6, 20
"""On-policy accuracy below which the reward model no longer orders the policy's samples (chance is .5), and the fewest prompts
of which that is told: a policy whose answers are all alike has next to none with a difference."""

REVERSED = 0.35
"""Agreement with the evaluation scorer below which, its interval below 1/2, the reward is likely to be turned around."""

METRICS = (
    Metric("proxy_reward", "Proxy reward", bounds=UNBOUNDED,
           description="Mean reward of the policy's own samples; comparable between methods with one reward model only."),
    Metric("reward_spread", "Reward spread", bounds=(0.0, inf),
           description="Standard deviation of the rewards of the policy's own samples."),
    Metric("rm_saturated", "RM saturated",
           description="Share of held-out pairs on which the reward model's probability is within .01 of 0 or 1."),
    Metric("reward_optimised", "Optimised", digits=0, description="1 if the method trained on the reward model, else 0."),
    Metric("reward_known", "Known", digits=0,
           description="1 where annotator, reward and objective are one known function: exact, without a proxy gap."),
)  # fmt: skip


def saturated(margin: float, sure: float = SURE) -> float:
    """1 where sigmoid(margin) is within ``sure`` of 0 or 1, else 0."""
    return float(abs(margin) >= math.log(1 / sure - 1))


def reward_spread(rewards: Values) -> Estimate:
    """Standard deviation (divided by n) of all rewards, with an interval by jackknife over prompts."""
    rows = [np.asarray(rewards[prompt], dtype=float) for prompt in sorted(rewards)]

    def spread(kept: NDArray[np.intp]) -> Sequence[float]:
        return [float(np.concatenate([rows[i] for i in kept]).std())]

    return stats.jackknife(spread, len(rows))[0]


def reward_health(data: Sequence[float], prompt_ids: Sequence[str], margins: Sequence[float] = ()) -> dict[str, float | None]:
    """Mean and standard deviation of the rewards of a policy's samples, and the share of saturated margins.

    ``data``: the reward of each sample; ``prompt_ids``: its prompt; ``margins``: reward of the chosen answer minus that of the
    rejected one, for each held-out pair.
    """
    check_column("data", data)
    check_column("margins", margins)
    grid = by_prompt(data, prompt_ids)
    return {
        "proxy_reward": stats.mean(grid).value,
        "reward_spread": reward_spread(grid).value,
        "rm_saturated": sum(map(saturated, margins)) / len(margins) if margins else None,
    }


def values(scored: ScoredSamples) -> dict[str, Values]:
    """Prompt to the rewards of its draws, and to 1 or 0 for each of its held-out pairs; empty without a reward model."""
    rewards, pairs = scored.rewards, scored.pairs
    if rewards is None:
        return {}
    grids: dict[str, Values] = {"proxy_reward": scored.grid(rewards.samples)}
    if pairs:
        order = sorted(range(len(pairs)), key=lambda i: pairs[i].pair_id)
        column = [saturated(rewards.pairs[i][0] - rewards.pairs[i][1]) for i in order]
        grids["rm_saturated"] = by_prompt(column, [pairs[i].prompt_id for i in order])
    return grids


def measure(scored: ScoredSamples) -> dict[str, Estimate]:
    """Mean and spread of rewards on the policy's own samples, and saturation, whose ``n`` counts pairs."""
    own = values(scored)
    estimates = {name: stats.mean(grid) for name, grid in own.items()}
    if "rm_saturated" in estimates:
        estimates["rm_saturated"] = replace(estimates["rm_saturated"], n=len(scored.pairs))
    if scored.rewards is not None:
        estimates["reward_spread"] = reward_spread(own["proxy_reward"])
        estimates["reward_optimised"] = Estimate(float(scored.rewards.optimised), None, None, len(scored.rows))
        if scored.known_reward:
            estimates["reward_known"] = Estimate(1.0, None, None, len(scored.rows))
    return estimates


def warnings(estimates: Mapping[str, Estimate]) -> list[str]:
    """What looks wrong with a reward model, each with its reason; empty without a reward model, and of a known reward."""
    if value_of(estimates, "reward_known"):
        return []
    accuracy, spread = value_of(estimates, "rm_accuracy"), value_of(estimates, "reward_spread")
    sure, own = value_of(estimates, "rm_saturated"), value_of(estimates, "rm_accuracy_on_policy")
    same, texts = estimates.get("rm_agreement"), []
    if same and same.value is not None and same.high is not None and same.value < REVERSED and same.high < 0.5:
        of = f"{same.value:.0%} of {same.n} held-out pairs"
        texts.append(f"it prefers the same answer as the evaluation scorer in only {of}: its sign may be wrong")
    if accuracy is not None and accuracy < POOR:
        texts.append(f"accuracy {accuracy:.3f} is under {POOR}: it is undertrained, or its verdicts are noisy")
    if accuracy is not None and accuracy > SUSPECT:
        texts.append(f"accuracy {accuracy:.3f} is over {SUSPECT}: it has seen these pairs, or they are trivial")
    if spread is not None and spread < FLAT:
        texts.append(f"rewards of the samples spread by {spread:.2g}, under {FLAT}: it, or the policy, has collapsed")
    if sure is not None and sure > SATURATED:
        texts.append(f"{sure:.0%} of held-out pairs are saturated: its margins are too large to learn from or to trust")
    if own is not None and own < LOST and estimates["rm_accuracy_on_policy"].n >= FEWEST:
        on = f"{own:.3f} on {estimates['rm_accuracy_on_policy'].n} prompts"
        texts.append(f"on-policy accuracy {on} is under {LOST}: it no longer orders this policy's samples")
    return [f"reward model: {line}" for line in texts]


def flags(estimates: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[Flag]:
    """The ``warnings`` for rows that trained on the reward model, and for the SFT row."""
    if base is not None and not value_of(estimates, "reward_optimised"):
        return []
    return [Flag("warning", text) for text in warnings(estimates)]
