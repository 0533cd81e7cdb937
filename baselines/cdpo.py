"""Conservative DPO: DPO with label smoothing."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import DPO, MARGIN, margin


@register
class CDPO(DPO):
    """Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO": DPO, where the chosen answer is the better
    one with probability 1 - ``label_smoothing``. The optimal margin is logit(1 - label_smoothing) / beta nats.

    The other settings are those of DPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Mitchell", "A note on DPO with noisy preferences & relationship to IPO", 2023, equation="eq. 3", family="pairs",
        learns_from="pairs, believed with probability 1 - label_smoothing",
        parity="test_dpo_relatives.py: TRL's DPOTrainer on both orders of each pair, loss and gradient", logs=MARGIN,
    )  # fmt: skip

    label_smoothing: float = 0.05

    closed_form: ClassVar[bool] = False  # smoothed labels bring every margin closer to 0 than the reward's

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), not {self.label_smoothing}")

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """Cross-entropy of sigmoid(beta * margin) against 1 - label_smoothing [B]."""
        reward_gap = self.beta * margin(lab, pairs)
        return -(1 - self.label_smoothing) * logsigmoid(reward_gap) - self.label_smoothing * logsigmoid(-reward_gap)
