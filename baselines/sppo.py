"""Self-play preference optimisation on the policy's own answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Needs, Paper, Rollouts, Step, register
from isoalign.baselines.parts.sampling import check_sizes, minibatches


@dataclass(frozen=True)
class Played(Batch):
    """Own answers with their log-probabilities when they were sampled, and their chances against the policy [B]."""

    rollouts: Rollouts
    logp: Tensor
    chances: Tensor


@register
class SPPO:
    """Wu et al. 2024, "Self-Play Preference Optimization for Language Model Alignment", algorithm 1: the log-ratio of each
    answer to the policy that sampled it is drawn to (chance of beating that policy - 1/2) / ``beta``.

    ``prompts``: prompts per iteration; ``draws``: answers per prompt, each of which plays all of them, itself at 1/2; all are
    trained on, where their experiments take the best and the worst. ``epochs``: over them, ``batch_size`` a step; ``beta``: 1
    / eta of the paper, no KL coefficient: the reference is the policy of the iteration. ``labelled_by``: ``reward`` takes the
    chances of Bradley and Terry from the normalised reward, ``judge`` asks the AI judge about each two answers.
    """

    paper: ClassVar[Paper] = Paper(
        "Wu et al.", "Self-Play Preference Optimization for Language Model Alignment", 2024, "2405.00675", "algorithm 1",
        family="reward", learns_from="its own answers, each against the others, by a reward model or an AI judge",
        values={"beta": "0.001", "draws": "5", "batch_size": "64", "lr": "5e-7"},
        parity="test_self_play.py: numbers worked by hand",
        logs={"log_ratio": "log-ratio of the policy to itself when it sampled, in nats an answer"},
    )  # fmt: skip

    needs: ClassVar[Needs] = {"labelled_by=judge": ("judge",), "labelled_by=reward": ("reward",)}

    beta: float = 0.1
    prompts: int = 32
    draws: int = 4
    epochs: int = 1
    batch_size: int = 32
    lr: float = 1e-4
    labelled_by: str = "reward"

    def __post_init__(self) -> None:
        if self.labelled_by not in ("judge", "reward") or self.beta <= 0:
            raise ValueError(f"labelled_by must be judge or reward, not {self.labelled_by!r}, and beta positive")
        check_sizes(self, draws=2)  # two make a game

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample, let the answers play; then epochs of regression."""
        answers = lab.generate(lab.prompts(self.prompts), self.draws)
        with torch.no_grad():
            batch = Played(answers, lab.policy(answers).logp.sum(1), self.chances(lab, answers))
        yield from minibatches(lab, batch, self.loss, self.epochs, self.batch_size)

    def chances(self, lab: Lab, answers: Rollouts) -> Tensor:
        """The mean chance of each answer against all ``draws`` answers to its prompt [B x draws]."""
        if self.labelled_by == "reward":
            score = lab.reward(answers).view(-1, self.draws)
            return torch.sigmoid(score.unsqueeze(2) - score.unsqueeze(1)).mean(2).flatten()
        wins = torch.full((len(answers) // self.draws, self.draws, self.draws), 0.5, device=lab.device)
        for one, other in combinations(range(self.draws), 2):
            wins[:, one, other] = lab.judge(answers[one :: self.draws], answers[other :: self.draws])
            wins[:, other, one] = 1 - wins[:, one, other]
        return wins.mean(2).flatten()

    def loss(self, lab: Lab, batch: Played) -> Tensor:
        """(log-ratio - (chance - 1/2) / beta)^2 [B]."""
        ratio = lab.policy(batch.rollouts).logp.sum(1) - batch.logp
        lab.log(log_ratio=ratio.mean())
        return (ratio - (batch.chances - 0.5) / self.beta) ** 2
