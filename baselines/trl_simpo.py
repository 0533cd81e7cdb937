"""SimPO by TRL's trainer."""

from isoalign import register
from isoalign.baselines.trl_cpo import TRLCPO


@register
class TRLSimPO(TRLCPO):
    """``trl.experimental.cpo.CPOTrainer`` with the loss of Meng et al. 2024, "SimPO", eq. 6, and no likelihood beside it.

    ``beta``: scale of the rewards; ``simpo_gamma``: by how much the chosen answer's is to exceed the rejected one's.
    """

    beta: float = 2.0
    cpo_alpha: float = 0.0
    loss_type: str = "simpo"
    simpo_gamma: float = 1.0
