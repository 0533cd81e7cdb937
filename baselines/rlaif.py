"""Reinforcement learning from AI feedback: an AI judge's verdicts instead of human ones."""

from torch import Tensor

from isoalign import Lab, Rollouts, register
from isoalign.baselines.ppo import PPO


@register
class RLAIF(PPO):
    """Lee et al. 2023, "RLAIF vs. RLHF": PPO with a reward from the AI judge.

    ``mode``: ``canonical`` trains a reward model on pairs labelled by the judge; ``direct`` uses the log-odds of the judge's
    score as reward (their section 2.2.2).
    """

    mode: str = "canonical"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("canonical", "direct"):
            raise ValueError(f"mode must be canonical or direct, not {self.mode!r}")

    def score(self, lab: Lab, rollouts: Rollouts) -> Tensor:
        """The reward of each completion [B]."""
        if self.mode == "direct":
            return lab.judge_score(rollouts).logit(eps=1e-3)
        return lab.reward(rollouts, labelled_by="judge")
