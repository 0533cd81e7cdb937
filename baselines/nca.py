"""Noise contrastive alignment: the likelihood of each answer, not of the pair."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import MARGIN
from isoalign.baselines.parts.pairs import PairLoss, implicit_rewards


@register
class NCA(PairLoss):
    """Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards", section 4.1: NCA for pairs.
    The chosen answer's reward is drawn to log 2 and the rejected one's down, so that the chosen one does not lose likelihood.

    ``beta``: their alpha; no field is a KL coefficient, since nothing holds the rejected answer. ``batch_size``: pairs per
    step.
    """

    paper: ClassVar[Paper] = Paper(
        "Chen et al.", "Noise Contrastive Alignment of Language Models with Explicit Rewards", 2024, "2402.05369",
        "section 4.1, for pairs", family="pairs", learns_from="pairs, each answer by itself",
        values={"beta": "0.01", "batch_size": "32", "lr": "5e-6"},
        parity="test_pairwise.py: TRL's DPOTrainer with loss_type nca_pair, loss and gradient", logs=MARGIN,
    )  # fmt: skip

    beta: float = 0.03

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(reward of the chosen) - the mean over both of log sigmoid(-reward) [B]."""
        chosen, rejected = implicit_rewards(lab, pairs, self.beta)
        return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
