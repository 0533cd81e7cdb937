"""Methods on the policy's own answers: sample, score, then epochs of minibatches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Rollouts, Scalars, Step

REWARD: Scalars = {"reward": "mean reward of the sampled answers, in deviations of the reward model's training answers"}
"""What methods log that are paid by reward."""

PRICED: Scalars = REWARD | {
    "kl_k1": "log-ratio of policy to base of the sampled answers: an estimate of the KL, in nats an answer",
}
"""What methods log that are paid by reward and KL."""

SIZES = ("rollouts", "prompts", "draws", "references", "epochs", "minibatch", "batch_size")


@dataclass(frozen=True)
class Weighed(Batch):
    """Rollouts with the advantage of each completion [B], or of each token [B, T]."""

    rollouts: Rollouts
    advantages: Tensor


@dataclass(frozen=True)
class OnPolicy:
    """A method that samples with the policy, scores the answers, and steps through them in minibatches, in epochs.

    ``rollouts``: completions per iteration; ``draws``: samples per prompt; ``epochs``: over the completions; ``minibatch``: of
    them, per step. A class may ask for more draws (``least_draws``). Raises ValueError for fewer, for other sizes below 1, and
    for more draws than rollouts.
    """

    least_draws: ClassVar[int] = 1

    rollouts: int = 64
    draws: int = 1
    epochs: int = 2
    minibatch: int = 32
    lr: float = 3e-4

    def __post_init__(self) -> None:
        check_sizes(self, draws=self.least_draws)

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample and score; then epochs of minibatches over all."""
        rollouts = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        yield from minibatches(lab, self.experience(lab, rollouts), self.loss, self.epochs, self.minibatch)

    def experience(self, lab: Lab, rollouts: Rollouts) -> Batch:
        """New rollouts with all that the loss needs and that is not to change from step to step."""
        raise NotImplementedError

    def loss(self, lab: Lab, batch: Any) -> Tensor:
        """One value an answer [B]."""
        raise NotImplementedError


def check_sizes(algorithm: object, **least: int) -> None:
    """Raises ValueError for a size of an algorithm, as far as it has one, below 1 or below what is told here, and for more
    draws than rollouts."""
    sizes = {name: getattr(algorithm, name) for name in SIZES if hasattr(algorithm, name)}
    for name, value in sizes.items():
        if value < least.get(name, 1):
            raise ValueError(f"{name} must be {least.get(name, 1)} or more, not {value}")
    if sizes.get("rollouts", sizes.get("draws", 0)) < sizes.get("draws", 0):
        raise ValueError(f"rollouts must be at least draws, {sizes['draws']}, not {sizes['rollouts']}")


def minibatches(lab: Lab, batch: Batch, loss: Callable[[Any, Any], Tensor], epochs: int, size: int) -> Iterator[Step]:
    """Steps on ``size`` rows each; every epoch visits all rows in a new order."""
    for _ in range(epochs):
        for rows in torch.randperm(len(batch), generator=lab.generator).split(size):
            yield Step(batch[rows], loss)
