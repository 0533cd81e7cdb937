"""A toy problem: a tiny model with four words, answers of two words, and a table of rewards. All answers can be enumerated, so
the best policy is known in closed form, and the KL of any policy from it is exact."""

from __future__ import annotations

import functools
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
from isoalign.tools.conformance.workbench import SOURCES, Bench, FixedSource, Size, write_model
from isoalign.training.trainer import Trainer

WORDS = (40, 41, 42, 43)  # single characters, so that each answer has its own text
PROMPTS = ([0, 50, 60, 70], [0, 71, 61, 51])
ANSWERS = [list(pair) for pair in itertools.product(WORDS, repeat=2)]
RANKS = [3, 14, 8, 0, 11, 5, 15, 9, 1, 12, 6, 2, 13, 7, 4, 10]  # of the answers, by reward
VERDICTS_PER_PAIR = 8  # of answers, split by the Bradley-Terry model
PAD = 1
STEPS, RATE = 60, 3e-3  # of fitting the teacher


@dataclass(frozen=True)
class Table:
    """A reward model and judge by table: ``rewards`` [16] in the order of ANSWERS."""

    rewards: Tensor
    texts: tuple[str, ...]

    def __call__(self, batch: Any, prompts: Any = None) -> Tensor:
        """Rewards [B] of rollouts, or the judge's P(acceptable) [B] of texts, whose log-odds are the rewards."""
        if isinstance(batch, Rollouts):
            return self.rewards[[ANSWERS.index(answer) for answer in batch.completion.tolist()]]
        return torch.sigmoid(self.rewards[[self.texts.index(text) for text in batch]])

    def flops(self, batch: Any) -> int:
        """A cost above zero."""
        return len(batch)

    def training_bill(self) -> list[tuple[str, str, int]]:
        """Empty, as it is not trained."""
        return []

    def seconds(self) -> float:
        """0, as it is not trained."""
        return 0.0

    def verdicts(self) -> dict[str, list[int]]:
        """Empty, as it is not trained."""
        return {}


def toy_bench(bench: Bench, scale: float) -> Bench:
    """The toy problem on a model of one layer, with rewards evenly spaced in [-scale, scale]."""
    rewards = scale * (torch.tensor(RANKS, dtype=torch.float32) / 7.5 - 1)
    if not (folder := bench.model.with_name("toy")).exists():
        write_model(folder, Size(layers=1, feed_forward=32))
    bench = bench.replace(model=folder)
    model = bench.language_model()
    table = Table(rewards, tuple(model.decode(all_answers(1))))
    source = FixedSource(_toy_prompts(), {by: _verdicts(rewards, source) for by, source in SOURCES.items()}, {}, table)
    source = replace(source, rewards={"annotator": table, "judge": table})
    source.make_teacher = functools.cache(lambda: _teacher(bench.replace(words=WORDS), rewards))
    return bench.replace(source=source, new_tokens=2, words=WORDS)


@torch.enable_grad()
def _teacher(bench: Bench, rewards: Tensor) -> LanguageModel:
    """A model that is close to the best policy at a coefficient of 1/2."""
    model, answers = bench.language_model(trained=True), all_answers(len(PROMPTS))
    best = optimum(answer_logp(model), rewards, 0.5)
    optimizer = torch.optim.Adam(model.inner.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-best.exp().flatten() * model(answers).logp.sum(-1).cpu()).sum().backward()
        optimizer.step()
    model.inner.requires_grad_(False)
    return model


def train_policy(bench: Bench, algorithm: Any, steps: int, folder: Path) -> Tensor:
    """log pi [2, 16] over all answers, after optimizer steps."""
    trainer: Trainer = bench.trainer(algorithm, Budget(1e18, steps=steps), folder, config=TrainConfig(warmup=5))
    trainer.run(type(algorithm).__name__)
    return answer_logp(trainer.policy)


@torch.no_grad()
def answer_logp(model: LanguageModel) -> Tensor:
    """log pi(answer | prompt) [2, 16], exact, on the CPU."""
    return model(all_answers(len(PROMPTS))).logp.sum(-1).view(len(PROMPTS), len(ANSWERS)).cpu()


def all_answers(prompts: int) -> Rollouts:
    """All answers to the first ``prompts`` prompts."""
    return as_rollouts([p for p in PROMPTS[:prompts] for _ in ANSWERS], ANSWERS * prompts, PAD)


def optimum(base: Tensor, rewards: Tensor, coefficient: float) -> Tensor:
    """log of base(y) exp(r(y) / c) / Z, the best policy for E[r] - c KL (Rafailov et al. 2023, eq. 4) [2, 16]; c is the KL
    coefficient."""
    return (base + rewards / coefficient).log_softmax(-1)


def mean_kl(first: Tensor, second: Tensor) -> float:
    """KL(first || second) in nats, averaged over prompts; both are log-probabilities [2, 16]."""
    return float((first.exp() * (first - second)).sum(-1).mean())


def _toy_prompts() -> Prompts:
    tokens = torch.tensor(PROMPTS)
    return Prompts(tokens, torch.ones_like(tokens).bool(), torch.arange(len(PROMPTS)))


def _verdicts(rewards: Tensor, source: str) -> Feedback:
    rows = []
    for prompt in PROMPTS:
        for a, b in itertools.combinations(range(len(ANSWERS)), 2):
            wins = round(VERDICTS_PER_PAIR * float(torch.sigmoid(rewards[a] - rewards[b])))
            rows += [(prompt, ANSWERS[a], ANSWERS[b])] * wins + [(prompt, ANSWERS[b], ANSWERS[a])] * (VERDICTS_PER_PAIR - wins)
    prompts, chosen, rejected = (list(column) for column in zip(*rows, strict=True))
    return Feedback(prompts, chosen, rejected, [{"pair_id": str(i)} for i in range(len(rows))], source, {"feedback": 1})
