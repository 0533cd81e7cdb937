"""Group sequence policy optimisation: one ratio for a whole answer."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, register
from isoalign.baselines.parts.groups import Grouped, GroupLoss
from isoalign.baselines.parts.losses import clipped_loss, row_mean
from isoalign.baselines.parts.sampling import REWARD


@register
class GSPO(GroupLoss):
    """Zheng et al. 2025, "Group Sequence Policy Optimization", eq. 5: PPO's clipping of the ratio of the whole answer's
    likelihood, taken to the power 1 / length (eq. 7).

    ``clip``, ``clip_high``: how far the ratio may fall and rise. It is a mean over tokens, so it stays much closer to 1 than
    a token's. The other settings, and the advantages (eq. 6), are those of all losses on groups.
    """

    paper: ClassVar[Paper] = Paper(
        "Zheng et al.", "Group Sequence Policy Optimization", 2025, "2507.18071", "eq. 5", family="reward",
        learns_from="a reward model, on groups of its own answers", values={"clip": "3e-4", "clip_high": "4e-4"},
        parity="test_grpo_relatives.py: TRL's GRPOTrainer, importance_sampling_level sequence, loss and gradient",
        logs=REWARD,
    )  # fmt: skip

    clip: float = 0.03
    clip_high: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.clip < 1 or self.clip_high < 0:
            raise ValueError("clip must lie in [0, 1) and clip_high be 0 or more")

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """-min(s A, clip(s) A) of each answer's ratio s = exp(mean over its tokens of the log-ratio) [B]."""
        log_ratio = row_mean(lab.policy(batch.rollouts).logp - batch.logp, batch.rollouts.completion_mask)
        return clipped_loss(log_ratio, batch.advantages, self.clip, self.clip_high)
