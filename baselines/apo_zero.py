"""Anchored preference optimisation for pairs whose chosen answers are better than the policy's own."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import MARGIN
from isoalign.baselines.parts.pairs import PairLoss, implicit_rewards


@register
class APOZero(PairLoss):
    """D'Oosterlinck et al. 2024, "Anchored Preference Optimization", eq. 7: the chosen answer becomes likelier and the
    rejected one less likely, each by itself.

    The settings are those of DPO; but no field is a KL coefficient, since both terms saturate. The loss is 1 more than the
    paper's, so that it is never negative, as TRL has it.
    """

    paper: ClassVar[Paper] = Paper(
        "D'Oosterlinck et al.", "Anchored Preference Optimization and Contrastive Revisions", 2024, "2408.06266", "eq. 7",
        family="pairs", learns_from="pairs whose chosen answers are better than the policy's own",
        values={"beta": "0.1", "batch_size": "64", "lr": "2e-7"},
        parity="test_pairwise.py: TRL's DPOTrainer with loss_type apo_zero, loss and gradient", logs=MARGIN,
    )  # fmt: skip

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """1 - sigmoid(reward of the chosen) + sigmoid(reward of the rejected) [B]."""
        chosen, rejected = implicit_rewards(lab, pairs, self.beta)
        return 1 - chosen.sigmoid() + rejected.sigmoid()
