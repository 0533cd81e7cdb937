"""SimPO by TRL's trainer."""

from typing import ClassVar

from isoalign import Paper, register
from isoalign.baselines.trl_cpo import TRLCPO


@register
class TRLSimPO(TRLCPO):
    """``trl.experimental.cpo.CPOTrainer`` with the loss of Meng et al. 2024, "SimPO", eq. 6, without a likelihood term.

    ``beta``: scale of the rewards; ``simpo_gamma``: target margin between the rewards of the chosen and rejected answers.
    The other settings are those of ``trl_cpo``.
    """

    paper: ClassVar[Paper] = Paper(
        "Meng et al.", "SimPO: Simple Preference Optimization with a Reference-Free Reward", 2024, "2405.14734", "eq. 6",
        family="pairs", learns_from="pairs, without a reference",
        values={"beta": "2 to 2.5", "simpo_gamma": "0.3 to 1.6", "batch_size": "128", "lr": "3e-7 to 1e-6"},
        parity="test_trl.py: the paper's first loss and gradient",
    )  # fmt: skip

    beta: float = 2.0
    cpo_alpha: float = 0.0
    loss_type: str = "simpo"
    simpo_gamma: float = 1.0
