"""What results are exported from: a card, and its samples with their scores where the store holds them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from isoalign.core.display import clean
from isoalign.core.objective import Objective, objective_of
from isoalign.core.records import Card, Estimate, Sample
from isoalign.evaluation.card import file_name
from isoalign.evaluation.metrics import Metric
from isoalign.report.board.columns import metric

VERSION = "isoalign"  # its name among the versions of a card


@dataclass(frozen=True)
class Evidence:
    """A card without secrets, with its samples, none where the store does not hold them, and their ``scores`` by scorer,
    aligned with them."""

    card: Card
    samples: tuple[Sample, ...] = ()
    scores: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name that no other card has, safe in paths: algorithm, seed and the beginning of the key."""
        return Path(file_name(self.card)).stem

    @property
    def task(self) -> str:
        """The task, safe in paths and tables."""
        return "".join(char if char.isalnum() or char in "_-" else "-" for char in clean(self.card.task))

    @property
    def version(self) -> str:
        """The version of isoalign that made the card."""
        return self.card.versions.get(VERSION, "unknown")

    @property
    def draws(self) -> int:
        """Samples of a prompt, 0 without samples."""
        return max(map(len, self.by_prompt.values()), default=0)

    @cached_property
    def by_prompt(self) -> dict[str, list[int]]:
        """Prompt to the places of its samples, by draw."""
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place in sorted(range(len(self.samples)), key=lambda i: self.samples[i].draw):
            places[self.samples[place].prompt_id].append(place)
        return dict(sorted(places.items()))

    def measured(self) -> Iterator[tuple[Metric, Estimate]]:
        """Every metric that has a value, with how it is read."""
        objective = objective_of(self.card)
        for name, estimate in self.card.metrics.items():
            if estimate.value is not None:
                yield _read(name, objective), estimate


def _read(name: str, objective: Objective) -> Metric:
    """How a metric is read; of a part, such as toxicity_mean/clean or ead@common, as the whole is."""
    whole = re.split("[/@]", name)[0]
    one = metric(whole, objective)
    return one if whole == name else replace(one, name=name, title=f"{one.title} ({name[len(whole) + 1 :]})")
