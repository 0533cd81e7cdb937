"""An algorithm under test, and the two ways not to pass a check."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isoalign.core.records import Budget
from isoalign.tools.conformance.workbench import Bench, small
from isoalign.training.trainer import Trainer

STEPS_EACH = 4  # optimizer steps, which a run of the other checks lasts
LEAST, MOST = 60_000_000, 10**10  # FLOPs of such a run: later stages of a method have their turn, and it has an end


class CheckFailed(Exception):
    """The algorithm does not do what the check demands; the text says how."""


class NotApplicable(Exception):
    """The check does not apply to this algorithm; the text says why."""


@dataclass(frozen=True)
class AlgorithmUnderTest:
    """An algorithm under test, on a bench, with a folder for what its runs leave. ``small``: its batches cut down."""

    name: str
    algorithm: Any
    bench: Bench
    folder: Path
    count: Iterator[int] = field(default_factory=itertools.count)

    @property
    def small(self) -> Any:
        """The algorithm with batches that a tiny bench holds."""
        return small(self.algorithm)

    def trainer(self, budget: Budget, bench: Bench | None = None, **options: Any) -> Trainer:
        """A trainer on a new lab, in a new folder unless ``work`` is given."""
        work = options.pop("work", None) or self.place()
        return (bench or self.bench).trainer(options.pop("algorithm", self.small), budget, work, **options)

    def place(self) -> Path:
        """A new folder."""
        work = self.folder / str(next(self.count))
        work.mkdir(parents=True)
        return work

    def price(self, bench: Bench | None = None) -> int:
        """FLOPs of a few steps, what is paid once included."""
        trainer = self.trainer(Budget(MOST, steps=STEPS_EACH), bench)
        trainer.run(self.name)
        return max(trainer.meter.flops, LEAST)

    def variants(self) -> dict[str, Bench]:
        """The bench in the ways in which a task may be set up."""
        return {"all weights": self.bench, "LoRA": self.bench.but(lora=4), "open end of text": self.bench.but(ends=True)}

    @property
    def loops(self) -> bool:
        """Whether it brings a training loop of its own."""
        return hasattr(self.algorithm, "train")


def declared(algorithm: Any) -> dict[str, Any]:
    """What an algorithm says of itself."""
    return {name: getattr(algorithm, name) for name in ("closed_form", "kl_price") if hasattr(algorithm, name)}


def price_of(algorithm: Any) -> str:
    """The field that prices KL; empty where there is none."""
    return str(declared(algorithm).get("kl_price", ""))
