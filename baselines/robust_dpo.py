"""Robust DPO: what label noise does to the loss is subtracted again."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from baselines.dpo import DPO, margin
from bench import Lab, Pairs, register


@register
class RobustDPO(DPO):
    """Chowdhury et al. 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback", section 3: a loss whose mean
    over verdicts flipped at ``flip_rate`` is DPO's on the true ones.

    Unbiased, not bounded: a pair that is never contradicted pushes its margin without end. The rest as in DPO.
    """

    flip_rate: float = 0.05

    closed_form: ClassVar[bool] = False  # DPO's only where verdicts are flipped at flip_rate indeed

    def __post_init__(self) -> None:
        if not 0 <= self.flip_rate < 0.5:
            raise ValueError(f"flip_rate must lie in [0, 0.5), not {self.flip_rate}")

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """((1 - flip_rate) * DPO's loss - flip_rate * DPO's loss of the flipped pair) / (1 - 2 flip_rate) [B]."""
        reward_gap = self.beta * margin(lab, pairs)
        kept, flipped = -logsigmoid(reward_gap), -logsigmoid(-reward_gap)
        return ((1 - self.flip_rate) * kept - self.flip_rate * flipped) / (1 - 2 * self.flip_rate)
