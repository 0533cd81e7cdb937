"""Group relative policy optimisation: PPO's clipping, with the other completions of a prompt instead of a value head."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Paper, Rollouts, Rows, register
from isoalign.baselines.parts.advantages import group_advantages
from isoalign.baselines.parts.losses import clipped_loss, k3, row_mean
from isoalign.baselines.parts.sampling import PRICED, OnPolicy


@dataclass(frozen=True)
class Compared(Batch):
    """Rollouts with the tokens' log-probabilities under the sampling policy and the base [B, T], and advantages [B]."""

    rollouts: Rollouts
    logp: Tensor
    base_logp: Tensor
    advantages: Tensor


@register
class GRPO(OnPolicy):
    """Shao et al. 2024, "DeepSeekMath", eq. 3, with the KL of eq. 4 in the loss and the advantage of section 4.1.2.

    ``rollouts``: completions per iteration; ``draws``: samples per prompt, a group; ``kl``: KL coefficient, per token. The
    paper does not say which deviation it divides by: here it is the unbiased one of the group, with 1e-4 added to it, as in
    TRL (verl adds 1e-6). The estimate of the KL, k3, is not clamped, as in the paper and TRL; verl clamps it to 10.
    Without ``scale_std``, the division by a group's standard deviation, and ``scale_length``, the division by a completion's
    length, it is Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-Like Training"), which removes both as biases. The pass of
    the reference is made, and paid, at ``kl`` 0 too: the KL is in the log.
    """

    paper: ClassVar[Paper] = Paper(
        "Shao et al.", "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024,
        "2402.03300", "eq. 3, with the KL of eq. 4", family="reward",
        learns_from="a reward model, on groups of its own answers",
        values={"draws": "64", "epochs": "1", "kl": "0.04", "lr": "1e-6"},
        parity="test_grpo.py: TRL's GRPOTrainer, loss and gradient", logs=PRICED,
    )  # fmt: skip

    rows: ClassVar[Rows] = {"dr_grpo": {"paper": Paper(
        "Liu et al.", "Understanding R1-Zero-Like Training: A Critical Perspective", 2025, "2503.20783", "section 3.2",
        family="reward", learns_from="a reward model, on groups of its own answers",
        values={"draws": "8", "epochs": "1", "kl": "0", "lr": "1e-6"},
        parity="test_grpo.py: TRL's GRPOTrainer with loss_type dr_grpo, loss and gradient", logs=PRICED,
    )}}  # fmt: skip

    kl_price: ClassVar[str] = "kl"
    least_draws: ClassVar[int] = 2

    draws: int = 8
    kl: float = 0.04
    clip: float = 0.2
    scale_std: bool = True
    scale_length: bool = True

    @torch.no_grad()
    def experience(self, lab: Lab, rollouts: Rollouts) -> Compared:
        """Rollouts with their advantages, and the log-probabilities that the loss needs."""
        score, logp, base = lab.reward(rollouts), lab.policy(rollouts).logp, lab.reference(rollouts).logp
        lab.log(reward=score.mean(), kl_k1=(logp - base).sum(1).mean())
        return Compared(rollouts, logp, base, group_advantages(score, self.draws, self.scale_std))

    def loss(self, lab: Lab, batch: Compared) -> Tensor:
        """Clipped policy loss and KL penalty [B], averaged over each row's tokens (or divided by the maximum length)."""
        logp, mask = lab.policy(batch.rollouts).logp, batch.rollouts.completion_mask
        loss = clipped_loss(logp - batch.logp, batch.advantages.unsqueeze(1), self.clip, self.clip)
        loss = loss + self.kl * k3(logp, batch.base_logp)
        return row_mean(loss, mask) if self.scale_length else (loss * mask).sum(1) / lab.new_tokens
