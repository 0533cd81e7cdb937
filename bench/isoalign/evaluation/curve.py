"""The curve along the budget: snapshots of the policy, scored like the final policy but on fewer prompts and draws."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isoalign.core.records import Estimate, Point
from isoalign.evaluation import metric_values, scores

VERSION = 2
KEPT = (
    "toxicity_mean", "toxicity_mean_second", "toxicity_reduction", "proxy_reward", "kl", "perplexity", "length", "distinct_2",
    "self_bleu", "embedding_diversity", "token_entropy",
)  # fmt: skip
"""Metrics that a card keeps of each point; rescoring gives the others."""
PAIRED = ("toxicity_mean", "proxy_reward", "kl")  # metrics of which it keeps the values by prompt


def places(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Where on the budget the snapshots and the end of training lie, from the record of training."""
    end = {"fraction": record["fraction"], "flops": record["spent"]["flops"], "steps": record["steps"]}
    return [*record["snapshots"], end]


def make(
    work: Path, places: Sequence[dict[str, Any]], read: Sequence[Path], base: Path, prompts: Collection[str], draws: int
) -> None:
    """Write ``curve.json``: the SFT base, the snapshots and the end; ``read`` holds the folders of scores of ``places``."""
    (work / "curve.json").write_text(json.dumps([asdict(point) for point in measure(places, read, base, prompts, draws)]))


def measure(
    places: Sequence[dict[str, Any]],
    read: Sequence[Path],
    base: Path,
    prompts: Collection[str],
    draws: int,
    wanted: Collection[str] | None = None,
) -> list[Point]:
    """The points of the curve, all on the same prompts and draws, so that they are paired; ``wanted``: metric families."""
    start = {"fraction": 0.0, "flops": 0, "steps": 0}
    points = [_point(start, metric_values.measure(scores.scored_samples(base, None, prompts, draws), wanted))]
    for place, folder in zip(places, read, strict=True):
        points.append(_point(place, metric_values.measure(scores.scored_samples(folder, base, prompts, draws), wanted)))
    return points


def _point(place: dict[str, Any], found: metric_values.MetricValues) -> Point:
    return Point(
        **place,
        metrics={name: found.metrics[name] for name in KEPT if name in found.metrics},
        values={name: found.values[name] for name in PAIRED if name in found.values},
    )


def read(folder: Path) -> list[Point]:
    """Read what ``make`` wrote."""
    rows = json.loads((folder / "curve.json").read_text())
    return [Point(**row | {"metrics": {k: Estimate(**e) for k, e in row["metrics"].items()}}) for row in rows]
