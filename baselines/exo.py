"""Efficient exact optimisation: the reverse KL between the policy's and the labels' view of a pair."""

import math
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import MARGIN, margin
from isoalign.baselines.parts.pairs import PairLoss


@register
class EXO(PairLoss):
    """Ji et al. 2024, "Towards Efficient Exact Optimization of Language Model Alignment", eq. 16: of the two answers the
    policy, relative to the base, prefers the chosen one with probability sigmoid(beta * margin), the labels with probability
    1 - ``label_smoothing``; the loss is the KL from the former to the latter, where DPO has the reverse.

    ``label_smoothing``: their epsilon, above 0, or the KL is infinite. The other settings are those of DPO; but
    no field is a KL coefficient, since the loss is flat where the policy is sure of the wrong order. The optimal
    margin is logit(1 - label_smoothing) / beta nats.
    """

    paper: ClassVar[Paper] = Paper(
        "Ji et al.", "Towards Efficient Exact Optimization of Language Model Alignment", 2024, "2402.00856", "eq. 16",
        family="pairs", learns_from="pairs",
        values={"beta": "0.1 to 0.5", "label_smoothing": "1e-3", "batch_size": "64", "lr": "1e-6"},
        parity="test_pairwise.py: TRL's DPOTrainer with loss_type exo_pair, loss and gradient", logs=MARGIN,
    )  # fmt: skip

    label_smoothing: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in (0, 0.5), not {self.label_smoothing}: the loss has its logarithm")

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """KL of Bernoulli(sigmoid(beta * margin)) from Bernoulli(1 - label_smoothing), in nats [B]."""
        reward_gap = self.beta * margin(lab, pairs)
        agree = reward_gap.sigmoid() * (logsigmoid(reward_gap) - math.log1p(-self.label_smoothing))
        return agree + (-reward_gap).sigmoid() * (logsigmoid(-reward_gap) - math.log(self.label_smoothing))
