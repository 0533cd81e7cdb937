"""A toy whose every answer can be written down: a tiny model that knows four words, two of them an answer, and a reward that
is a table. So the best policy is known in closed form, and any policy's distance from it is exact."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoalign.config.training import TrainConfig
from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.records import Budget
from isoalign.data.preferences import Feedback
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.models.language import LanguageModel
from isoalign.tools.conformance.workbench import SOURCES, Bench, FixedSource
from isoalign.training.trainer import Trainer

WORDS = (40, 41, 42, 43)  # single characters, so that answers and their texts are one to one
PROMPTS = ([0, 50, 60, 70], [0, 71, 61, 51])
ANSWERS = [list(pair) for pair in itertools.product(WORDS, repeat=2)]
PLACE = [3, 14, 8, 0, 11, 5, 15, 9, 1, 12, 6, 2, 13, 7, 4, 10]  # of each answer when sorted by reward
EACH = 8  # verdicts on every two answers, split as Bradley and Terry's model has it
PAD = 1


@dataclass(frozen=True)
class Table:
    """A reward model, and a judge, that look answers up: ``rewards`` [16] in the order of ANSWERS."""

    rewards: Tensor
    texts: tuple[str, ...]

    def __call__(self, given: Any) -> Tensor:
        """Rewards [B] of rollouts, or the judge's P(acceptable) [B] of texts: its log-odds are the rewards."""
        if isinstance(given, Rollouts):
            return self.rewards[[ANSWERS.index(answer) for answer in given.completion.tolist()]]
        return torch.sigmoid(self.rewards[[self.texts.index(text) for text in given]])

    def flops(self, given: Any) -> int:
        """Not nothing."""
        return len(given)

    def training_bill(self) -> list[tuple[str, str, int]]:
        """It was not trained."""
        return []

    def seconds(self) -> float:
        """It was not trained."""
        return 0.0

    def verdicts(self) -> dict[str, list[int]]:
        """It read none."""
        return {}


def toy(bench: Bench, scale: float) -> Bench:
    """The toy on a bench's model; rewards lie evenly in [-scale, scale]."""
    rewards = scale * (torch.tensor(PLACE, dtype=torch.float32) / 7.5 - 1)
    model = bench.language_model()
    table = Table(rewards, tuple(model.decode(everything(1))))
    source = FixedSource(_prompts(), {by: _verdicts(rewards, source) for by, source in SOURCES.items()}, {}, table)
    source = replace(source, rewards={"annotator": table, "judge": table})
    return bench.but(source=source, new_tokens=2, words=WORDS)


def trained(bench: Bench, algorithm: Any, steps: int, folder: Path) -> Tensor:
    """log pi [2, 16] over all answers, after some optimizer steps."""
    folder.mkdir(parents=True)
    trainer: Trainer = bench.trainer(algorithm, Budget(1e18, steps=steps), folder, config=TrainConfig(warmup=5))
    trainer.run(type(algorithm).__name__)
    return distribution(trainer.policy)


@torch.no_grad()
def distribution(model: LanguageModel) -> Tensor:
    """log pi(answer | prompt) [2, 16], exact."""
    return model(everything(len(PROMPTS))).logp.sum(-1).view(len(PROMPTS), len(ANSWERS))


def everything(prompts: int) -> Rollouts:
    """Every answer to the first prompts."""
    return as_rollouts([p for p in PROMPTS[:prompts] for _ in ANSWERS], ANSWERS * prompts, PAD)


def optimum(base: Tensor, rewards: Tensor, price: float) -> Tensor:
    """log of base(y) exp(r(y) / price) / Z, the best policy for E[r] - price KL (Rafailov et al. 2023, eq. 4) [2, 16]."""
    return (base + rewards / price).log_softmax(-1)


def kl(first: Tensor, second: Tensor) -> float:
    """KL(first || second) in nats, mean over prompts; both are log-probabilities [2, 16]."""
    return float((first.exp() * (first - second)).sum(-1).mean())


def _prompts() -> Prompts:
    tokens = torch.tensor(PROMPTS)
    return Prompts(tokens, torch.ones_like(tokens).bool(), torch.arange(len(PROMPTS)))


def _verdicts(rewards: Tensor, source: str) -> Feedback:
    rows = []
    for prompt in PROMPTS:
        for a, b in itertools.combinations(range(len(ANSWERS)), 2):
            wins = round(EACH * float(torch.sigmoid(rewards[a] - rewards[b])))
            rows += [(prompt, ANSWERS[a], ANSWERS[b])] * wins + [(prompt, ANSWERS[b], ANSWERS[a])] * (EACH - wins)
    prompts, chosen, rejected = (list(column) for column in zip(*rows, strict=True))
    return Feedback(prompts, chosen, rejected, [{"pair_id": str(i)} for i in range(len(rows))], source, {"feedback": 1})
