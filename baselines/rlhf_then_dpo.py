"""A hybrid: RLHF for a share of the budget, then DPO on the preference pairs."""

from collections.abc import Iterator
from typing import ClassVar

from isoalign import Lab, Step, register
from isoalign.baselines.dpo import DPO
from isoalign.baselines.ppo import PPO


@register
class RLHFThenDPO(PPO):
    """PPO against the reward model (``baselines/ppo.py``), and then DPO (``baselines/dpo.py``) on the pairs that the reward
    model learned from. Both are held to the SFT base, which stays DPO's reference.

    ``rlhf_share``: of the budget, spent on PPO; ``beta`` and ``batch_size``: of DPO; the rest as in PPO.
    """

    kl_price: ClassVar[str] = ""  # each stage has a price of its own
    closed_form: ClassVar[bool] = False

    rlhf_share: float = 0.5
    beta: float = 0.1
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rlhf_share <= 1 or self.batch_size < 1:
            raise ValueError("rlhf_share must lie in [0, 1] and batch_size be 1 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """A round of PPO; past its share of the budget, one batch of pairs, one step of DPO."""
        if self.rlhf_share == 1 or lab.progress < self.rlhf_share:
            yield from super().iteration(lab)
        else:
            yield from DPO(self.beta, self.batch_size).iteration(lab)
