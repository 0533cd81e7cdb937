"""Iterative DPO: pairs from the policy itself, the best of its answers against the worst."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Pairs, Rollouts, Step, register
from isoalign.baselines.dpo import DPO
from isoalign.baselines.ppo import minibatches
from isoalign.baselines.rft import best


@register
class IterativeDPO(DPO):
    """Dong et al. 2024, "RLHF Workflow", after Xiong et al. 2023, "Iterative Preference Learning from Human Feedback": a
    reward model picks the best and the worst answer to each prompt, and the reference stays the SFT base throughout.
    Unlike theirs, an iteration learns from its own pairs alone.

    ``prompts``: an iteration; ``draws``: answers to each; ``epochs`` over the pairs, ``batch_size`` of them a step;
    ``beta``: as in DPO.
    """

    kl_price: ClassVar[str] = ""  # a verdict without chance has no margin that would suffice, at any beta
    closed_form: ClassVar[bool] = False

    prompts: int = 128
    draws: int = 4
    epochs: int = 2

    def __post_init__(self) -> None:
        if min(self.prompts, self.epochs, self.batch_size) < 1 or self.draws < 2:
            raise ValueError("prompts, epochs and batch_size must be 1 or more, and draws 2 or more: two make a pair")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample, pair the best with the worst; then epochs of DPO on the pairs."""
        answers = lab.generate(lab.prompts(self.prompts), self.draws)
        score = lab.reward(answers)
        lab.log(reward=score.mean())
        pairs = best_against_worst(answers, score, self.draws)
        yield from minibatches(lab, pairs, self.loss, self.epochs, self.batch_size)


def best_against_worst(answers: Rollouts, score: Tensor, draws: int) -> Pairs:
    """A pair of each prompt's ``draws`` answers [B], by their scores [B x draws]; where all are alike it is an answer
    against itself, of which DPO learns nothing."""
    chosen, rejected = best(score, draws), best(-score, draws)
    return Pairs(answers[chosen], answers[rejected], torch.arange(len(chosen), device=score.device))
