"""A hybrid: RLHF for a fraction of the budget, then DPO on the preference pairs."""

from collections.abc import Iterator
from typing import ClassVar

from isoalign import Lab, Paper, Step, register
from isoalign.baselines.dpo import DPO, MARGIN
from isoalign.baselines.ppo import PENALISED, PPO


@register
class RLHFThenDPO(PPO):
    """PPO against the reward model (``baselines/ppo.py``), then DPO (``baselines/dpo.py``) on the pairs that the reward model
    was trained on. The SFT base is the reference of both.

    ``rlhf_share``: fraction of the budget for PPO; ``beta`` and ``batch_size``: of DPO. The other settings are those of PPO.
    """

    paper: ClassVar[Paper] = Paper(
        "isoalign", "PPO, then DPO: a hybrid of this benchmark, of no paper", 2026, equation="those of ppo and dpo",
        family="reward", learns_from="a reward model, then the pairs that it learned from",
        parity="test_online_preferences.py: PPO's and DPO's own steps", logs=PENALISED | MARGIN,
    )  # fmt: skip

    kl_price: ClassVar[str] = ""  # each stage has its own KL coefficient
    closed_form: ClassVar[bool] = False

    rlhf_share: float = 0.5
    beta: float = 0.1
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rlhf_share <= 1 or self.batch_size < 1:
            raise ValueError("rlhf_share must lie in [0, 1] and batch_size be 1 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """An iteration of PPO; after its share of the budget, one batch of pairs, one step of DPO."""
        if self.rlhf_share == 1 or lab.progress < self.rlhf_share:
            yield from super().iteration(lab)
        else:
            yield from DPO(self.beta, self.batch_size).iteration(lab)
