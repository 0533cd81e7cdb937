"""Reinforcement learning from AI feedback: an AI judge's verdicts instead of human ones."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Needs, Paper, Rollouts, register
from isoalign.baselines.ppo import PENALISED, PPO


@register
class RLAIF(PPO):
    """Lee et al. 2023, "RLAIF vs. RLHF": PPO with a reward from the AI judge.

    ``mode``: ``canonical`` trains a reward model on pairs labelled by the judge; ``direct`` uses the log-odds of the judge's
    score as reward (their section 2.2.2). The other settings are those of PPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Lee et al.", "RLAIF vs. RLHF: Scaling Reinforcement Learning from Human Feedback with AI Feedback", 2023,
        "2309.00267", "section 2.2", family="judge",
        learns_from="a reward model of an AI judge's verdicts, or the judge's own score", values={"kl": "0.05", "lr": "1e-5"},
        parity="test_ppo.py: PPO with another reward", logs=PENALISED,
    )  # fmt: skip

    needs: ClassVar[Needs] = {"mode=direct": ("judge_score",), "mode=canonical": ("judge_reward",)}

    mode: str = "canonical"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("canonical", "direct"):
            raise ValueError(f"mode must be canonical or direct, not {self.mode!r}")

    def score(self, lab: Lab, rollouts: Rollouts) -> Tensor:
        """The reward of each completion [B]; in direct mode `PPO` clips it like any other, at ``reward_clip``."""
        if self.mode == "direct":
            return lab.judge_score(rollouts).logit(eps=1e-3)
        return lab.reward(rollouts, labelled_by="judge")
