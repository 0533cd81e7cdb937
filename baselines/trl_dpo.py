"""DPO by TRL's trainer."""

from typing import ClassVar

from isoalign import Lab, Paper, register, trl


@register
class TRLDPO:
    """``trl.DPOTrainer``: the loss of Rafailov et al. 2023, eq. 7, in TRL's own training loop.

    The settings are those of ``dpo``: ``beta``, the KL coefficient; ``batch_size``, pairs per step.
    """

    paper: ClassVar[Paper] = Paper(
        "Rafailov et al.", "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023,
        "2305.18290", "eq. 7", family="pairs", learns_from="pairs",
        values={"beta": "0.1 to 0.5", "batch_size": "64", "lr": "1e-6"},
        parity="test_trl.py: the weights of dpo after a whole run",
    )  # fmt: skip

    kl_price: ClassVar[str] = "beta"

    beta: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4

    def train(self, lab: Lab) -> None:
        """Train on the pairs of ``dpo``, in the same order."""
        trl.train(lab, "DPOTrainer", lambda: trl.preferences(lab.pairs(self.batch_size)), beta=self.beta, max_length=None)
