"""The optimizer and the loop that all methods share."""

from __future__ import annotations

from dataclasses import dataclass

from isoalign.core.store import later


@dataclass(frozen=True)
class TrainConfig:
    """The optimizer that all methods share: AdamW, warm-up over ``warmup`` steps, then linear to 0 with the budget.

    ``clip``: largest gradient norm, of the policy and of each module apart. ``micro_batch``: rows of one backward pass.
    ``checkpoint_seconds``: time between checkpoints. ``patience``: non-finite steps in a row that end a run.
    ``snapshots``: shares of the budget at which the policy is kept, to be scored: after the first step that reaches each.
    ``idle_seconds``: that an algorithm may go without paying for anything; 0 is no limit.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: int = 10
    clip: float = 1.0
    micro_batch: int = 64
    checkpoint_seconds: float = 60.0
    patience: int = 20
    snapshots: tuple[float, ...] = ()
    idle_seconds: float = later(600.0)

    def __post_init__(self) -> None:
        if self.idle_seconds < 0:
            raise ValueError(f"task.training.idle_seconds must be 0 or more, not {self.idle_seconds}")
        if any(not 0 < share < 1 for share in self.snapshots) or sorted(set(self.snapshots)) != list(self.snapshots):
            raise ValueError(f"task.training.snapshots must rise from over 0 to under 1, not {list(self.snapshots)}")
