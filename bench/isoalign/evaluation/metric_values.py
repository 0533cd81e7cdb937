"""Metric values: every metric family applied to the scored samples of a run. No model is needed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoalign import stats
from isoalign.core.objective import Objective
from isoalign.core.records import Estimate, PromptValues
from isoalign.evaluation import metrics
from isoalign.evaluation.metrics import ScoredSamples
from isoalign.evaluation.spread import typical_spread
from isoalign.stats import Values

VERSION = 2
FILE = "figures.json"
DIGITS, MOST = 5, 15  # significant digits of means


@dataclass(frozen=True)
class MetricValues:
    """Metrics with intervals, their values by prompt, and for each family its metrics, its version and its plots' data."""

    metrics: dict[str, Estimate]
    values: PromptValues
    families: dict[str, list[str]]
    versions: dict[str, int]
    data: dict[str, Any]


def measure_metrics(scored: ScoredSamples, wanted: Collection[str] | None = None) -> MetricValues:
    """Apply every metric family, or those wanted."""
    by_family = metrics.measure_all(scored, wanted)
    versions = metrics.versions(scored.objective, bool(scored.contests))
    return MetricValues(
        {name: _bounded(name, estimate, scored.objective) for name, estimate in metrics.merged(by_family).items()},
        prompt_means(metrics.values_all(scored, wanted), far=_may_be_far(scored.objective)),
        {family: sorted(part) for family, part in by_family.items()},
        {family: versions[family] for family in by_family},
        metrics.data_all(scored, wanted),
    )


def _bounded(name: str, estimate: Estimate, objective: Objective) -> Estimate:
    """The estimate, of shares with an interval where all values are 0 or all 1; ``name@variant/stratum`` is of ``name``,
    and the level has the bounds of the objective."""
    whole = name.partition("@")[0].partition("/")[0]
    metric = metrics.declared().get(whole)
    bounds = objective.bounds if whole == objective.level else metric.bounds if metric else None
    return stats.exact_ends(estimate) if bounds == (0.0, 1.0) else estimate


def make_metrics(work: Path, scored: ScoredSamples) -> None:
    """Write the metric values into a stage's folder."""
    (work / FILE).write_text(json.dumps(asdict(measure_metrics(scored))))


def read_metrics(folder: Path) -> MetricValues:
    """Read what ``make_metrics`` wrote."""
    row = json.loads((folder / FILE).read_text())
    return MetricValues(**row | {"metrics": {name: Estimate(**estimate) for name, estimate in row["metrics"].items()}})


def digits_recipe(objective: Objective) -> dict[str, int]:
    """For recipes, of an objective without bounds: its means were kept with fewer digits before."""
    return {"digits": 3} if _may_be_far(objective) else {}


def _may_be_far(objective: Objective) -> bool:
    """Whether scores may lie far from 0, by any number of their spreads."""
    return not math.isfinite(objective.high - objective.low)


def prompt_means(values: Mapping[str, Values], far: bool = False) -> PromptValues:
    """The mean of each prompt's values, None where all are missing, with digits that are far finer than any interval.

    ``far``: scores may lie far from 0. Variants of a metric (`distinct_1@common`) are left out: they would be a third of a
    card, and no row is ranked by them.
    """
    kept = {name: by for name, by in values.items() if "@" not in name}
    return {name: _shortened({prompt: _mean(row) for prompt, row in sorted(by.items())}, far) for name, by in kept.items()}


def _shortened(by: dict[str, float | None], far: bool) -> dict[str, float | None]:
    """Means with `DIGITS` significant digits; where they are a thousand times their spread or more, with more, to a
    thousandth of it: of scores about 100,000 only the last digits tell methods apart. Where they may be ``far`` from 0, the
    `typical_spread` counts as well, and without one they are exact: those of another method lie in between."""
    known = [value for value in by.values() if value is not None]
    largest, spread = max(map(abs, known), default=0.0), float(np.std(known)) if known else 0.0
    ratio = largest / spread if spread > 1e-12 * largest else 1.0  # below, they differ by rounding
    if far and known:
        typical = typical_spread(known)
        ratio = max(ratio, abs(statistics.median(known)) / typical if typical else 10.0**MOST)
    digits = DIGITS if ratio < 1000 else min(math.floor(math.log10(ratio)) + 4, MOST)
    return {prompt: value if value is None else float(f"{value:.{digits}g}") for prompt, value in by.items()}


def _mean(row: Any) -> float | None:
    known = [value for value in row if value is not None]
    return math.fsum(known) / len(known) if known else None
