"""Anchored preference optimisation of single answers by TRL's trainer."""

from typing import ClassVar

from isoalign import Lab, Paper, register, trl
from isoalign.baselines.trl_kto import TRLKTO


@register
class TRLAPOZeroUnpaired(TRLKTO):
    """``trl.KTOTrainer`` with the loss of D'Oosterlinck et al. 2024, "Anchored Preference Optimization", eq. 7, on single
    answers: KTO whose reference point is 0. The settings are those of ``trl_kto``.
    """

    paper: ClassVar[Paper] = Paper(
        "D'Oosterlinck et al.", "Anchored Preference Optimization and Contrastive Revisions", 2024, "2408.06266", "eq. 7",
        family="unpaired", learns_from="single answers, each good or bad", values={"beta": "0.1", "lr": "2e-7"},
        parity="test_trl_pairs.py: the paper's first loss",
    )  # fmt: skip

    def train(self, lab: Lab) -> None:
        """Train on the labels of ``kto``, in the same order."""
        trl.train(
            lab, "KTOTrainer", lambda: trl.unpaired(lab.labels(self.batch_size)), beta=self.beta, max_length=None,
            desirable_weight=self.desirable_weight, undesirable_weight=self.undesirable_weight, loss_type="apo_zero_unpaired",
            per_device_train_batch_size=self.batch_size,
        )  # fmt: skip
