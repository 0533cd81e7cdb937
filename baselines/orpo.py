"""Odds ratio preference optimisation: imitation and preference in one loss, without a reference."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, Step, register
from isoalign.baselines.sft_chosen import mean_logp


@register
class ORPO:
    """Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model", eq. 6: likelihood of the chosen,
    and odds of the chosen against the rejected. Nothing pulls to the base, so no field is a KL coefficient.

    ``odds_weight``: their lambda; with 0 it is the control, ``sft_chosen``. ``batch_size``: pairs per step.
    The likelihood is the answer's; TRL's includes the prompt.
    """

    paper: ClassVar[Paper] = Paper(
        "Hong et al.", "ORPO: Monolithic Preference Optimization without Reference Model", 2024, "2403.07691", "eq. 6",
        family="pairs", learns_from="pairs, without a reference", values={"odds_weight": "0.1 to 0.25", "lr": "5e-6 to 8e-6"},
        parity="test_reference_free.py: TRL's ORPOTrainer, loss and gradient",
        logs={
            "nll": "mean negative log-likelihood of a token of the chosen answers, in nats",
            "log_odds_ratio": "log of the odds of the chosen over those of the rejected answer",
        },
    )  # fmt: skip

    odds_weight: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if self.odds_weight < 0:
            raise ValueError("odds_weight must be 0 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of pairs, one step."""
        yield Step(lab.pairs(self.batch_size), self.loss)

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log P(chosen) - odds_weight * log sigmoid(log(odds(chosen) / odds(rejected))) [B]; P is the mean per token."""
        chosen, rejected = mean_logp(lab, pairs.chosen), mean_logp(lab, pairs.rejected)
        log_odds_ratio = log_odds(chosen) - log_odds(rejected)
        lab.log(nll=-chosen.mean(), log_odds_ratio=log_odds_ratio.mean())
        return -chosen - self.odds_weight * logsigmoid(log_odds_ratio)


def log_odds(logp: Tensor) -> Tensor:
    """log(P / (1 - P)) of log P, elementwise (eq. 4)."""
    logp = logp.clamp(max=-1e-6)  # the odds of a certain event are infinite
    return logp - (-logp.expm1()).log()
