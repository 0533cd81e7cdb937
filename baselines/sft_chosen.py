"""The control: further supervised fine-tuning on the chosen answers."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, Rollouts, Step, register


@register
class SFTChosen:
    """Negative log-likelihood of the chosen answers. A method's gain over it is due to preferences, not imitation.

    The mean is over each answer's tokens, then over answers; in most trainers it is over the tokens of all answers.
    """

    paper: ClassVar[Paper] = Paper(
        "Rafailov et al.", "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023,
        "2305.18290", "section 6, Preferred-FT", family="none", learns_from="the preferred answers, imitated: the control",
        parity="test_reference_free.py: ORPO's likelihood, itself against TRL's ORPOTrainer",
    )  # fmt: skip

    batch_size: int = 32
    lr: float = 1e-4

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of chosen answers, one step."""
        yield Step(lab.pairs(self.batch_size).chosen, self.loss)

    def loss(self, lab: Lab, chosen: Rollouts) -> Tensor:
        """Mean negative log-likelihood of each answer's tokens [B]."""
        return -mean_logp(lab, chosen)


def mean_logp(lab: Lab, rollouts: Rollouts) -> Tensor:
    """Log-probability of each answer under the policy, averaged over its tokens, in nats per token [B]."""
    return lab.policy(rollouts).logp.sum(1) / rollouts.completion_mask.sum(1)
