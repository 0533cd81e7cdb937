"""An algorithm under test, its runs, which checks share, and the exceptions of a check."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoalign.core.records import Budget
from isoalign.tools.conformance.workbench import Bench, same, small, weights
from isoalign.training.needs import needs_of
from isoalign.training.process_state import preserved
from isoalign.training.trainer import Trainer

STEPS = 4  # optimizer steps of a run
MIN_FLOPS, MAX_FLOPS = 60_000_000, 10**10  # of a run: enough for the later stages of a method, but bounded


class CheckFailed(Exception):
    """The algorithm does not meet the check's demand; the text says how."""


class NotApplicable(Exception):
    """The check does not apply to this algorithm; the text says why."""


@dataclass(frozen=True)
class Run:
    """A run that has ended, the weights [tensors] before it, and the names of what it changed that is not its own."""

    trainer: Trainer
    limit: Budget
    before: list[Tensor]
    changed: list[str]


@dataclass(frozen=True)
class AlgorithmUnderTest:
    """An algorithm under test, on a bench, with a folder for the files of its runs. What one check has run, others read."""

    name: str
    algorithm: Any
    bench: Bench
    folder: Path
    count: Iterator[int] = field(default_factory=itertools.count)
    done: dict[Any, Any] = field(default_factory=dict)

    @property
    def small(self) -> Any:
        """The algorithm with batches that fit a tiny bench."""
        return small(self.algorithm)

    def trainer(self, budget: Budget, bench: Bench | None = None, **options: Any) -> Trainer:
        """A trainer on a new lab, in a new folder unless ``work`` is given."""
        work = options.pop("work", None) or self.new_folder()
        return (bench or self.bench).trainer(options.pop("algorithm", self.small), budget, work, **options)

    def new_folder(self) -> Path:
        """A new folder."""
        work = self.folder / str(next(self.count))
        work.mkdir(parents=True)
        return work

    def limit(self) -> Budget:
        """What a few steps cost on the bench, one-time charges included."""
        if "limit" not in self.done:
            trainer = self.trainer(Budget(MAX_FLOPS, steps=STEPS))
            with preserved():
                trainer.run(self.name)
            self.done["limit"] = Budget(max(trainer.meter.flops, MIN_FLOPS))
        return self.done["limit"]  # type: ignore[no-any-return]

    def variants(self) -> dict[str, Bench]:
        """The bench in the configurations that tasks use; without an adapter for a method that trains all weights."""
        adapter = {} if "all_weights" in needs_of(self.algorithm) else {"LoRA": self.bench.replace(lora=4)}
        return {"all weights": self.bench} | adapter | {"open end of text": self.bench.replace(ends=True)}

    def run(self, variant: str = "all weights") -> Run:
        """A run of a few steps on a variant of the bench."""
        if variant not in self.done:
            bench, limit = self.variants()[variant], self.limit()
            trainer = self.trainer(limit, bench)
            before = weights(trainer)
            np.random.random(), random.random()  # so that seeding them again changes their state
            states, python = _process_state(bench, trainer), random.getstate()
            with preserved():
                trainer.run(self.name)
            after = _process_state(bench, trainer)
            changed = [what for what, state in states.items() if not same(state, after[what])]
            changed += ["the random state of Python's random module"] if random.getstate() != python else []
            self.done[variant] = Run(trainer, limit, before, changed)
        return self.done[variant]  # type: ignore[no-any-return]

    @property
    def has_own_loop(self) -> bool:
        """Whether the algorithm has its own training loop."""
        return hasattr(self.algorithm, "train")


def kl_field(algorithm: Any) -> str:
    """The field that is the KL coefficient, as ``kl_price`` declares it; empty if there is none."""
    return str(getattr(algorithm, "kl_price", ""))


def _process_state(bench: Bench, trainer: Trainer) -> dict[str, list[Tensor]]:
    reference, batch = trainer.session.reference, bench.source.feedback("annotator").pairs(torch.arange(4), 1).chosen
    with torch.no_grad(), reference.adapter_off():
        logp = reference(batch).logp.clone()
    models = [model.model for model in bench.source.rewards.values()]
    return {
        "the reference": [logp, *(p.clone() for p in reference.inner.parameters() if not p.requires_grad)],
        "a reward model": [p.clone() for model in models for p in model.parameters()],
        "torch's random state": [torch.get_rng_state()],
        "numpy's random state": [torch.tensor(np.random.get_state()[1].astype(np.int64))],  # type: ignore[union-attr, index]
    }
