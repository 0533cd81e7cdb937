"""Anchored preference optimisation for pairs whose chosen answers are worse than the policy's own."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import MARGIN
from isoalign.baselines.parts.pairs import PairLoss, implicit_rewards


@register
class APODown(PairLoss):
    """D'Oosterlinck et al. 2024, "Anchored Preference Optimization", eq. 8: both answers become less likely, the rejected one
    more so.

    The settings are those of DPO; no field is a KL coefficient. The loss is 1 more than the paper's, as in ``apo_zero``.
    """

    paper: ClassVar[Paper] = Paper(
        "D'Oosterlinck et al.", "Anchored Preference Optimization and Contrastive Revisions", 2024, "2408.06266", "eq. 8",
        family="pairs", learns_from="pairs whose chosen answers are worse than the policy's own",
        values={"beta": "0.1", "batch_size": "64", "lr": "2e-7"},
        parity="test_pairwise.py: TRL's DPOTrainer with loss_type apo_down, loss and gradient", logs=MARGIN,
    )  # fmt: skip

    suppresses: ClassVar[bool] = True  # on pairs of the policy's own answers the best one loses likelihood as well

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """sigmoid(reward of the chosen) + 1 - sigmoid(difference of the rewards) [B]."""
        chosen, rejected = implicit_rewards(lab, pairs, self.beta)
        return chosen.sigmoid() + 1 - (chosen - rejected).sigmoid()
