"""REINFORCE: the policy gradient of complete completions, with a moving-average baseline."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Paper, Rollouts, Scalars, Step, register


@dataclass(frozen=True)
class Weighed(Batch):
    """Rollouts with the advantage of each completion [B]."""

    rollouts: Rollouts
    advantages: Tensor


PRICED: Scalars = {
    "reward": "mean reward of the sampled answers, in deviations of the reward model's training answers",
    "kl_k1": "log-ratio of policy to base of the sampled answers: an estimate of the KL, in nats an answer",
}
"""What methods log that are paid by reward and KL."""


@register
class Reinforce:
    """Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", set up as
    by Ahmadian et al. 2024, "Back to Basics": a completion is one action, and the KL penalty is part of its reward.

    ``rollouts``: completions per step, one per prompt; ``kl``: KL coefficient; ``decay``: of the baseline, a moving average of
    returns; 0 is the batch mean.
    """

    paper: ClassVar[Paper] = Paper(
        "Williams", "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        equation="section 4", family="reward", learns_from="a reward model, on its own answers",
        parity="test_reinforce.py: the exact gradient by counting all answers", logs=PRICED,
    )  # fmt: skip

    kl_price: ClassVar[str] = "kl"
    closed_form: ClassVar[bool] = True

    rollouts: int = 64
    kl: float = 0.05
    decay: float = 0.9
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if self.rollouts < 1 or not 0 <= self.decay < 1:
            raise ValueError("rollouts must be 1 or more and decay lie in [0, 1)")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of new completions, one step: the gradient is that of the policy that sampled them."""
        rollouts = lab.generate(lab.prompts(self.rollouts))
        returns = priced_reward(lab, rollouts, self.kl)
        mean = float(returns.mean())
        lab.state["baseline"] = self.decay * lab.state.get("baseline", mean) + (1 - self.decay) * mean
        yield Step(Weighed(rollouts, returns - lab.state["baseline"]), reinforce_loss)


@torch.no_grad()
def priced_reward(lab: Lab, rollouts: Rollouts, price: float) -> Tensor:
    """r(x, y) - price * (log pi(y|x) - log pi_base(y|x)) of each completion [B]; its mean estimates E[r] - price * KL.
    ``price`` is the KL coefficient."""
    score, drift = lab.reward(rollouts), lab.log_ratio(rollouts)
    lab.log(reward=score.mean(), kl_k1=drift.mean())
    return score - price * drift


def reinforce_loss(lab: Lab, batch: Weighed) -> Tensor:
    """-A log pi(y|x) [B], whose gradient at the policy that sampled y is minus that of the expected return."""
    return -batch.advantages * lab.policy(batch.rollouts).logp.sum(1)
