"""Advantage-induced policy alignment: each token's log-ratio to the base is regressed to its advantage."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from isoalign import Batch, Lab, Paper, Rollouts, Step, register
from isoalign.baselines.ppo import gae, minibatches, place_rewards, row_mean
from isoalign.baselines.reinforce import PRICED


@dataclass(frozen=True)
class Induced(Batch):
    """Rollouts with the base's log-probability, the advantage and the return of each token [B, T]."""

    rollouts: Rollouts
    base_logp: Tensor
    advantages: Tensor
    returns: Tensor


@register
class APA:
    """Zhu et al. 2023, "Fine-Tuning Language Models with Advantage-Induced Policy Alignment", eq. 4: the square of log pi -
    log base - advantage / ``kl``, token by token, in place of PPO's clipped ratio.

    ``kl``: KL coefficient, their lambda; nothing else holds the policy at the base, and the reward has no penalty.
    ``rollouts``: completions per iteration; ``draws``: samples per prompt; ``gae_lambda``: as in PPO; ``value_weight``: of the
    squared error of the values, by a linear head on the policy. Advantages are neither whitened nor clipped.
    """

    paper: ClassVar[Paper] = Paper(
        "Zhu et al.", "Fine-Tuning Language Models with Advantage-Induced Policy Alignment", 2023, "2306.02231", "eq. 4",
        family="reward", learns_from="a reward model, on its own answers",
        parity="test_regression.py: numbers worked by hand, with PPO's advantages", logs=PRICED,
    )  # fmt: skip

    kl_price: ClassVar[str] = "kl"

    rollouts: int = 64
    draws: int = 1
    epochs: int = 2
    minibatch: int = 32
    kl: float = 0.5
    gae_lambda: float = 0.95
    value_weight: float = 0.1
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if min(self.draws, self.epochs, self.minibatch) < 1 or self.rollouts < self.draws or self.kl <= 0:
            raise ValueError("draws, epochs and minibatch must be 1 or more, rollouts at least draws, and kl positive")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample, score and compute advantages; then epochs of minibatches over them."""
        rollouts = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        yield from minibatches(lab, self.induced(lab, rollouts), self.loss, self.epochs, self.minibatch)

    @torch.no_grad()
    def induced(self, lab: Lab, rollouts: Rollouts) -> Induced:
        """Rollouts with what the policy that sampled them says of each token."""
        outputs, base, mask = lab.policy(rollouts), lab.reference(rollouts).logp, rollouts.completion_mask
        score, values = lab.reward(rollouts), self.values(lab, outputs.hidden) * mask
        lab.log(reward=score.mean(), kl_k1=(outputs.logp - base).sum(1).mean())
        rewards = place_rewards(score, torch.zeros_like(base), 0.0, mask)
        return Induced(rollouts, base, *gae(rewards, values, mask, 1.0, self.gae_lambda))

    def values(self, lab: Lab, hidden: Tensor) -> Tensor:
        """Expected reward before each token [B, T]."""
        value: Tensor = lab.module("value", lambda width: nn.Linear(width, 1))(hidden)
        return value.squeeze(-1)

    def loss(self, lab: Lab, batch: Induced) -> Tensor:
        """Squared errors of log-ratios and of values, averaged over each row's tokens [B]."""
        outputs = lab.policy(batch.rollouts)
        error = (outputs.logp - batch.base_logp - batch.advantages / self.kl) ** 2
        values = (self.values(lab, outputs.hidden) - batch.returns) ** 2
        return row_mean(error + self.value_weight * values, batch.rollouts.completion_mask)
