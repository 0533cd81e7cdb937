"""Group relative policy optimisation: PPO's clipping, with the other completions of a prompt instead of a value head."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Paper, Rollouts, Rows, Step, register
from isoalign.baselines.ppo import minibatches, policy_loss, row_mean
from isoalign.baselines.reinforce import PRICED


@dataclass(frozen=True)
class Compared(Batch):
    """Rollouts with the tokens' log-probabilities under the sampling policy and the base [B, T], and advantages [B]."""

    rollouts: Rollouts
    logp: Tensor
    base_logp: Tensor
    advantages: Tensor


@register
class GRPO:
    """Shao et al. 2024, "DeepSeekMath", eq. 3, with the KL of eq. 4 in the loss and the advantage of section 4.1.2.

    ``rollouts``: completions per iteration; ``draws``: samples per prompt, a group; ``kl``: KL coefficient, per token. The
    paper does not say which deviation it divides by: here it is the unbiased one of the group, with 1e-4 added to it, as in
    TRL (verl adds 1e-6). The estimate of the KL, k3, is not clamped, as in the paper and TRL; verl clamps it to 10.
    Without ``scale_std``, the division by a group's standard deviation, and ``scale_length``, the division by a completion's
    length, it is Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-Like Training"), which removes both as biases.
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
        family="reward", learns_from="a reward model, on groups of its own answers", values={"draws": "8", "kl": "0"},
        parity="test_grpo.py: TRL's GRPOTrainer with loss_type dr_grpo, loss and gradient", logs=PRICED,
    )}}  # fmt: skip

    kl_price: ClassVar[str] = "kl"

    rollouts: int = 64
    draws: int = 8
    epochs: int = 2
    minibatch: int = 32
    kl: float = 0.04
    clip: float = 0.2
    scale_std: bool = True
    scale_length: bool = True
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if min(self.epochs, self.minibatch) < 1 or not 2 <= self.draws <= self.rollouts:
            raise ValueError("epochs and minibatch must be 1 or more, draws 2 or more and rollouts at least draws")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample groups and compute advantages within them; then epochs of minibatches over all."""
        rollouts = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        yield from minibatches(lab, self.compare(lab, rollouts), self.loss, self.epochs, self.minibatch)

    @torch.no_grad()
    def compare(self, lab: Lab, rollouts: Rollouts) -> Compared:
        """Rollouts with their advantages, and the log-probabilities that the loss needs."""
        score, logp, base = lab.reward(rollouts), lab.policy(rollouts).logp, lab.reference(rollouts).logp
        lab.log(reward=score.mean(), kl_k1=(logp - base).sum(1).mean())
        return Compared(rollouts, logp, base, group_advantages(score, self.draws, self.scale_std))

    def loss(self, lab: Lab, batch: Compared) -> Tensor:
        """Clipped policy loss and KL penalty [B], averaged over each row's tokens (or divided by the maximum length)."""
        logp, mask = lab.policy(batch.rollouts).logp, batch.rollouts.completion_mask
        loss = policy_loss(logp - batch.logp, batch.advantages.unsqueeze(1), self.clip)
        loss = loss + self.kl * k3(logp, batch.base_logp)
        return row_mean(loss, mask) if self.scale_length else (loss * mask).sum(1) / lab.new_tokens


def group_advantages(score: Tensor, draws: int, scale: bool) -> Tensor:
    """Scores minus their group's mean [B x draws], over its standard deviation if ``scale``; 0 if all scores are equal."""
    groups = score.view(-1, draws)
    advantages = groups - groups.mean(1, keepdim=True)
    if scale:
        advantages = advantages / (groups.std(1, keepdim=True) + 1e-4)
    return advantages.flatten()


def k3(logp: Tensor, base_logp: Tensor) -> Tensor:
    """Schulman's third estimator of KL(pi || base), per token: b / p - log(b / p) - 1, never negative. Its mean is that KL,
    but its gradient is that of KL(base || pi), so that base * exp(reward / kl) is not the optimum."""
    log_ratio = base_logp - logp
    return log_ratio.exp() - log_ratio - 1
