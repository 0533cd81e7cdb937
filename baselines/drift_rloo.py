"""A control for drift: RLOO on a reward that means nothing."""

from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Needs, Paper, Rollouts, register
from isoalign.baselines.parts.sampling import PRICED
from isoalign.baselines.rloo import RLOO

TABLE = 2**18  # random numbers; tokens and verdicts beyond share them


@register
class DriftRLOO(RLOO):
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
    kl_price: ClassVar[str] = ""  # what it is paid means nothing
    closed_form: ClassVar[bool] = False

    reward_seed: int = 0

    def score(self, lab: Lab, rollouts: Rollouts) -> Tensor:
        """The random reward of each completion [B]."""
        return token_reward(rollouts, self.reward_seed)


def token_reward(rollouts: Rollouts, seed: int) -> Tensor:
    """The sum of the random weights of each completion's tokens, over the root of their number [B]."""
    mask = rollouts.completion_mask
    return (random_numbers(rollouts.completion, seed) * mask).sum(1) / mask.sum(1).clamp(min=1).sqrt()


def random_numbers(index: Tensor, seed: int) -> Tensor:
    """A standard normal number for each integer, the same whenever and wherever it is asked for; of the shape of ``index``."""
    table = torch.randn(TABLE, generator=torch.Generator().manual_seed(seed))
    return table.to(index.device)[index % TABLE]
