"""Clipped importance sampling weights: no token loses its gradient."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, Step, register
from isoalign.baselines.dapo import REWARD, Grouped, by_tokens, grouped


@register
class CISPO:
    """MiniMax 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention", eq. 4: REINFORCE on
    group-relative advantages, each token weighed by its ratio to the policy that sampled it, which is cut at ``cap`` and has
    no gradient. The mean is over all tokens of a step; there is no lower bound and no KL penalty, as in the paper's runs.

    ``cap``: the most that a ratio counts; 1 + epsilon high of the paper, which does not tell it, and epsilon_high itself in
    TRL. ``rollouts``, ``draws``: as in GRPO.
    """

    paper: ClassVar[Paper] = Paper(
        "MiniMax", "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention", 2025, "2506.13585", "eq. 4",
        family="reward", learns_from="a reward model, on groups of its own answers",
        parity="test_grpo_relatives.py: TRL's GRPOTrainer with loss_type cispo, loss and gradient", logs=REWARD,
    )  # fmt: skip

    rollouts: int = 64
    draws: int = 8
    epochs: int = 2
    minibatch: int = 32
    cap: float = 5.0
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if min(self.epochs, self.minibatch) < 1 or not 2 <= self.draws <= self.rollouts or self.cap < 1:
            raise ValueError("epochs, minibatch and cap must be 1 or more, draws 2 or more and rollouts at least draws")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample groups; then epochs of minibatches over all."""
        answers = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        score = lab.reward(answers)
        lab.log(reward=score.mean())
        yield from by_tokens(lab, grouped(lab, answers, score, self.draws), self.loss, self.epochs, self.minibatch)

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """-min(r, cap) A log pi, summed over each row's tokens and divided by the mean length of the step's rows [B]."""
        logp = lab.policy(batch.rollouts).logp
        weight = (logp - batch.logp).exp().clamp(max=self.cap).detach()
        loss = -weight * batch.advantages.unsqueeze(1) * logp
        return (loss * batch.rollouts.completion_mask).sum(1) / batch.mean_length
