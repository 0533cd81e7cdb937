"""CPO by TRL's trainer."""

from typing import ClassVar

from isoalign import Conditions, Lab, Paper, register, trl


@register
class TRLCPO:
    """``trl.experimental.cpo.CPOTrainer``: Xu et al. 2024, "Contrastive Preference Optimization", eq. 3: DPO with a uniform
    reference, and the likelihood of the chosen answers.

    ``beta``: scale of the log-probabilities; ``cpo_alpha``: weight of the likelihood. ``loss_type`` ``simpo`` averages over
    tokens and has the target margin ``simpo_gamma``. ``batch_size``: pairs per step. There is no reference model.
    """

    paper: ClassVar[Paper] = Paper(
        "Xu et al.", "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine Translation",
        2024, "2401.08417", "eq. 3", family="pairs",
        learns_from="pairs, without a reference; the chosen answers are imitated as well",
        values={"beta": "0.1", "cpo_alpha": "1", "batch_size": "128", "lr": "1e-4"},
        parity="test_trl.py: the paper's first loss and gradient",
    )  # fmt: skip

    acts_with: ClassVar[Conditions] = {"simpo_gamma": ("loss_type", ("simpo",))}

    beta: float = 0.1
    cpo_alpha: float = 1.0
    loss_type: str = "sigmoid"
    simpo_gamma: float = 0.0
    batch_size: int = 32
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if self.loss_type not in ("sigmoid", "hinge", "ipo", "simpo"):
            raise ValueError(f"loss_type must be sigmoid, hinge, ipo or simpo, not {self.loss_type!r}")

    def train(self, lab: Lab) -> None:
        """Train on the pairs of ``dpo``, in the same order."""
        trl.train(
            lab, "experimental.cpo.CPOTrainer", lambda: trl.whole_answers(lab.pairs(self.batch_size)), beta=self.beta,
            cpo_alpha=self.cpo_alpha, loss_type=self.loss_type, simpo_gamma=self.simpo_gamma,
        )  # fmt: skip
