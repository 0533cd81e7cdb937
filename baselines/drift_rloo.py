"""A control for drift: RLOO on a reward that means nothing."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Needs, Paper, Rollouts, Step, register
from isoalign.baselines.reinforce import PRICED, Weighed, reinforce_loss
from isoalign.baselines.rloo import leave_one_out

TABLE = 2**18  # random numbers; tokens and verdicts beyond share them


@register
class DriftRLOO:
    """RLOO whose reward of an answer is the sum of random weights of its tokens, over the root of their number.

    What it changes is what moving away from the base in some direction changes: a method has learned what it gains beyond
    that, at equal KL. Directions differ much, so have several.

    ``reward_seed``: which random weights. The other settings are those of RLOO.
    """

    paper: ClassVar[Paper] = Paper(
        "isoalign", "A control for drift", 2026, equation="docs/statistics.md", family="none",
        learns_from="random rewards: a control", parity="test_drift.py: numbers worked by hand",
        logs=PRICED | {"reward": "mean random reward of the sampled answers, about a deviation wide"},
    )  # fmt: skip

    needs: ClassVar[Needs] = {}
    control: ClassVar[bool] = True

    rollouts: int = 64
    draws: int = 4
    kl: float = 0.05
    lr: float = 3e-4
    reward_seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.draws <= self.rollouts:
            raise ValueError("draws must be 2 or more, to leave one out, and rollouts at least draws")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of new completions, one step, as RLOO's."""
        rollouts = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        with torch.no_grad():
            score, drift = token_reward(rollouts, self.reward_seed), lab.log_ratio(rollouts)
        lab.log(reward=score.mean(), kl_k1=drift.mean())
        yield Step(Weighed(rollouts, leave_one_out(score - self.kl * drift, self.draws)), reinforce_loss)


def token_reward(rollouts: Rollouts, seed: int) -> Tensor:
    """The sum of the random weights of each completion's tokens, over the root of their number [B]."""
    mask = rollouts.completion_mask
    return (random_numbers(rollouts.completion, seed) * mask).sum(1) / mask.sum(1).clamp(min=1).sqrt()


def random_numbers(index: Tensor, seed: int) -> Tensor:
    """A standard normal number for each integer, the same whenever and wherever it is asked for; of the shape of ``index``."""
    table = torch.randn(TABLE, generator=torch.Generator().manual_seed(seed))
    return table.to(index.device)[index % TABLE]
