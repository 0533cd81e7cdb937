"""Results and samples as lm-evaluation-harness 0.4.13 writes them: `results_DATE.json` and `samples_TASK_DATE.jsonl`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from isoalign.core.files import save
from isoalign.core.objective import objective_of
from isoalign.tools.exports.evidence import Evidence

FILTER = "none"


def write(evidence: Sequence[Evidence], folder: Path, dataset: str) -> None:
    """Write a folder for each card. A row of the samples is a prompt with all its draws, and values by prompt as metrics."""
    for one in evidence:
        now = datetime.now()
        stamp = now.isoformat(timespec="microseconds").replace(":", "-")
        rows = _rows(one)
        save(folder / one.name / f"results_{stamp}.json", json.dumps(_results(one, now.timestamp(), rows), indent=1) + "\n")
        if rows:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            save(folder / one.name / f"samples_{one.task}_{stamp}.jsonl", text)


def _results(one: Evidence, now: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    card, task = one.card, one.task
    figures: dict[str, Any] = {"alias": task}
    intervals, better = {}, {}
    for metric, estimate in one.measured():
        figures |= {f"{metric.name},{FILTER}": estimate.value, f"{metric.name}_stderr,{FILTER}": "N/A"}
        intervals[metric.name] = {"low": estimate.low, "high": estimate.high, "n": estimate.n, "missing": estimate.missing}
        better[metric.name] = metric.higher_is_better
    prompts = int(card.notes.get("prompts") or len(rows))
    return {
        "results": {task: figures},
        "group_subtasks": {task: []},
        "configs": {task: {"task": task, "output_type": "generate_until", "repeats": one.draws or card.notes.get("draws")}},
        "versions": {task: one.version},
        "n-shot": {task: 0},
        "higher_is_better": {task: better},
        "n-samples": {task: {"original": prompts, "effective": prompts}},
        "config": {"model": "isoalign", "model_args": f"algorithm={card.algorithm},seed={card.seed}"},
        "date": now,
        "model_source": "isoalign",
        "model_name": one.name,
        "model_name_sanitized": one.name,
        "task_hashes": {task: _hash("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))},
        "isoalign": {  # what the format has no place for
            "intervals": intervals, "interval": "95% over prompts, not symmetric, so no stderr follows from it",
            "card": card.key, "command": card.command, "flags": list(map(str, card.flags)),
        },
    }  # fmt: skip


def _rows(one: Evidence) -> list[dict[str, Any]]:
    level = objective_of(one.card).level
    names = sorted(name for name in one.card.values if name in (level, f"{level}_second", "kl"))
    rows = []
    for number, (prompt, places) in enumerate(one.by_prompt.items()):
        first, answers = one.samples[places[0]], [one.samples[i].completion for i in places]
        doc = {"prompt_id": prompt, "prompt": first.prompt, "source": first.source, "stratum": first.stratum}
        rows.append(
            {
                "doc_id": number, "doc": doc, "target": "", "arguments": {"gen_args_0": {"arg_0": first.prompt, "arg_1": {}}},
                "resps": [answers], "filtered_resps": answers, "filter": FILTER, "metrics": names,
                "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)), "prompt_hash": _hash(first.prompt),
                "target_hash": _hash(""), **{name: one.card.values[name].get(prompt) for name in names},
            }
        )  # fmt: skip
    return rows


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
