"""Clipped importance sampling weights: no token loses its gradient."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, register
from isoalign.baselines.parts.groups import Grouped, GroupLoss
from isoalign.baselines.parts.sampling import REWARD


@register
class CISPO(GroupLoss):
    """MiniMax 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention", eq. 4: REINFORCE on
    group-relative advantages, each token weighed by its ratio to the policy that sampled it, which is cut at ``cap`` and has
    no gradient. There is no lower bound, as in the paper's runs. The mean is over all tokens of a step, as in TRL; in the
    paper over those of a group.

    ``cap``: the most that a ratio counts; 1 + epsilon high of the paper (eq. 5), which does not tell it, and epsilon_high
    itself in TRL. The other settings are those of GSPO.
    """

    paper: ClassVar[Paper] = Paper(
        "MiniMax", "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention", 2025, "2506.13585", "eq. 4",
        family="reward", learns_from="a reward model, on groups of its own answers",
        parity="test_grpo_relatives.py: TRL's GRPOTrainer with loss_type cispo, loss and gradient", logs=REWARD,
    )  # fmt: skip

    cap: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cap < 1:
            raise ValueError("cap must be 1 or more")

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """-min(r, cap) A log pi, summed over each row's tokens and divided by the mean length of the step's rows [B]."""
        logp = lab.policy(batch.rollouts).logp
        weight = (logp - batch.logp).exp().clamp(max=self.cap).detach()
        loss = -weight * batch.advantages.unsqueeze(1) * logp
        return (loss * batch.rollouts.completion_mask).sum(1) / batch.mean_length
