"""Generalised knowledge distillation: the student's distribution of each token of its own answers is drawn to a teacher's."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Needs, Paper, Rollouts, Step, register
from isoalign.baselines.parts.losses import row_mean
from isoalign.baselines.parts.sampling import check_sizes


@register
class GKD:
    """Agarwal et al. 2023, "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes", algorithm 1:
    the divergence of the teacher's and the student's distributions, averaged over the tokens of answers that the student
    samples.

    ``beta``: of their generalised Jensen-Shannon divergence: 0 is the forward KL(teacher || student), 1 the reverse
    KL(student || teacher). ``on_policy``: share of the steps on the student's own answers, their lambda; the others are on
    the teacher's. ``batch_size``: prompts, and answers, per step. The teacher is ``task.teacher``; its passes and its samples
    are paid. No reward and no KL from the base hold the student. The gradient does not run through the sampling, as in the
    paper.
    """

    paper: ClassVar[Paper] = Paper(
        "Agarwal et al.", "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes", 2023,
        "2306.13649", "algorithm 1", family="distillation",
        learns_from="a teacher's distributions of the tokens of its own answers",
        values={"beta": "0.1 to 0.9", "on_policy": "1", "batch_size": "32", "lr": "3e-4"},
        parity="test_distillation.py: TRL's generalized_jsd_loss, loss and gradient",
        logs={"divergence": "divergence of student and teacher in nats a token"},
    )  # fmt: skip

    needs: ClassVar[Needs] = {"": ("teacher",)}

    beta: float = 1.0
    on_policy: float = 1.0
    batch_size: int = 32
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_sizes(self)
        if not 0 <= self.beta <= 1 or not 0 <= self.on_policy <= 1:
            raise ValueError("beta and on_policy must lie in [0, 1]")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Answers of the student, or now and then of the teacher, one step."""
        own = torch.rand((), generator=lab.generator) < self.on_policy
        yield Step(lab.generate(lab.prompts(self.batch_size), by="policy" if own else "teacher"), self.loss)

    def loss(self, lab: Lab, answers: Rollouts) -> Tensor:
        """The divergence, averaged over each row's tokens [B]."""
        student, teacher = lab.policy(answers).logits.log_softmax(-1), lab.teacher(answers).logits.log_softmax(-1)
        loss = row_mean(divergence(student, teacher, self.beta), answers.completion_mask)
        lab.log(divergence=loss.mean())
        return loss


def divergence(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """beta KL(teacher || M) + (1 - beta) KL(student || M), M being beta x teacher + (1 - beta) x student, and at its ends the
    KL itself: log-probabilities [B, T, V] to nats [B, T]."""
    if beta in (0, 1):
        first, second = (teacher, student) if beta == 0 else (student, teacher)
        return kl(first, second)
    middle = torch.logaddexp(teacher + torch.tensor(beta).log(), student + torch.tensor(1 - beta).log())
    return beta * kl(teacher, middle) + (1 - beta) * kl(student, middle)


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities [B, T, V] in nats [B, T]. Tokens that are banned count for nothing."""
    return (first.exp() * (first - second)).sum(-1)
