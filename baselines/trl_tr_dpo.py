"""TR-DPO by TRL's trainer."""

from typing import ClassVar

from isoalign import Lab, Needs, Paper, register, trl
from isoalign.baselines.trl_dpo import TRLDPO


@register
class TRLTRDPO(TRLDPO):
    """``trl.DPOTrainer`` with ``sync_ref_model``: Gorbatovski et al. 2024, "Learn Your Reference Model for Real Good
    Alignment", in TRL's own training loop. The settings are those of ``tr_dpo``. TRL moves no reference of an adapter.
    """

    paper: ClassVar[Paper] = Paper(
        "Gorbatovski et al.", "Learn Your Reference Model for Real Good Alignment", 2024, "2404.09656",
        "section 3, soft update", family="pairs", learns_from="pairs, against a reference that follows the policy",
        values={"beta": "0.05", "alpha": "0.6", "tau": "512"},
        parity="test_anchor.py: the weights of tr_dpo after a whole run",
    )  # fmt: skip

    needs: ClassVar[Needs] = {"": ("pairs", "all_weights")}
    kl_price: ClassVar[str] = ""

    alpha: float = 0.6
    tau: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1 or self.tau < 1:
            raise ValueError("alpha must lie in (0, 1] and tau be 1 or more")

    def train(self, lab: Lab) -> None:
        """Train on the pairs of ``dpo``, in the same order."""
        trl.train(
            lab, "DPOTrainer", lambda: trl.preferences(lab.pairs(self.batch_size)), beta=self.beta, max_length=None,
            sync_ref_model=True, ref_model_mixup_alpha=self.alpha, ref_model_sync_steps=self.tau,
        )  # fmt: skip
