"""Robust DPO: a loss that is unbiased under label noise."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import MARGIN, margin
from isoalign.baselines.parts.pairs import PairLoss


@register
class RobustDPO(PairLoss):
    """Chowdhury et al. 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback", rDPO: a loss whose mean over
    verdicts flipped at ``flip_rate`` is DPO's on the true ones.

    ``beta`` and ``batch_size``: as in DPO. But no field is a KL coefficient: the margin of a pair without a contradicting
    verdict grows without bound at any beta, since the loss keeps falling by flip_rate / (1 - 2 flip_rate) times beta per nat.
    """

    paper: ClassVar[Paper] = Paper(
        "Chowdhury et al.", "Provably Robust DPO: Aligning Language Models with Noisy Feedback", 2024, "2403.00409",
        "section 3.1", family="pairs", learns_from="pairs, their known noise subtracted",
        values={"beta": "0.1", "flip_rate": "0.1", "batch_size": "16", "lr": "1e-3"},
        parity="test_dpo_relatives.py: TRL's DPOTrainer with loss_type robust, loss and gradient", logs=MARGIN,
    )  # fmt: skip

    flip_rate: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.flip_rate < 0.5:
            raise ValueError(f"flip_rate must lie in [0, 0.5), not {self.flip_rate}")

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """((1 - flip_rate) * DPO's loss - flip_rate * DPO's loss of the flipped pair) / (1 - 2 flip_rate) [B]."""
        reward_gap = self.beta * margin(lab, pairs)
        as_told, flipped = -logsigmoid(reward_gap), -logsigmoid(-reward_gap)
        return ((1 - self.flip_rate) * as_told - self.flip_rate * flipped) / (1 - 2 * self.flip_rate)
