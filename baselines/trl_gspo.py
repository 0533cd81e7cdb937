"""Group sequence policy optimisation by TRL's trainer, and other losses with two clip ranges."""

from typing import Any, ClassVar

from isoalign import Conditions, Paper, Rows, register
from isoalign.baselines.trl_grpo import TRLGRPO

REWARD = {"reward": "mean reward of the answers that were sampled"}
GROUPS = "a reward model, on groups of its own answers"


@register
class TRLGSPO(TRLGRPO):
    """``trl.GRPOTrainer`` with one ratio for a whole answer: Zheng et al. 2025, "Group Sequence Policy Optimization", eq. 5.

    ``level``: a ratio for each ``token`` or for the whole ``sequence``; ``epsilon_high``: clip range above, or, for ``cispo``,
    the most that a ratio counts. The other settings are those of ``trl_grpo``.
    """

    paper: ClassVar[Paper] = Paper(
        "Zheng et al.", "Group Sequence Policy Optimization", 2025, "2507.18071", "eq. 5", family="reward", learns_from=GROUPS,
        values={"beta": "0", "epsilon": "3e-4", "epsilon_high": "4e-4"},
        parity="test_trl.py: the first gradient; TRL's own loss is that of gspo, test_grpo_relatives.py", logs=REWARD,
    )  # fmt: skip
    rows: ClassVar[Rows] = {
        "trl_cispo": {"paper": Paper(
            "MiniMax", "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention", 2025, "2506.13585",
            "eq. 4", family="reward", learns_from=GROUPS, values={"beta": "0"},
            parity="test_trl.py: the first gradient; TRL's own loss is that of cispo, test_grpo_relatives.py", logs=REWARD,
        )},
        "trl_dapo": {"paper": Paper(
            "Yu et al.", "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, "2503.14476",
            "eq. 8, without dynamic sampling", family="reward", learns_from=GROUPS,
            values={"beta": "0", "num_generations": "16", "epsilon": "0.2", "epsilon_high": "0.28"},
            parity="test_trl.py: the first gradient; TRL's own loss is that of dapo, test_grpo_relatives.py", logs=REWARD,
        )},
    }  # fmt: skip

    acts_with: ClassVar[Conditions] = TRLGRPO.acts_with | {
        "loss_type": ("loss_type", ("grpo", "dapo", "dr_grpo", "bnpo", "cispo")),
        "epsilon_high": ("loss_type", ("grpo", "dapo", "dr_grpo", "bnpo", "cispo")),
    }

    beta: float = 0.0
    epsilon: float = 0.03
    level: str = "sequence"
    epsilon_high: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level not in ("token", "sequence"):
            raise ValueError(f"level must be token or sequence, not {self.level!r}")

    def settings(self) -> dict[str, Any]:
        """Fields of TRL's configuration."""
        return super().settings() | {"importance_sampling_level": self.level, "epsilon_high": self.epsilon_high}
