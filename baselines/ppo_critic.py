"""PPO with a separate value model."""

from torch import Tensor

from isoalign import Lab, Rollouts, register
from isoalign.baselines.ppo import PPO


@register
class PPOCritic(PPO):
    """PPO as in Ouyang et al. 2022, "Training language models to follow instructions with human feedback": values come from a
    separate model, so that their loss does not change the policy. It is initialized from the SFT base, theirs from the reward
    model. Its passes and its training are charged.
    """

    value_weight: float = 1.0

    def values(self, lab: Lab, rollouts: Rollouts, hidden: Tensor) -> Tensor:
        """Expected future reward before each token [B, T]."""
        return lab.critic(rollouts)
