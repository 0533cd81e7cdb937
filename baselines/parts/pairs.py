"""Losses on pairs with DPO's settings and steps."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Pairs
from isoalign.baselines.dpo import DPO


@dataclass(frozen=True)
class PairLoss(DPO):
    """A loss on pairs with the settings of DPO, of which none is a KL coefficient."""

    kl_price: ClassVar[str] = ""
    closed_form: ClassVar[bool] = False


def implicit_rewards(lab: Lab, pairs: Pairs, beta: float) -> tuple[Tensor, Tensor]:
    """``beta`` times the log-ratio to the base of the chosen and of the rejected answer [B] each."""
    chosen, rejected = lab.log_ratio(pairs.chosen), lab.log_ratio(pairs.rejected)
    lab.log(chosen_log_ratio=chosen.mean(), rejected_log_ratio=rejected.mean())
    return beta * chosen, beta * rejected
