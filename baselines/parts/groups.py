"""Losses on the answers of a step, each weighed by its reward among those of its group, and averaged over all tokens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Rollouts, Step
from isoalign.baselines.parts.advantages import group_advantages
from isoalign.baselines.parts.sampling import OnPolicy, minibatches


@dataclass(frozen=True)
class Grouped(Batch):
    """Rollouts with their tokens' log-probabilities when they were sampled [B, T], advantages [B] or [B, T], and the mean
    number of tokens of the step's answers [B]."""

    rollouts: Rollouts
    logp: Tensor
    advantages: Tensor
    mean_length: Tensor


@dataclass(frozen=True)
class GroupLoss(OnPolicy):
    """A loss on groups of fresh answers. Advantages are GRPO's: the papers name no deviation; here it is the unbiased one of
    the group, with 1e-4 added to it, as in TRL (verl adds 1e-6). There is no KL penalty.

    ``rollouts``: completions per iteration; ``draws``: samples per prompt, a group.
    """

    least_draws: ClassVar[int] = 2

    draws: int = 8

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample groups; then epochs of minibatches over all."""
        yield from by_tokens(lab, grouped(lab, *self.sample(lab), self.draws), self.loss, self.epochs, self.minibatch)

    def sample(self, lab: Lab) -> tuple[Rollouts, Tensor]:
        """Answers in groups, and their scores [B]."""
        answers = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        score = lab.reward(answers)
        lab.log(reward=score.mean())
        return answers, score


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
