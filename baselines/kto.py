"""Kahneman-Tversky optimisation: unpaired binary feedback instead of pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Labels, Paper, Rollouts, Step, register


@dataclass(frozen=True)
class Judged(Batch):
    """Labelled completions with the batch's reference point for each row [B]."""

    labels: Labels
    reference_point: Tensor


@register
class KTO:
    """Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", eq. 7. Log-ratios are summed over
    an answer's tokens.

    ``beta``: risk aversion. ``desirable_weight``, ``undesirable_weight``: lambda_D and lambda_U. No field is a KL coefficient:
    gains and losses saturate, so that nothing pulls a distant policy back to the base.
    """

    paper: ClassVar[Paper] = Paper(
        "Ethayarajh et al.", "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, "2402.01306", "eq. 7",
        family="unpaired", learns_from="single answers, each good or bad",
        values={
            "beta": "0.1", "desirable_weight": "1 to 4/3 as many times undesirable_weight x bad / good answers",
            "lr": "5e-7 to 5e-6",
        },
        parity="test_kto.py: TRL's KTOTrainer, loss and gradient",
        logs={
            "reference_point": "max(0, KL of policy from base) on mismatched prompts and answers, in nats an answer",
            "gain": "log-ratio of policy to base minus the reference point, in nats an answer",
        },
    )  # fmt: skip

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    batch_size: int = 64
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError("batch_size must be 2 or more: the reference point needs mismatched answers")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of labels, one step. The reference point depends on all rows, so it is computed here."""
        labels = lab.labels(self.batch_size)
        point = self.reference_point(lab, labels.rollouts)
        lab.log(reference_point=point)
        yield Step(Judged(labels, point.expand(len(labels))), self.loss)

    @torch.no_grad()
    def reference_point(self, lab: Lab, rollouts: Rollouts) -> Tensor:
        """max(0, KL(pi || base)), estimated on mismatched prompts and answers (section 4.1)."""
        return lab.log_ratio(mismatch(rollouts)).mean().clamp(min=0)

    def loss(self, lab: Lab, batch: Judged) -> Tensor:
        """lambda - value of each answer, relative to the reference point [B]."""
        up = batch.labels.desirable
        gain = lab.log_ratio(batch.labels.rollouts) - batch.reference_point
        lab.log(gain=gain.mean())
        value = torch.sigmoid(self.beta * torch.where(up, gain, -gain))
        return torch.where(up, self.desirable_weight, self.undesirable_weight) * (1 - value)


def mismatch(rollouts: Rollouts) -> Rollouts:
    """Each prompt with the completion of the previous row; for two or more rows."""
    start = rollouts.prompt_length
    tokens = torch.cat([rollouts.tokens[:, :start], rollouts.completion.roll(1, 0)], 1)
    mask = torch.cat([rollouts.mask[:, :start], rollouts.completion_mask.roll(1, 0)], 1)
    return Rollouts(tokens, mask, start)
