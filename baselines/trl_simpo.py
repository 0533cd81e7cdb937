"""SimPO by TRL's trainer."""

from isoalign import register
from isoalign.baselines.trl_cpo import TRLCPO


@register
class TRLSimPO(TRLCPO):
    """``trl.experimental.cpo.CPOTrainer`` with the loss of Meng et al. 2024, "SimPO", eq. 6, without a likelihood term.

    ``beta``: scale of the rewards; ``simpo_gamma``: target margin between the rewards of the chosen and rejected answers.
    """

    beta: float = 2.0
    cpo_alpha: float = 0.0
    loss_type: str = "simpo"
    simpo_gamma: float = 1.0
