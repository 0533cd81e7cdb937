"""Group relative policy optimisation by TRL's trainer."""

from typing import Any

from isoalign import register
from isoalign.baselines.trl_rloo import TRLRLOO


@register
class TRLGRPO(TRLRLOO):
    """``trl.GRPOTrainer``: Shao et al. 2024, "DeepSeekMath", eq. 3; a completion's advantage is its reward's distance from
    its group's mean, in deviations.

    ``loss_type``: how tokens are averaged (``grpo`` is the paper's; TRL also has ``dapo``, ``dr_grpo``, ``bnpo``).
    ``scale_rewards``: over whom deviations are taken (``group``, ``batch`` or ``none``). ``beta`` is the price of KL in the
    loss here (their estimator k3); the rest is as in ``trl_rloo``.
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
        """The class of TRL's."""
        return "GRPOTrainer"

    def settings(self) -> dict[str, Any]:
        """What is configured of it."""
        return super().settings() | {"loss_type": self.loss_type, "scale_rewards": self.scale_rewards}
