"""Figures: every metric family applied to the readings. No model is needed, so it can be done again at any time."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoalign.core.records import Estimate, PromptValues

if TYPE_CHECKING:
    from isoalign.evaluation.metrics.evidence import Evidence
    from isoalign.stats import Values

VERSION = 2


@dataclass(frozen=True)
class Figures:
    """Metrics with intervals, their values by prompt, and of each family its figures, its version and its plots' data."""

    metrics: dict[str, Estimate]
    values: PromptValues
    families: dict[str, list[str]]
    versions: dict[str, int]
    data: dict[str, Any]


def measure(evidence: Evidence, wanted: Collection[str] | None = None) -> Figures:
    """Apply every metric family, or those wanted."""
    from isoalign.evaluation import metrics

    found = metrics.measure_all(evidence, wanted)
    versions = metrics.versions()
    return Figures(
        metrics.merged(found),
        means(metrics.values_all(evidence, wanted)),
        {family: sorted(part) for family, part in found.items()},
        {family: versions[family] for family in found},
        metrics.data_all(evidence, wanted),
    )


def make(work: Path, evidence: Evidence) -> None:
    """Write ``figures.json``."""
    (work / "figures.json").write_text(json.dumps(asdict(measure(evidence))))


def read(folder: Path) -> Figures:
    """What ``make`` wrote."""
    row = json.loads((folder / "figures.json").read_text())
    return Figures(**row | {"metrics": {name: Estimate(**estimate) for name, estimate in row["metrics"].items()}})


def means(values: Mapping[str, Values]) -> PromptValues:
    """The mean of each prompt's values, None where it has none; five digits are far finer than any interval.

    Variants of a figure (`toxicity_emt@2`, `distinct_1@common`) are left out: a third of a card for what nobody ranks by.
    """
    plain = {name: by for name, by in values.items() if "@" not in name}
    return {name: {prompt: _mean(row) for prompt, row in sorted(by.items())} for name, by in plain.items()}


def _mean(row: Any) -> float | None:
    known = [value for value in row if value is not None]
    return float(f"{math.fsum(known) / len(known):.5g}") if known else None
