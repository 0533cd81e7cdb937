"""Group sequence policy optimisation: one ratio for a whole answer."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, Step, register
from isoalign.baselines.dapo import REWARD, Grouped, clipped_loss, grouped
from isoalign.baselines.ppo import minibatches, row_mean


@register
class GSPO:
    """Zheng et al. 2025, "Group Sequence Policy Optimization", eq. 5: GRPO's advantages, and PPO's clipping of the ratio of
    the whole answer's likelihood, taken to the power 1 / length (eq. 7). There is no KL penalty.

    ``clip``, ``clip_high``: how far the ratio may fall and rise. It is a mean over tokens, so it stays much closer to 1 than
    a token's. ``rollouts``, ``draws``: as in GRPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Zheng et al.", "Group Sequence Policy Optimization", 2025, "2507.18071", "eq. 5", family="reward",
        learns_from="a reward model, on groups of its own answers", values={"clip": "3e-4", "clip_high": "4e-4"},
        parity="test_grpo_relatives.py: TRL's GRPOTrainer, importance_sampling_level sequence, loss and gradient",
        logs=REWARD,
    )  # fmt: skip

    rollouts: int = 64
    draws: int = 8
    epochs: int = 2
    minibatch: int = 32
    clip: float = 0.03
    clip_high: float = 0.04
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if min(self.epochs, self.minibatch) < 1 or not 2 <= self.draws <= self.rollouts:
            raise ValueError("epochs and minibatch must be 1 or more, draws 2 or more and rollouts at least draws")
        if not 0 <= self.clip < 1 or self.clip_high < 0:
            raise ValueError("clip must lie in [0, 1) and clip_high be 0 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample groups; then epochs of minibatches over all."""
        answers = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        score = lab.reward(answers)
        lab.log(reward=score.mean())
        yield from minibatches(lab, grouped(lab, answers, score, self.draws), self.loss, self.epochs, self.minibatch)

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """-min(s A, clip(s) A) of each answer's ratio s = exp(mean over its tokens of the log-ratio) [B]."""
        log_ratio = row_mean(lab.policy(batch.rollouts).logp - batch.logp, batch.rollouts.completion_mask)
        return clipped_loss(log_ratio, batch.advantages, self.clip, self.clip_high)
