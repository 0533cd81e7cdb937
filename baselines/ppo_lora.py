"""PPO on a low-rank adapter."""

from typing import ClassVar

from isoalign import Paper, register
from isoalign.baselines.ppo import PENALISED, PPO


@register
class PPOLora(PPO):
    """PPO that trains only an adapter (Hu et al. 2022, "LoRA"), whatever the task's setting; the reference is the same model
    with the adapter off (Santacroce et al. 2023, "Efficient RLHF").

    ``lora``: rank of the adapter. The other settings are those of PPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Santacroce et al.", "Efficient RLHF: Reducing the Memory Usage of PPO", 2023, "2309.00754", "section 3",
        family="reward", learns_from="a reward model, training an adapter", parity="test_ppo.py: PPO on an adapter",
        logs=PENALISED,
    )  # fmt: skip

    lora: int = 16
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora < 1:
            raise ValueError("lora must be 1 or more")
