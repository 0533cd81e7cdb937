"""Configuration of what is made of rewards and feedback: shaping and rounds."""

from dataclasses import dataclass

from isoalign.core.store import added_later


@dataclass(frozen=True)
class ShapingConfig:
    """Reward shaping: ``members`` are trained with one seed each and combined by ``mean``, ``worst`` or ``uncertainty`` (mean
    - ``uncertainty`` x variance); ``length_penalty`` is subtracted per token; ``clip`` bounds the reward (0 for no bound).
    Without ``normalise`` a member's rewards keep their scale."""

    members: int = added_later(1)
    combine: str = added_later("mean")
    uncertainty: float = added_later(1.0)
    length_penalty: float = added_later(0.0)
    clip: float = added_later(0.0)
    normalise: bool = added_later(True)

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"task.shaping.members must be 1 or more, not {self.members}")
        if self.combine not in ("mean", "worst", "uncertainty"):
            raise ValueError(f"task.shaping.combine must be mean, worst or uncertainty, not {self.combine!r}")
        if self.combine != "mean" and self.members == 1:
            raise ValueError(f"task.shaping.combine={self.combine} has no effect on one member; set task.shaping.members")
        if self.uncertainty != 1.0 and self.combine != "uncertainty":
            raise ValueError("task.shaping.uncertainty has no effect unless task.shaping.combine=uncertainty")
        if self.clip < 0 or self.uncertainty < 0:
            raise ValueError("task.shaping.clip and task.shaping.uncertainty must be 0 or more")


@dataclass(frozen=True)
class RoundsConfig:
    """Feedback rounds: feedback is collected ``count`` times, first on answers of the SFT base, then, at equal shares of the
    budget, on answers of the current policy to ``prompts`` of the training prompts (0 for all)."""

    count: int = added_later(1)
    prompts: int = added_later(0)

    def __post_init__(self) -> None:
        if self.count < 1 or self.prompts < 0:
            raise ValueError("task.rounds.count must be 1 or more and task.rounds.prompts 0 or more")
