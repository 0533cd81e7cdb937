"""KTO by TRL's trainer."""

from typing import ClassVar

from isoalign import Lab, Paper, register, trl


@register
class TRLKTO:
    """``trl.KTOTrainer``: the loss of Ethayarajh et al. 2024, eq. 7, in TRL's own training loop.

    The settings are those of ``kto``: ``beta``, risk aversion; ``desirable_weight`` and ``undesirable_weight``, lambda_D
    and lambda_U; ``batch_size``, answers per step.
    """

    paper: ClassVar[Paper] = Paper(
        "Ethayarajh et al.", "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, "2402.01306", "eq. 7",
        family="unpaired", learns_from="single answers, each good or bad",
        values={
            "beta": "0.1", "desirable_weight": "1 to 4/3 as many times undesirable_weight x bad / good answers",
            "lr": "5e-7 to 5e-6",
        },
        parity="test_trl.py: the weights of kto after a whole run",
    )  # fmt: skip

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    batch_size: int = 64
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError("batch_size must be 2 or more: the estimate of KL needs mismatched answers")

    def train(self, lab: Lab) -> None:
        """Train on the labels of ``kto``, in the same order."""
        trl.train(
            lab, "KTOTrainer", lambda: trl.unpaired(lab.labels(self.batch_size)), beta=self.beta, max_length=None,
            desirable_weight=self.desirable_weight, undesirable_weight=self.undesirable_weight,
            per_device_train_batch_size=self.batch_size,
        )  # fmt: skip
