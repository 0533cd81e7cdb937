"""A control for drift: DPO on verdicts by coin."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Needs, Pairs, Paper, register
from isoalign.baselines.dpo import MARGIN, margin
from isoalign.baselines.drift_rloo import random_numbers
from isoalign.baselines.parts.pairs import PairLoss


@register
class DriftDPO(PairLoss):
    """DPO, where a coin says which answer of a pair is the better one, once for each pair.

    What it changes is what moving away from the base changes, on the same answers: a method has learned what it gains beyond
    that, at equal KL.

    ``verdict_seed``: which coins. The other settings are those of DPO, with a ``beta`` and ``lr`` by which it goes several
    nats: a drift of 1 nat says nothing of methods at 4.
    """

    paper: ClassVar[Paper] = Paper(
        "isoalign", "A control for drift", 2026, equation="docs/statistics.md", family="none",
        learns_from="pairs with verdicts by coin: a control", parity="test_drift.py: numbers worked by hand", logs=MARGIN,
    )  # fmt: skip

    needs: ClassVar[Needs] = {"": ("pairs",)}
    control: ClassVar[bool] = True

    beta: float = 0.03
    lr: float = 3e-4
    verdict_seed: int = 0

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(beta * margin) [B], the margin's sign by coin."""
        coin = random_numbers(pairs.index, self.verdict_seed).sign()
        return -logsigmoid(self.beta * coin * margin(lab, pairs))
