"""Advantage-induced policy alignment: each token's log-ratio to the base is regressed to its advantage."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Paper, Rollouts, register
from isoalign.baselines.parts.advantages import gae, place_rewards, value_head
from isoalign.baselines.parts.losses import row_mean
from isoalign.baselines.parts.sampling import PRICED, OnPolicy


@dataclass(frozen=True)
class Induced(Batch):
    """Rollouts with the base's log-probability, the advantage and the return of each token [B, T]."""

    rollouts: Rollouts
    base_logp: Tensor
    advantages: Tensor
    returns: Tensor


@register
class APA(OnPolicy):
    """Zhu et al. 2023, "Fine-Tuning Language Models with Advantage-Induced Policy Alignment", eq. 4: the square of log pi -
    log base - advantage / ``kl``, token by token, in place of PPO's clipped ratio.

    ``kl``: KL coefficient, their lambda; nothing else holds the policy at the base, and the reward has no penalty.
    ``rollouts``: completions per iteration; ``draws``: samples per prompt; ``gae_lambda``: as in PPO; ``value_weight``: of the
    squared error of the values, by a linear head on the policy. Advantages are as estimated; the
    authors' code whitens them over the batch, so that its ``kl`` is in other units.
    """

    paper: ClassVar[Paper] = Paper(
        "Zhu et al.", "Fine-Tuning Language Models with Advantage-Induced Policy Alignment", 2023, "2306.02231", "eq. 4",
        family="reward", learns_from="a reward model, on its own answers",
        values={"rollouts": "128", "epochs": "2", "kl": "0.1", "gae_lambda": "0.95", "value_weight": "0.5", "lr": "1e-6"},
        parity="test_regression.py: numbers worked by hand, with PPO's advantages", logs=PRICED,
    )  # fmt: skip

    kl_price: ClassVar[str] = "kl"

    kl: float = 0.5
    gae_lambda: float = 0.95
    value_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl <= 0:
            raise ValueError("kl must be positive: log-ratios are drawn to advantages over it")

    @torch.no_grad()
    def experience(self, lab: Lab, rollouts: Rollouts) -> Induced:
        """Rollouts with what the policy that sampled them says of each token."""
        outputs, base, mask = lab.policy(rollouts), lab.reference(rollouts).logp, rollouts.completion_mask
        score, values = lab.reward(rollouts), value_head(lab, outputs.hidden) * mask
        lab.log(reward=score.mean(), kl_k1=(outputs.logp - base).sum(1).mean())
        rewards = place_rewards(score, torch.zeros_like(base), 0.0, mask)
        return Induced(rollouts, base, *gae(rewards, values, mask, 1.0, self.gae_lambda))

    def loss(self, lab: Lab, batch: Induced) -> Tensor:
        """Squared errors of log-ratios and of values, averaged over each row's tokens [B]."""
        outputs = lab.policy(batch.rollouts)
        error = (outputs.logp - batch.base_logp - batch.advantages / self.kl) ** 2
        values = (value_head(lab, outputs.hidden) - batch.returns) ** 2
        return row_mean(error + self.value_weight * values, batch.rollouts.completion_mask)
