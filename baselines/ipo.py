"""Identity preference optimisation."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Pairs, Paper, Step, register
from isoalign.baselines.dpo import MARGIN, margin


@register
class IPO:
    """Azar et al. 2024, "A General Theoretical Paradigm to Understand Learning from Human Preferences", eq. 17: regression
    of the margin, so that it stays bounded on pairs with unanimous verdicts, unlike in DPO.

    ``beta``: their tau; the target margin is 1 / (2 beta) nats. ``batch_size``: pairs per step.
    As in the paper, log-ratios are summed over an answer's tokens. TRL divides each by its answer's length, so that its
    margin is in nats per token and its beta about ours times the length.
    """

    paper: ClassVar[Paper] = Paper(
        "Azar et al.", "A General Theoretical Paradigm to Understand Learning from Human Preferences", 2024, "2310.12036",
        "eq. 17", family="pairs", learns_from="pairs", values={"batch_size": "90", "lr": "1e-2"},
        parity="test_dpo_relatives.py: TRL's DPOTrainer with loss_type ipo, loss and gradient up to its division by length",
        logs=MARGIN,
    )  # fmt: skip

    beta: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4

    kl_price: ClassVar[str] = "beta"  # against the probability of winning, not a reward

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError("beta must be positive: the margin is drawn to 1 / (2 beta)")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of pairs, one step."""
        yield Step(lab.pairs(self.batch_size), self.loss)

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """(margin - 1 / (2 beta))^2 [B]."""
        return (margin(lab, pairs) - 1 / (2 * self.beta)) ** 2
