"""Logs of Inspect (https://inspect.aisi.org.uk/eval-logs.html) as JSON, for `inspect view`: a sample for each draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isoalign.core.files import save
from isoalign.core.records import Sample
from isoalign.tools.exports.evidence import Evidence

FORMAT = 2


def write(evidence: Sequence[Evidence], folder: Path, dataset: str) -> None:
    """Write a log for each card."""
    for one in evidence:
        now = datetime.now(UTC)
        stamp = now.strftime("%Y-%m-%dT%H-%M-%S+00-00")  # by which the viewer knows its files
        task, name = one.task.replace("_", "-"), one.name.replace("_", "-")
        save(folder / f"{stamp}_{task}_{name}.json", json.dumps(_log(one, now.isoformat(timespec="seconds"))) + "\n")


def _log(one: Evidence, created: str) -> dict[str, Any]:
    card = one.card
    about = {"card": card.key, "command": card.command, "algorithm": card.algorithm, "seed": card.seed,
             "spent": card.spent, "flags": list(map(str, card.flags))}  # fmt: skip
    scorers = [*one.scores, *(["kl"] if any(sample.kl is not None for sample in one.samples) else [])]
    return {
        "version": FORMAT,
        "status": "success",
        "eval": {
            "eval_id": card.key, "run_id": card.key, "task_id": card.key, "created": created, "task": one.task,
            "task_version": 0, "dataset": {"name": one.task, "samples": len(one.by_prompt), "sample_ids": list(one.by_prompt)},
            "model": f"isoalign/{one.name}", "config": {"epochs": one.draws}, "packages": {"isoalign": one.version},
            "metadata": about, "scorers": [{"name": name} for name in scorers],
        },
        "plan": {"name": "isoalign", "steps": []},
        "results": {
            "total_samples": len(one.samples), "completed_samples": len(one.samples),
            "scores": [
                {
                    "name": metric.name, "scorer": "isoalign", "params": {},
                    "metrics": {"value": {"name": "value", "value": estimate.value, "params": {}, "metadata": vars(estimate)}},
                }
                for metric, estimate in one.measured()
            ],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
        "samples": [_sample(one, i, sample) for i, sample in enumerate(one.samples)],
    }  # fmt: skip


def _sample(one: Evidence, place: int, sample: Sample) -> dict[str, Any]:
    model = f"isoalign/{one.name}"
    answer = {"role": "assistant", "content": sample.completion, "source": "generate", "model": model}
    scores = {name: values[place] for name, values in one.scores.items()} | {"kl": sample.kl}
    ended = "unknown" if sample.finished is None else "stop" if sample.finished else "max_tokens"
    return {
        "id": sample.prompt_id,
        "epoch": sample.draw + 1,
        "input": sample.prompt,
        "target": "",
        "messages": [{"role": "user", "content": sample.prompt, "source": "input"}, answer],
        "output": {"model": model, "choices": [{"message": answer, "stop_reason": ended}]},
        "scores": {name: {"value": value} for name, value in scores.items() if value is not None},
        "metadata": {"source": sample.source, "stratum": sample.stratum},
    }
