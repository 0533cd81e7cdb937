"""Group relative policy optimisation by TRL's trainer."""

from typing import Any, ClassVar

from isoalign import Conditions, Paper, Rows, register
from isoalign.baselines.trl_rloo import TRLRLOO


@register
class TRLGRPO(TRLRLOO):
    """``trl.GRPOTrainer``: Shao et al. 2024, "DeepSeekMath", eq. 3; a completion's advantage is its reward minus its group's
    mean, in standard deviations.

    ``loss_type``: how tokens are averaged (``grpo`` is the paper's; TRL also has ``dapo``, ``dr_grpo``, ``bnpo``).
    ``scale_rewards``: scope of the standard deviation (``group``, ``batch`` or ``none``). ``beta``: KL coefficient, in the
    loss (their estimator k3). The other settings are those of ``trl_rloo``.
    """

    paper: ClassVar[Paper] = Paper(
        "Shao et al.", "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024,
        "2402.03300", "eq. 3, with the KL of eq. 4", family="reward",
        learns_from="a reward model, on groups of its own answers",
        values={"num_generations": "64", "num_iterations": "1", "beta": "0.04", "lr": "1e-6"},
        parity="test_trl.py: the paper's first gradient", logs={"reward": "mean reward of the answers that were sampled"},
    )  # fmt: skip

    rows: ClassVar[Rows] = {
        "trl_dr_grpo": {"paper": Paper(
            "Liu et al.", "Understanding R1-Zero-Like Training: A Critical Perspective", 2025, "2503.20783", "section 3.2",
            family="reward", learns_from="a reward model, on groups of its own answers",
            values={"num_generations": "8", "num_iterations": "1", "beta": "0", "lr": "1e-6"},
            parity="test_trl.py: the first gradient",
            logs={"reward": "mean reward of the answers that were sampled"},
        )},
        "trl_bnpo": {"paper": Paper(
            "Xiao et al.", "BNPO: Beta Normalization Policy Optimization", 2025, "2506.02864",
            "the mean over the tokens of a batch, of which TRL has the name", family="reward",
            learns_from="a reward model, on groups of its own answers", parity="test_trl.py: the first gradient",
            logs={"reward": "mean reward of the answers that were sampled"},
        )},
    }  # fmt: skip

    acts_with: ClassVar[Conditions] = {
        "epsilon": ("loss_type", ("grpo", "dapo", "dr_grpo", "bnpo")),
        "loss_type": ("loss_type", ("grpo", "dapo", "dr_grpo", "bnpo")),
        "scale_rewards": ("scale_rewards", ("group", "batch", "none")),
    }  # fmt: skip

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
