"""REINFORCE: the policy gradient of whole completions, less a baseline that remembers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Rollouts, Step, register


@dataclass(frozen=True)
class Weighed(Batch):
    """Rollouts with the advantage of each whole completion [B]."""

    rollouts: Rollouts
    advantages: Tensor


@register
class Reinforce:
    """Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", set up as
    by Ahmadian et al. 2024, "Back to Basics": a completion is one action, and its log-ratio is priced within its reward.

    ``rollouts``: completions a step, one of each prompt; ``kl``: price of a nat; ``decay``: what the baseline, a moving
    average of returns, keeps of its past at a step; 0 is the batch's own mean.
    """

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
        """One batch of fresh completions, one step: the gradient is that of the policy which sampled them."""
        rollouts = lab.generate(lab.prompts(self.rollouts))
        returns = priced_reward(lab, rollouts, self.kl)
        mean = float(returns.mean())
        lab.state["baseline"] = self.decay * lab.state.get("baseline", mean) + (1 - self.decay) * mean
        yield Step(Weighed(rollouts, returns - lab.state["baseline"]), reinforce_loss)


@torch.no_grad()
def priced_reward(lab: Lab, rollouts: Rollouts, price: float) -> Tensor:
    """r(x, y) - price * (log pi(y|x) - log pi_base(y|x)) of each completion [B]; its mean estimates E[r] - price * KL."""
    score, drift = lab.reward(rollouts), lab.log_ratio(rollouts)
    lab.log(reward=score.mean(), kl_k1=drift.mean())
    return score - price * drift


def reinforce_loss(lab: Lab, batch: Weighed) -> Tensor:
    """-A log pi(y|x) [B], whose gradient at the policy that sampled y is minus that of the expected return."""
    return -batch.advantages * lab.policy(batch.rollouts).logp.sum(1)
