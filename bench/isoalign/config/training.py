"""Configuration of the optimizer and the training loop that all methods share."""

from __future__ import annotations

from dataclasses import dataclass

from isoalign.core.store import added_later


@dataclass(frozen=True)
class TrainConfig:
    """The optimizer that all methods share: AdamW, warm-up over ``warmup`` steps, then linear decay to 0 with the budget.

    ``clip``: maximum gradient norm, separately for the policy and each module. ``micro_batch``: rows of a pass with gradients,
    halved where memory runs out; passes without, in sampling, rewards and evaluation, keep less in memory and take four times
    as many. ``gradient_checkpointing``: recompute the policy's layers in the backward pass instead of keeping their
    activations. ``checkpoint_seconds``: time between checkpoints, more where saving takes long; 0 for one after each
    iteration. ``patience``: consecutive non-finite steps that stop a run.
    ``snapshots``: shares of the budget at which the policy is saved for scoring, after the first step that reaches each.
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

    @property
    def rows(self) -> int:
        """Rows of a pass without gradients."""
        return 4 * self.micro_batch

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise ValueError(f"task.training.micro_batch must be 1 or more, not {self.micro_batch}")
        if self.idle_seconds < 0:
            raise ValueError(f"task.training.idle_seconds must be 0 or more, not {self.idle_seconds}")
        if any(not 0 < share < 1 for share in self.snapshots) or sorted(set(self.snapshots)) != list(self.snapshots):
            raise ValueError(f"task.training.snapshots must be increasing and lie in (0, 1), not {list(self.snapshots)}")
