"""On-policy distillation by policy gradient: the reward of a token is how much likelier the teacher finds it."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Needs, Paper, Step, register
from isoalign.baselines.parts.losses import row_mean
from isoalign.baselines.parts.sampling import Weighed, check_sizes


@register
class OPD:
    """Gu et al. 2023, "MiniLLM: Knowledge Distillation of Large Language Models", set up as by Lu 2025, "On-Policy
    Distillation": the advantage of a sampled token is log teacher - log student, each token by itself, so that the step
    follows the reverse KL of the next token alone.

    ``rollouts``: completions per step, one per prompt. The teacher is ``task.teacher``, and a forward pass of it is paid. It
    needs the probabilities of the sampled tokens alone, where ``gkd`` takes those of the whole vocabulary.
    """

    paper: ClassVar[Paper] = Paper(
        "Gu et al.", "MiniLLM: Knowledge Distillation of Large Language Models", 2023, "2306.08543",
        "eq. 2, with a discount of 0", family="distillation",
        learns_from="a teacher's probabilities of its own answers' tokens",
        parity="test_distillation.py: the exact gradient of the reverse KL by counting all tokens",
        logs={"teacher_kl": "log-ratio of student to teacher of the sampled answers: an estimate of the KL, nats an answer"},
    )  # fmt: skip

    needs: ClassVar[Needs] = {"": ("teacher",)}

    rollouts: int = 32
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_sizes(self)

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of new completions, one step."""
        rollouts = lab.generate(lab.prompts(self.rollouts))
        with torch.no_grad():
            advantages = lab.teacher(rollouts).logp - lab.policy(rollouts).logp
        lab.log(teacher_kl=-advantages.sum(1).mean())
        yield Step(Weighed(rollouts, advantages), self.loss)

    def loss(self, lab: Lab, batch: Weighed) -> Tensor:
        """-A log pi, averaged over each row's tokens [B]."""
        return row_mean(-batch.advantages * lab.policy(batch.rollouts).logp, batch.rollouts.completion_mask)
