"""The training curve: snapshots of the policy along the budget, scored like the final one on fewer prompts and samples."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isoalign.core.objective import Objective
from isoalign.core.records import Estimate, Point
from isoalign.evaluation import metric_values, scores
from isoalign.evaluation.metrics import ScoredSamples

VERSION = 3
_FURTHER = ("proxy_reward", "kl", "perplexity", "length", "distinct_2", "self_bleu", "token_entropy")


def card_metrics(objective: Objective) -> tuple[str, ...]:
    """Metrics of each point on a card; rescoring gives all others."""
    return (objective.level, objective.level_second, objective.gain, *_FURTHER)


def card_values(objective: Objective) -> tuple[str, ...]:
    """Metrics with their values per prompt on a card."""
    return (objective.level, "proxy_reward", "kl")


def read_places(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Budget fraction, FLOPs and steps of each snapshot and of the end, from the record of training."""
    end = {"fraction": record["fraction"], "flops": record["spent"]["flops"], "steps": record["steps"]}
    return [*record["snapshots"], end]


def make_curve(
    work: Path, places: Sequence[dict[str, Any]], folders: Sequence[Path], base: Path, prompts: Collection[str], draws: int
) -> None:
    """Write ``curve.json``: the SFT base, the snapshots and the end."""
    points = measure_curve(places, folders, base, prompts, draws)
    (work / "curve.json").write_text(json.dumps([asdict(point) for point in points]))


def measure_curve(
    places: Sequence[dict[str, Any]],
    folders: Sequence[Path],
    base: Path,
    prompts: Collection[str],
    draws: int,
    wanted: Collection[str] | None = None,
) -> list[Point]:
    """The points of the curve, paired: all are on the same prompts and samples. ``folders``: the scores of each place;
    ``base``: those of the SFT base; ``wanted``: metric families."""
    start = {"fraction": 0.0, "flops": 0, "steps": 0}
    points = [_point(start, scores.read_scored_samples(base, None, prompts, draws), wanted)]
    for place, folder in zip(places, folders, strict=True):
        points.append(_point(place, scores.read_scored_samples(folder, base, prompts, draws), wanted))
    return points


def _point(place: dict[str, Any], scored: ScoredSamples, wanted: Collection[str] | None) -> Point:
    figures, objective = metric_values.measure_metrics(scored, wanted), scored.objective
    return Point(
        **place,
        metrics={name: figures.metrics[name] for name in card_metrics(objective) if name in figures.metrics},
        values={name: figures.values[name] for name in card_values(objective) if name in figures.values},
    )


def read_curve(folder: Path) -> list[Point]:
    """What ``make_curve`` wrote."""
    rows = json.loads((folder / "curve.json").read_text())
    return [Point(**row | {"metrics": {k: Estimate(**e) for k, e in row["metrics"].items()}}) for row in rows]
