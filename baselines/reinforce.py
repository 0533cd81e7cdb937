"""REINFORCE: the policy gradient of complete completions, with a moving-average baseline."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Paper, Rollouts, Step, register
from isoalign.baselines.parts.sampling import PRICED, Weighed, check_sizes


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
        check_sizes(self)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), not {self.decay}")
        if self.rollouts == 1 and self.decay == 0:
            raise ValueError("a single rollout with decay=0 is its own baseline, so nothing is learned; set rollouts or decay")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of new completions, one step: the gradient is that of the policy that sampled them."""
        rollouts = lab.generate(lab.prompts(self.rollouts))
        returns = priced(lab, rollouts, lab.reward(rollouts), self.kl)
        mean = float(returns.mean())
        lab.state["baseline"] = self.decay * lab.state.get("baseline", mean) + (1 - self.decay) * mean
        yield Step(Weighed(rollouts, returns - lab.state["baseline"]), reinforce_loss)


@torch.no_grad()
def priced(lab: Lab, rollouts: Rollouts, score: Tensor, price: float) -> Tensor:
    """score - price * (log pi(y|x) - log pi_base(y|x)) of each completion [B]; its mean estimates E[score] - price * KL.
    ``price`` is the KL coefficient."""
    drift = lab.log_ratio(rollouts)
    lab.log(reward=score.mean(), kl_k1=drift.mean())
    return score - price * drift


def reinforce_loss(lab: Lab, batch: Weighed) -> Tensor:
    """-A log pi(y|x) [B], whose gradient at the policy that sampled y is minus that of the expected return."""
    return -batch.advantages * lab.policy(batch.rollouts).logp.sum(1)
