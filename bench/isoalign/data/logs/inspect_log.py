"""Logs of Inspect as JSON: a sample for each id and epoch, with the values of each scorer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.data.logs.log import Log, LogRow, mapping_of, number_of, refuse

KIND = "Inspect log"
LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # correct, partly, incorrect, no answer, as Inspect counts them
ATTACHED = "attachment://"
REACHING = {"max_connections", "max_retries", "timeout", "attempt_timeout", "batch", "cache"}
CONDITIONS = ("task_version", "task_args", "solver", "solver_args", "model_generate_config")  # under which answers were given


def claims(first: Any) -> bool:
    """Whether a file that begins with this value is such a file."""
    return isinstance(first, dict) and isinstance(first.get("eval"), dict) and "status" in first


def read(file: Path, values: Sequence[Any]) -> Log:
    """The log. A scorer with several values gives SCORER/NAME each. Raises UserError that names the sample, and for a log that
    was not completed."""
    if len(values) != 1:
        raise UserError(f"{file}: it holds {len(values)} logs; keep one in a file")
    log = mapping_of(file, 1, values[0])
    if (status := log["status"]) != "success":
        raise UserError(f"{file}: the evaluation ended with status {status!r}; complete it: inspect eval-retry {file.name}")
    samples = log.get("samples")
    if not isinstance(samples, list) or not samples:
        raise UserError(
            f"{file}: it holds no samples; write it anew with them: inspect log convert, or inspect eval --log-samples"
        )
    skipped: dict[str, int] = {}
    rows = tuple(_row(file, number, mapping_of(file, number, each), skipped) for number, each in enumerate(samples, start=1))
    about = log["eval"]
    kept = tuple(row.without(skipped) for row in rows)
    conditions = {name: _shaping(told) for name in CONDITIONS if (told := about.get(name))}
    return Log(
        file, KIND, str(about.get("task", "")), str(about.get("model", "")), kept, against=_judges(about),
        skipped=skipped, conditions=conditions,
    )  # fmt: skip


def _shaping(told: Any) -> Any:
    """A condition without what only says how a model is reached."""
    return {name: each for name, each in told.items() if name not in REACHING} if isinstance(told, dict) else told


def _judges(about: dict[str, Any]) -> str:
    """The models that grade answers; empty where no model does. A grader that is not named is the model itself."""
    roles, scorers = about.get("model_roles"), about.get("scorers")
    named = [role for role in roles.values() if isinstance(role, dict | str)] if isinstance(roles, dict) else []
    found = [role if isinstance(role, str) else str(role.get("model", "")) for role in named]
    for each in scorers if isinstance(scorers, list) else []:
        options = each.get("options") if isinstance(each, dict) else None
        model = options.get("model") if isinstance(options, dict) else None
        found += [str(one) for one in (model if isinstance(model, list) else [model]) if one]
        if isinstance(each, dict) and "model_graded" in str(each.get("name", "")) and not found:
            found.append(str(about.get("model", "")))
    return ", ".join(sorted(set(filter(None, found))))


def _row(file: Path, number: int, sample: dict[str, Any], skipped: dict[str, int]) -> LogRow:
    if "id" not in sample:
        refuse(file, number, "id is missing, which each sample has")
    epoch = sample.get("epoch", 1)
    if not isinstance(epoch, int) or epoch < 1:
        refuse(file, number, "epoch must be a whole number from 1")
    scores: dict[str, float | None] = {}
    for scorer, score in mapping_of(file, number, sample.get("scores") or {}).items():  # none of a sample that failed: missing
        value = score.get("value") if isinstance(score, dict) else score
        parts = {f"{scorer}/{name}": each for name, each in value.items()} if isinstance(value, dict) else {scorer: value}
        for name, each in parts.items():
            if isinstance(each, list) or (isinstance(each, str) and each not in LETTERS):
                skipped.setdefault(name, number)
            else:
                scores[name] = LETTERS[each] if isinstance(each, str) else number_of(file, number, f"score {name}", each)
    given = sample.get("input")
    prompt = _text(given, sample)
    turns = (
        [[turn.get("role"), turn.get("content")] for turn in given if isinstance(turn, dict)]
        if isinstance(given, list)
        else given
    )
    identity = json.dumps([turns, sample.get("target"), sample.get("choices")], sort_keys=True)  # without the ids of turns
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, dict) else None
    chosen = choices[0] if isinstance(choices, list) and choices else None
    answer = _text([chosen.get("message")], sample) if isinstance(chosen, dict) else None
    answers = () if answer is None else (answer,)
    asked = len(given) if isinstance(given, list) else 1
    return LogRow(number, str(sample["id"]), epoch - 1, prompt, identity, scores, answers, asked)


def _text(given: Any, sample: dict[str, Any]) -> str:
    """A text, or that of the last message of a conversation; long ones stand apart, in the attachments of the sample."""
    if isinstance(given, list):
        last = given[-1] if given else None
        given = last.get("content") if isinstance(last, dict) else None
    if isinstance(given, list):  # of a message in parts
        given = "".join(str(part.get("text", "")) for part in given if isinstance(part, dict))
    if isinstance(given, str) and given.startswith(ATTACHED):
        attached = sample.get("attachments")
        given = attached.get(given.removeprefix(ATTACHED), given) if isinstance(attached, dict) else given
    return given if isinstance(given, str) else ""
