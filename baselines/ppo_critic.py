"""PPO with a separate value model."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, Rollouts, register
from isoalign.baselines.ppo import PENALISED, PPO


@register
class PPOCritic(PPO):
    """PPO as in Ouyang et al. 2022, "Training language models to follow instructions with human feedback": values come from a
    separate model, so that their loss does not change the policy. Its passes and its training are charged.

    ``start``: what that model starts from, ``policy``, a copy with a head at 0, or ``reward``, the reward model, as in the
    paper. The other settings are those of PPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Ouyang et al.", "Training language models to follow instructions with human feedback", 2022, "2203.02155",
        "appendix C.4", family="reward", learns_from="a reward model, with a value model of its own",
        values={"epochs": "1", "kl": "0.02", "gamma": "1", "clip": "0.2"},
        parity="test_ppo.py: PPO with another value function", logs=PENALISED,
    )  # fmt: skip

    value_weight: float = 1.0
    start: str = "policy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in ("policy", "reward"):
            raise ValueError(f"start must be policy or reward, not {self.start!r}")

    def values(self, lab: Lab, rollouts: Rollouts, hidden: Tensor) -> Tensor:
        """Expected future reward before each token [B, T]."""
        return lab.critic(rollouts, self.start)
