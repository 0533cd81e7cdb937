"""DPO with a beta that follows the margins of each batch, which leaves out the pairs with unusual margins."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Batch, Lab, Pairs, Paper, Step, register
from isoalign.baselines.dpo import MARGIN, margin
from isoalign.baselines.parts.pairs import PairLoss


@dataclass(frozen=True)
class Tempered(Batch):
    """Pairs with the beta of their batch [B]."""

    pairs: Pairs
    beta: Tensor


@register
class BetaDPO(PairLoss):
    """Wu et al. 2024, "beta-DPO: Direct Preference Optimization with Dynamic beta", algorithm 1. From the margins M of a
    batch come moving averages of mean M0 and deviation; pairs are kept with a chance that falls with their distance from M0
    (a normal density), and beta is ``beta`` * (1 + ``alpha`` * (mean margin of the kept - M0)).

    ``keep``: their rho, share of a batch that is kept, without replacement; ``momentum``: of the averages, which start at 0.
    ``scale_margin``: margins are times ``beta``, as in the paper; the authors' code has them in nats. As there, beta is .001
    at least and the deviation unbiased. ``batch_size``: pairs per step before that. The pass over the batch that finds the
    margins is paid. No field is a KL coefficient.
    """

    paper: ClassVar[Paper] = Paper(
        "Wu et al.", "beta-DPO: Direct Preference Optimization with Dynamic beta", 2024, "2407.08639", "algorithm 1",
        family="pairs", learns_from="pairs, without those of unusual margin",
        values={"beta": "0.1", "alpha": "0.6", "keep": "0.8", "momentum": "0.9"},
        parity="test_pairwise.py: numbers worked by hand",
        logs=MARGIN | {
            "batch_beta": "beta of the step", "usual_margin": "moving average of the margins, which beta is compared to",
        },
    )  # fmt: skip

    alpha: float = 0.6
    keep: float = 0.8
    momentum: float = 0.9
    scale_margin: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 2 or not 0 < self.keep <= 1 or not 0 <= self.momentum < 1:
            raise ValueError("batch_size must be 2 or more, keep lie in (0, 1] and momentum in [0, 1)")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of pairs, of which some are left out; one step."""
        pairs = lab.pairs(self.batch_size)
        with torch.no_grad():
            gaps = lab.log_ratio(pairs.chosen) - lab.log_ratio(pairs.rejected)  # not logged: the step logs those it keeps
            gaps = gaps * (self.beta if self.scale_margin else 1.0)
        for name, value in (("mean", gaps.mean()), ("deviation", gaps.std())):
            lab.state[name] = self.momentum * lab.state.get(name, 0.0) + (1 - self.momentum) * float(value)
        usual = lab.state["mean"]
        weight = -0.5 * ((gaps - usual) / max(lab.state["deviation"], 1e-6)) ** 2
        noise = -(-torch.rand(len(gaps), generator=lab.generator).log()).log()  # the largest sums are a draw by exp(weight)
        kept = (weight + noise.to(weight.device)).topk(max(1, int(self.keep * len(gaps)))).indices
        beta = (self.beta * (1 + self.alpha * (gaps[kept].mean() - usual))).clamp(min=1e-3)
        lab.log(batch_beta=beta, usual_margin=usual)
        yield Step(Tempered(pairs[kept], beta.expand(len(kept))), self.loss)

    def loss(self, lab: Lab, batch: Tempered) -> Tensor:  # type: ignore[override]
        """-log sigmoid(the batch's beta * margin) [B]."""
        return -logsigmoid(batch.beta * margin(lab, batch.pairs))
