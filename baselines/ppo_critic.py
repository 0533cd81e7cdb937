"""PPO with a value model of its own."""

from torch import Tensor

from isoalign import Lab, Rollouts, register
from isoalign.baselines.ppo import PPO


@register
class PPOCritic(PPO):
    """PPO as Ouyang et al. 2022, "Training language models to follow instructions with human feedback", set it up: values come
    from a model apart, so that their loss does not pull at the policy. It begins as the SFT base, theirs as the reward model.
    Its passes and its training are on the bill.
    """

    value_weight: float = 1.0

    def values(self, lab: Lab, rollouts: Rollouts, hidden: Tensor) -> Tensor:
        """Expected reward to come before each token [B, T]."""
        return lab.critic(rollouts)
