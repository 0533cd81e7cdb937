"""Sequence likelihood calibration: a hinge on the answers' likelihoods, and imitation."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Pairs, Paper, Step, register


@register
class SLiC:
    """Zhao et al. 2023, "SLiC-HF: Sequence Likelihood Calibration with Human Feedback", section 2: rank calibration loss, and
    cross-entropy of a target, which here is the chosen answer. There is no reference; nothing pulls to the base but the
    target.

    ``delta``: margin of the log-likelihoods, in nats an answer; ``sft_weight``: their lambda. ``batch_size``: pairs per step.
    Likelihoods are summed over an answer's tokens, as in the paper. TRL calls a hinge on log-ratios to the base SLiC, too
    (``trl_hinge``); its CPO trainer has this one, with the cross-entropy averaged over all tokens of the batch.
    """

    paper: ClassVar[Paper] = Paper(
        "Zhao et al.", "SLiC-HF: Sequence Likelihood Calibration with Human Feedback", 2023, "2305.10425", "section 2",
        family="pairs", learns_from="pairs, without a reference; the chosen answers are imitated as well",
        values={"batch_size": "512", "lr": "1e-4"},
        parity="test_pairwise.py: TRL's CPOTrainer with loss_type hinge, loss and gradient",
        logs={
            "chosen_logp": "log-likelihood of the chosen answers, in nats an answer",
            "rejected_logp": "the same of the rejected answers",
        },
    )  # fmt: skip

    delta: float = 1.0
    sft_weight: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if self.delta < 0 or self.sft_weight < 0:
            raise ValueError("delta and sft_weight must be 0 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of pairs, one step."""
        yield Step(lab.pairs(self.batch_size), self.loss)

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """max(0, delta - log P(chosen) + log P(rejected)) - sft_weight * log P(chosen) [B]."""
        chosen, rejected = lab.policy(pairs.chosen).logp.sum(1), lab.policy(pairs.rejected).logp.sum(1)
        lab.log(chosen_logp=chosen.mean(), rejected_logp=rejected.mean())
        return (self.delta - chosen + rejected).relu() - self.sft_weight * chosen
