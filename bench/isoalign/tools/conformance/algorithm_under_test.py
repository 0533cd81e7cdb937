"""An algorithm under test, and the exceptions of a check."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isoalign.core.records import Budget
from isoalign.tools.conformance.workbench import Bench, small
from isoalign.training.trainer import Trainer

STEPS = 4  # optimizer steps of a run
MIN_FLOPS, MAX_FLOPS = 60_000_000, 10**10  # of a run: enough for the later stages of a method, but bounded


class CheckFailed(Exception):
    """The algorithm does not meet the check's demand; the text says how."""


class NotApplicable(Exception):
    """The check does not apply to this algorithm; the text says why."""


@dataclass(frozen=True)
class AlgorithmUnderTest:
    """An algorithm under test, on a bench, with a folder for the files of its runs."""

    name: str
    algorithm: Any
    bench: Bench
    folder: Path
    count: Iterator[int] = field(default_factory=itertools.count)

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

    def price(self, bench: Bench | None = None) -> int:
        """FLOPs of a few steps, one-time charges included."""
        trainer = self.trainer(Budget(MAX_FLOPS, steps=STEPS), bench)
        trainer.run(self.name)
        return max(trainer.meter.flops, MIN_FLOPS)

    def variants(self) -> dict[str, Bench]:
        """The bench in the configurations that tasks use."""
        return {
            "all weights": self.bench,
            "LoRA": self.bench.replace(lora=4),
            "open end of text": self.bench.replace(ends=True),
        }

    @property
    def has_own_loop(self) -> bool:
        """Whether the algorithm has its own training loop."""
        return hasattr(self.algorithm, "train")


def kl_field(algorithm: Any) -> str:
    """The field that is the KL coefficient, as ``kl_price`` declares it; empty if there is none."""
    return str(getattr(algorithm, "kl_price", ""))
