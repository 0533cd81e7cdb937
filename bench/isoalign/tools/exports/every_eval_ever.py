"""Records of Every Eval Ever, schema 0.3.0 (https://github.com/evaleval/every_eval_ever): an aggregate for each card, and a
line for each of its samples."""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoalign.core.files import save
from isoalign.core.objective import objective_of
from isoalign.core.records import Estimate
from isoalign.evaluation.metrics import Metric
from isoalign.stats import LEVEL
from isoalign.tools.exports.evidence import Evidence

SCHEMA = "0.3.0"
DEVELOPER = "isoalign"


def write(evidence: Sequence[Evidence], folder: Path, dataset: str) -> None:
    """Write ``data/isoalign-TASK/isoalign/NAME/UUID.json``, and ``UUID_samples.jsonl`` beside it where there are samples."""
    for one in evidence:
        now = str(time.time())
        name = uuid.UUID(bytes=hashlib.sha256(one.card.key.encode()).digest()[:16], version=4)  # the same for the same card
        place = f"data/isoalign-{one.task}/{DEVELOPER}/{one.name}/{name}"
        record = _aggregate(one, now)
        if rows := _rows(one, record["evaluation_id"]):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            save(folder / f"{place}_samples.jsonl", text)
            record["detailed_evaluation_results"] = {
                "format": "jsonl", "file_path": f"{place}_samples.jsonl", "hash_algorithm": "sha256",
                "checksum": hashlib.sha256(text.encode()).hexdigest(), "total_rows": len(rows),
                "additional_details": {"samples_without_score": str(len(one.samples) - len(rows))},
            }  # fmt: skip
        save(folder / f"{place}.json", json.dumps(record, indent=1) + "\n")


def _aggregate(one: Evidence, now: str) -> dict[str, Any]:
    card = one.card
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"isoalign-{one.task}/{DEVELOPER}/{one.name}/{now}",
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": "isoalign", "source_type": "evaluation_run", "source_organization_name": DEVELOPER,
            "evaluator_relationship": "first_party" if card.metered else "third_party",
        },
        "eval_library": {"name": "isoalign", "version": one.version},
        "model_info": {
            "name": card.algorithm, "id": f"{DEVELOPER}/{one.name}", "developer": DEVELOPER,
            "additional_details": {
                "deployment_type": "self_deployed", "model_availability": "unknown", "algorithm": card.algorithm,
                "seed": str(card.seed), "card": card.key, "command": card.command, "flops": str(card.spent.get("flops", "")),
                "flags": "; ".join(map(str, card.flags)),
            },
        },
        "evaluation_results": [_result(one, metric, estimate) for metric, estimate in one.measured()],
    }  # fmt: skip


def _result(one: Evidence, metric: Metric, estimate: Estimate) -> dict[str, Any]:
    uncertainty: dict[str, Any] = {"num_samples": estimate.n}
    if estimate.low is not None and estimate.high is not None:
        uncertainty["confidence_interval"] = {
            "lower": estimate.low, "upper": estimate.high, "confidence_level": LEVEL, "method": "over prompts",
        }  # fmt: skip
    known = metric.higher_is_better is not None
    return {
        "evaluation_result_id": metric.name,
        "evaluation_name": f"{one.card.task} {metric.name}",
        "source_data": {"dataset_name": f"isoalign {one.card.task} prompts", "source_type": "other"},
        "metric_config": {
            "evaluation_description": metric.description or metric.title, "metric_id": f"isoalign.{metric.name}",
            "metric_name": metric.title, "metric_unit": metric.unit or "proportion_or_score",
            "lower_is_better": metric.higher_is_better is False, "score_type": "continuous",
            "min_score": _bound(metric.bounds[0]), "max_score": _bound(metric.bounds[1]),
            "additional_details": {"direction": "as lower_is_better" if known else "neither direction is better"},
        },
        "score_details": {"score": estimate.value, "uncertainty": uncertainty, "details": {"missing": str(estimate.missing)}},
    }  # fmt: skip


def _bound(value: float) -> float | str:
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _rows(one: Evidence, evaluation: str) -> list[dict[str, Any]]:
    """A row for each sample with a score, which the schema requires; it is correct on the better side of the threshold. None
    without a threshold, since the schema has no answer that is neither correct nor incorrect."""
    objective = objective_of(one.card)
    level, at = objective.level, objective.threshold
    if at is None:
        return []
    scores = one.scores.get(str(one.card.notes.get("scorer")), [None] * len(one.samples))
    return [
        {
            "schema_version": SCHEMA, "evaluation_id": evaluation, "model_id": f"{DEVELOPER}/{one.name}",
            "evaluation_name": f"{one.card.task} {level}", "evaluation_result_id": level,
            "sample_id": f"{sample.prompt_id}/{sample.draw}",
            "sample_hash": hashlib.sha256(sample.prompt.encode()).hexdigest(), "interaction_type": "single_turn",
            "input": {"raw": sample.prompt, "reference": []}, "output": {"raw": [sample.completion]}, "messages": None,
            "answer_attribution": [],
            "evaluation": {"score": score, "is_correct": (score >= at) == objective.higher_is_better},
            "metadata": {name: str(values[i]) for name, values in one.scores.items()} | {"draw": str(sample.draw)},
        }
        for i, (sample, score) in enumerate(zip(one.samples, scores, strict=True))
        if score is not None
    ]  # fmt: skip
