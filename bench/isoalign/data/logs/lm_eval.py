"""Samples of lm-evaluation-harness (`samples_TASK_DATE.jsonl`): a row for each document and filter."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoalign.data.logs.log import Log, LogRow, mapping_of, number_of, refuse

KIND = "lm-eval samples"
ABOUT = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash",
}  # fmt: skip
"""What a row has beside its scores."""
RENAMED = {"perplexity": "log_likelihood"}  # a row has the logarithm, of which the tool makes a perplexity of all rows


def claims(first: Any) -> bool:
    """Whether a file that begins with this value is such a file."""
    return isinstance(first, dict) and {"doc_id", "resps"} <= first.keys()


def read(file: Path, values: Sequence[Any]) -> Log:
    """The log. Scores are named METRIC,FILTER, as in the tool's results. Raises UserError that names the row."""
    merged: dict[str, LogRow] = {}
    seen: dict[tuple[str, str], int] = {}
    skipped: dict[str, int] = {}
    conditions: dict[str, Any] = {}
    for number, value in enumerate(values, start=1):
        row = mapping_of(file, number, value)
        if "doc_id" not in row or "resps" not in row:
            refuse(file, number, f"{'doc_id' if 'doc_id' not in row else 'resps'} is missing, which lm-eval samples have")
        key, chosen = str(row["doc_id"]), str(row.get("filter", "none"))
        if (before := seen.setdefault((key, chosen), number)) != number:
            refuse(file, number, f"doc_id {key} with filter {chosen} is already in row {before}; a run was appended: keep one")
        names = row["metrics"] if isinstance(row.get("metrics"), list) else sorted(row.keys() - ABOUT)
        whole = {RENAMED.get(str(name), str(name)): row.get(str(name)) for name in names}
        skipped = {name: number for name, each in whole.items() if isinstance(each, list | dict | str)} | skipped
        scores = {
            f"{name},{chosen}": number_of(file, number, name, each) for name, each in whole.items() if name not in skipped
        }
        identity = _identity(row)
        if key in merged and merged[key].identity != identity:
            refuse(file, number, f"doc_id {key} is another document than in row {merged[key].number}")
        known = merged.get(key)
        generation = _argument(row, 1)
        conditions |= generation if isinstance(generation, dict) else {}
        merged[key] = LogRow(
            known.number if known else number, key, 0, _prompt(row), identity, (known.scores if known else {}) | scores,
            _completions(row),
        )  # fmt: skip
    kept = tuple(
        row.without({score for score in row.scores if score.rpartition(",")[0] in skipped}) for row in merged.values()
    )
    name = file.parent.name if file.name.startswith("samples_") else file.stem
    return Log(file, KIND, _task(file), name, kept, skipped=skipped, conditions=conditions)


def _identity(row: dict[str, Any]) -> str | None:
    """Document and target, or their hashes in a file without them; None where it has neither."""
    for names in (("doc", "target"), ("doc_hash", "target_hash")):
        if row.get(names[0]) is not None:
            return json.dumps([row.get(name) for name in names], sort_keys=True)
    return None


def _prompt(row: dict[str, Any]) -> str:
    """The first argument of the first request."""
    text = _argument(row, 0)
    return text if isinstance(text, str) else ""


def _argument(row: dict[str, Any], number: int) -> Any:
    """An argument of the first request, which newer files have by name and older ones in a list; None if there is none."""
    found = row.get("arguments")
    for name, place in (("gen_args_0", 0), (f"arg_{number}", number)):
        if isinstance(found, list):
            found = found[place] if place < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found


def _completions(row: dict[str, Any]) -> tuple[str, ...]:
    """The answers before any filter: one, or one a repeat. None where answers were given and their likelihood taken."""
    resps = row["resps"]
    first = resps[0] if isinstance(resps, list) and len(resps) == 1 else []
    return tuple(first) if isinstance(first, list) and all(isinstance(one, str) for one in first) else ()


def _task(file: Path) -> str:
    """The task, which only the name of the file says."""
    named = re.fullmatch(r"samples_(.+?)(_\d{4}-\d\d-\d\dT.*)?\.jsonl", file.name)
    return named[1] if named else ""
