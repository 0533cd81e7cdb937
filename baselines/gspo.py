"""Group sequence policy optimisation: one ratio for a whole answer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Paper, Rollouts, Scalars, Step, register
from isoalign.baselines.grpo import group_advantages
from isoalign.baselines.ppo import minibatches, row_mean

REWARD: Scalars = {"reward": "mean reward of the sampled answers, in deviations of the reward model's training answers"}


@dataclass(frozen=True)
class Grouped(Batch):
    """Rollouts with their tokens' log-probabilities when they were sampled [B, T], advantages [B] or [B, T], and the mean
    number of tokens of the step's answers [B]."""

    rollouts: Rollouts
    logp: Tensor
    advantages: Tensor
    mean_length: Tensor


@dataclass(frozen=True)
class GroupLoss:
    """A loss on groups of fresh answers. Advantages are GRPO's: the papers name no deviation; here it is the unbiased one of
    the group, with 1e-4 added to it, as in TRL (verl adds 1e-6). There is no KL penalty.

    ``rollouts``: completions per iteration; ``draws``: samples per prompt, a group.
    """

    rollouts: int = 64
    draws: int = 8
    epochs: int = 2
    minibatch: int = 32
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if min(self.epochs, self.minibatch) < 1 or not 2 <= self.draws <= self.rollouts:
            raise ValueError("epochs and minibatch must be 1 or more, draws 2 or more and rollouts at least draws")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample groups; then epochs of minibatches over all."""
        yield from by_tokens(lab, grouped(lab, *self.sample(lab), self.draws), self.loss, self.epochs, self.minibatch)

    def sample(self, lab: Lab) -> tuple[Rollouts, Tensor]:
        """Answers in groups, and their scores [B]."""
        answers = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        score = lab.reward(answers)
        lab.log(reward=score.mean())
        return answers, score

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """One value an answer [B]."""
        raise NotImplementedError


@register
class GSPO(GroupLoss):
    """Zheng et al. 2025, "Group Sequence Policy Optimization", eq. 5: PPO's clipping of the ratio of the whole answer's
    likelihood, taken to the power 1 / length (eq. 7).

    ``clip``, ``clip_high``: how far the ratio may fall and rise. It is a mean over tokens, so it stays much closer to 1 than
    a token's. The other settings, and the advantages (eq. 6), are those of all losses on groups.
    """

    paper: ClassVar[Paper] = Paper(
        "Zheng et al.", "Group Sequence Policy Optimization", 2025, "2507.18071", "eq. 5", family="reward",
        learns_from="a reward model, on groups of its own answers", values={"clip": "3e-4", "clip_high": "4e-4"},
        parity="test_grpo_relatives.py: TRL's GRPOTrainer, importance_sampling_level sequence, loss and gradient",
        logs=REWARD,
    )  # fmt: skip

    clip: float = 0.03
    clip_high: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.clip < 1 or self.clip_high < 0:
            raise ValueError("clip must lie in [0, 1) and clip_high be 0 or more")

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """-min(s A, clip(s) A) of each answer's ratio s = exp(mean over its tokens of the log-ratio) [B]."""
        log_ratio = row_mean(lab.policy(batch.rollouts).logp - batch.logp, batch.rollouts.completion_mask)
        return clipped_loss(log_ratio, batch.advantages, self.clip, self.clip_high)


def grouped(lab: Lab, rollouts: Rollouts, score: Tensor, draws: int) -> Grouped:
    """Rollouts with advantages within groups of ``draws``, and what the policy that sampled them said."""
    with torch.no_grad():
        logp = lab.policy(rollouts).logp
    return Grouped(rollouts, logp, group_advantages(score, draws, scale=True), torch.ones_like(score))


def by_tokens(lab: Lab, batch: Grouped, loss: Callable[[Any, Any], Tensor], epochs: int, size: int) -> Iterator[Step]:
    """Minibatches whose rows know the mean length of their step, so that the mean over rows is one over the step's tokens."""
    for step in minibatches(lab, batch, loss, epochs, size):
        rows: Any = step.batch
        mean = rows.rollouts.completion_mask.sum(1).float().mean()
        yield Step(replace(rows, mean_length=mean.expand(len(rows))), loss)


def clipped_loss(log_ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A), elementwise."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
