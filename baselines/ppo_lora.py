"""PPO on a low-rank adapter."""

from isoalign import register
from isoalign.baselines.ppo import PPO


@register
class PPOLora(PPO):
    """PPO that trains only an adapter (Hu et al. 2022, "LoRA"), whatever the task's setting; the reference is the same model
    with the adapter off (Santacroce et al. 2023, "Efficient RLHF").

    ``lora``: rank of the adapter. The other settings are those of PPO.
    """

    lora: int = 16
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora < 1:
            raise ValueError("lora must be 1 or more")
