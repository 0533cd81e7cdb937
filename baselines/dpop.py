"""DPO-positive: DPO that pays where the chosen answer loses likelihood."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import DPO, MARGIN
from isoalign.baselines.parts.pairs import implicit_rewards


@register
class DPOP(DPO):
    """Pal et al. 2024, "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive": DPO's margin less
    ``penalty`` times the nats by which the chosen answer is less likely than under the base, if it is.

    ``penalty``: their lambda. The other settings are those of DPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Pal et al.", "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive", 2024, "2402.13228",
        "the loss DPOP", family="pairs", learns_from="pairs", values={"beta": "0.3", "penalty": "50"},
        parity="test_pairwise.py: numbers worked by hand, and DPO's where nothing is lost", logs=MARGIN,
    )  # fmt: skip

    closed_form: ClassVar[bool] = False

    penalty: float = 5.0

    def __post_init__(self) -> None:
        if self.penalty < 0:
            raise ValueError("penalty must be 0 or more")

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(beta * (margin - penalty * max(0, -log-ratio of the chosen))) [B]."""
        chosen, rejected = implicit_rewards(lab, pairs, self.beta)
        return -logsigmoid(chosen - rejected - self.penalty * (-chosen).relu())
