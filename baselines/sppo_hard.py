"""Self-play preference optimisation on given pairs: regression of each answer's log-ratio."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import DPO, MARGIN
from isoalign.baselines.parts.pairs import implicit_rewards


@register
class SPPOHard(DPO):
    """Wu et al. 2024, "Self-Play Preference Optimization for Language Model Alignment", eq. 4.7, where the chosen answer
    beats the policy with probability 1 and the rejected one with probability 0: log-ratios are drawn to 1 / (2 beta) and its
    negative.

    ``beta``: 1 / eta of the paper. ``batch_size``: pairs per step. The opponent is the SFT base throughout, and the pairs are
    given; theirs is the policy of the last round, on its own answers, whose chances a preference model estimates.
    """

    paper: ClassVar[Paper] = Paper(
        "Wu et al.", "Self-Play Preference Optimization for Language Model Alignment", 2024, "2405.00675", "eq. 4.7",
        family="pairs", learns_from="pairs, each answer by itself",
        values={"beta": "0.001", "batch_size": "64", "lr": "5e-7"},
        parity="test_pairwise.py: TRL's DPOTrainer with loss_type sppo_hard, loss and gradient", logs=MARGIN,
    )  # fmt: skip

    closed_form: ClassVar[bool] = False  # chances of winning, not rewards

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError("beta must be positive: log-ratios are drawn to 1 / (2 beta)")

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """(log-ratio of the chosen - 1 / (2 beta))^2 + (log-ratio of the rejected + 1 / (2 beta))^2 [B]."""
        chosen, rejected = implicit_rewards(lab, pairs, 1.0)
        target = 1 / (2 * self.beta)
        return (chosen - target) ** 2 + (rejected + target) ** 2
