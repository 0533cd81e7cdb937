"""Group relative policy optimisation by TRL's trainer."""

from typing import Any

from isoalign import register
from isoalign.baselines.trl_rloo import TRLRLOO


@register
class TRLGRPO(TRLRLOO):
    """``trl.GRPOTrainer``: Shao et al. 2024, "DeepSeekMath", eq. 3; a completion's advantage is its reward minus its group's
    mean, in standard deviations.

    ``loss_type``: how tokens are averaged (``grpo`` is the paper's; TRL also has ``dapo``, ``dr_grpo``, ``bnpo``).
    ``scale_rewards``: scope of the standard deviation (``group``, ``batch`` or ``none``). ``beta``: KL coefficient, in the
    loss (their estimator k3). The other settings are those of ``trl_rloo``.
    """

    beta: float = 0.04
    num_generations: int = 8
    batch_size: int = 32
    steps_per_generation: int = 2
    num_iterations: int = 2
    loss_type: str = "grpo"
    scale_rewards: str = "group"

    @property
    def trainer(self) -> str:
        """The name of TRL's trainer class."""
        return "GRPOTrainer"

    def settings(self) -> dict[str, Any]:
        """Fields of TRL's configuration."""
        return super().settings() | {"loss_type": self.loss_type, "scale_rewards": self.scale_rewards}
