"""ORPO by TRL's trainer."""

from typing import ClassVar

from isoalign import Lab, Paper, register, trl


@register
class TRLORPO:
    """``trl.experimental.orpo.ORPOTrainer``: Hong et al. 2024, "ORPO", eq. 6, with the likelihood of prompt and answer.

    ``beta``: their lambda, the weight of the odds ratio. ``batch_size``: pairs per step. There is no reference model.
    """

    paper: ClassVar[Paper] = Paper(
        "Hong et al.", "ORPO: Monolithic Preference Optimization without Reference Model", 2024, "2403.07691", "eq. 6",
        family="pairs", learns_from="pairs, without a reference", values={"beta": "0.1 to 0.25", "lr": "5e-6 to 8e-6"},
        parity="test_trl.py: the paper's first loss and gradient",
    )  # fmt: skip

    beta: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4

    def train(self, lab: Lab) -> None:
        """Train on the pairs of ``dpo``, in the same order."""
        trl.train(
            lab, "experimental.orpo.ORPOTrainer", lambda: trl.whole_answers(lab.pairs(self.batch_size)), beta=self.beta
        )  # fmt: skip
