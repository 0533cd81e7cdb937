"""Identity preference optimisation."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.dpo import DPO, MARGIN
from isoalign.baselines.parts.pairs import implicit_rewards


@register
class IPO(DPO):
    """Azar et al. 2024, "A General Theoretical Paradigm to Understand Learning from Human Preferences", eq. 17: regression
    of the margin, so that it stays bounded on pairs with unanimous verdicts, unlike in DPO.

    ``beta``: their tau; the target margin is 1 / (2 beta) nats. ``batch_size``: pairs per step. ``scale_length``: each
    log-ratio is divided by its answer's number of tokens, so that margins are in nats per token and beta is about as many
    times larger. The paper's equation has sums; TRL divides, and has it from the authors that their experiments did.
    """

    paper: ClassVar[Paper] = Paper(
        "Azar et al.", "A General Theoretical Paradigm to Understand Learning from Human Preferences", 2024, "2310.12036",
        "eq. 17", family="pairs", learns_from="pairs", values={"batch_size": "90", "lr": "1e-2"},
        parity="test_dpo_relatives.py: TRL's DPOTrainer with loss_type ipo, loss and gradient",
        logs=MARGIN,
    )  # fmt: skip

    closed_form: ClassVar[bool] = False  # beta is against the probability of winning, not a reward

    scale_length: bool = False

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError("beta must be positive: the margin is drawn to 1 / (2 beta)")

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """(margin - 1 / (2 beta))^2 [B], the margin per answer or per token."""
        chosen, rejected = implicit_rewards(lab, pairs, 1.0)
        if self.scale_length:
            chosen, rejected = (
                ratio / side.completion_mask.sum(1) for ratio, side in ((chosen, pairs.chosen), (rejected, pairs.rejected))
            )
        return (chosen - rejected - 1 / (2 * self.beta)) ** 2
