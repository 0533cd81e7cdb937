"""Configuration of the optimizer and the training loop that all methods share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from isoalign.core.store import added_later

KL_GRID = (0.25, 0.38, 0.57, 0.85, 1.3, 1.9, 2.9, 4.3, 6.5, 9.7, 15.0, 22.0, 31.0)  # nats, each half as much again or less

OF_THE_MACHINE = (
    "training.checkpoint_seconds", "training.idle_seconds", "training.gradient_checkpointing", "model.shard",
)  # fmt: skip
"""Settings of a task that change no figure: what a machine can hold, and how long it may be silent."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimizer that all methods share: AdamW, warm-up over ``warmup`` steps, then linear decay to 0 with the budget.

    ``clip``: maximum gradient norm, separately for the policy and each module. ``micro_batch``: rows of a pass with gradients,
    halved where memory runs out; passes without, in sampling, rewards and evaluation, keep less in memory and take four times
    as many. ``gradient_checkpointing``: recompute the policy's layers in the backward pass instead of keeping their
    activations. ``checkpoint_seconds``: time between checkpoints, more where saving takes long; 0 for one after each
    iteration. ``patience``: consecutive non-finite steps that stop a run.
    ``snapshots``: shares of what is left of the budget at the first step, at which the policy is saved for scoring, after the
    first step that reaches each; with any, it is saved at the values of ``kl_snapshots``, too: nats of KL from the base, each
    within a ratio of 5/3 in its root and within 1 of the next, or there is no reading between them.
    ``idle_seconds``: maximum time without FLOPs charged to an algorithm; 0 for no limit.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: int = 10
    clip: float = 1.0
    micro_batch: int = 64
    checkpoint_seconds: float = 60.0
    patience: int = 20
    snapshots: tuple[float, ...] = ()
    idle_seconds: float = added_later(600.0)
    gradient_checkpointing: bool = added_later(False)
    kl_snapshots: tuple[float, ...] = added_later(KL_GRID)

    @property
    def most_snapshots(self) -> int:
        """The largest number of snapshots that a run may save."""
        return len(self.snapshots) + len(self.kl_snapshots) if self.snapshots else 0

    @property
    def rows(self) -> int:
        """Rows of a pass without gradients."""
        return 4 * self.micro_batch

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise ValueError(f"task.training.micro_batch must be 1 or more, not {self.micro_batch}")
        if not 0 < self.clip < math.inf:
            raise ValueError(f"task.training.clip must be above 0, not {self.clip}; for no clipping set it to 1e9")
        if not 0 <= self.weight_decay < math.inf or self.warmup < 0:
            raise ValueError("task.training.weight_decay must be finite and 0 or more, and task.training.warmup 0 or more")
        if self.idle_seconds < 0:
            raise ValueError(f"task.training.idle_seconds must be 0 or more, not {self.idle_seconds}")
        if any(not 0 < share < 1 for share in self.snapshots) or sorted(set(self.snapshots)) != list(self.snapshots):
            raise ValueError(f"task.training.snapshots must be increasing and lie in (0, 1), not {list(self.snapshots)}")
        if any(kl <= 0 for kl in self.kl_snapshots) or sorted(set(self.kl_snapshots)) != list(self.kl_snapshots):
            raise ValueError(f"task.training.kl_snapshots must be increasing and above 0, not {list(self.kl_snapshots)}")
