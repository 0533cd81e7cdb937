"""Completions from outside isoalign: read, checked, scored, and written as an unmetered card."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from isoalign.config.task import TaskConfig
from isoalign.core import outside_json
from isoalign.core.complaint import say
from isoalign.core.errors import UserError
from isoalign.core.jsonl import write_rows
from isoalign.core.manifests import content
from isoalign.core.records import Card, Flag, Sample
from isoalign.core.store import Store, digest
from isoalign.core.text import normalise, repeats
from isoalign.data import prompts
from isoalign.data.logs.read import read_log
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.data.prompts import Prompt
from isoalign.evaluation import metric_values, scores
from isoalign.evaluation import samples as sample
from isoalign.evaluation.card import check_row_name, key_of
from isoalign.evaluation.scoring import scored
from isoalign.evaluation.win_rate import WIN_RATE, read_contests
from isoalign.models.language import LanguageModel
from isoalign.models.tokens import encode_words
from isoalign.runs import flags as doubts
from isoalign.runs import notes
from isoalign.runs.card import packages
from isoalign.runs.pipeline import Run, base_run
from isoalign.stages.shared import SharedStages
from isoalign.stages.stage import Stage

VERSION = 1
FIELDS = {"prompt_id", "prompt", "draw", "completion", "id", "kl", "finished", "scores"}
MOST = 1e6  # nats; more is a mistake, and would overflow a sum


def score(file: Path, task: TaskConfig, store: Store, name: str, command: str) -> Card:
    """Score a file of completions and make its card.

    Raises UserError, with nothing written, for a file whose rows are not all the task's evaluation prompts with equally
    many draws each, and for a name that is too long.
    """
    check_row_name(name)
    chosen = prompts.load_split(task.prompts, task.evaluation.split)
    text = rows_of_log(file, _text_of(file))
    rows = read_external(file, text, chosen, task)
    draws = len(rows) // len(chosen)
    task = replace(task, evaluation=replace(task.evaluation, draws=draws, curve_draws=min(task.evaluation.curve_draws, draws)))
    shared = SharedStages(task, store)
    shared.get(shared.preflight(task.model.lora))
    base = base_run(shared)
    samples = _samples(text, rows, base)
    own, theirs = base.scores(samples), base.own_scores()
    contests = base.contests(samples)
    judged = read_contests(shared.get(contests)) if contests else []
    own_samples = replace(scores.read_scored_samples(shared.get(own), shared.get(theirs)), contests=judged)
    parents = {"sft": shared.sft, "held_out": shared.pairs("annotator", task.evaluation.split), "samples": samples}
    parents |= {"scores": own, "base_samples": base.samples, "base_scores": theirs, "agreement": base.agreement}
    parents |= {WIN_RATE: contests} if contests else {}
    longest = task.model.new_tokens
    longer = [s for s in own_samples.samples if len(s.token_ids) > longest]
    flags = [Flag("warning", f"{len(longer)} of {len(rows)} completions are longer than the task's {longest} tokens "
                             f"(up to {max(len(s.token_ids) for s in longer)})")] if longer else []  # fmt: skip
    flags += (
        [Flag("warning", f"its scores came with {file.name}: they were not computed here")] if rows[0].get("scores") else []
    )
    asked = {prompt.id: prompts.turns_of(prompt)[-1].content for prompt in chosen}
    whole = sum(repeats(asked[s.prompt_id], s.completion) for s in own_samples.samples)
    told = f"{whole} of {len(rows)} completions begin with their prompt, and are scored with it; give the answers alone"
    flags += [Flag("warning", told)] if 2 * whole > len(rows) else []
    flags += doubts.score_flags(shared.get(own))
    card = Card(
        key="", task=task.name, algorithm=name, seed=0,
        config={"algorithm": {"samples": file.name, "digest": digest(text)[:8]}, "task": asdict(task)},
        budget={"flops": None}, spent={}, metrics={}, parents={name: stage.key for name, stage in parents.items()},
        versions=packages(), command=command,
        notes=notes.make_notes(base) | notes.win_rate_notes(base, contests)
        | {"curve": None, "flags": list(map(asdict, flags))},
        contents={name: content(shared.get(stage)) for name, stage in parents.items()},
    )  # fmt: skip
    return scored(
        replace(card, key=key_of(card)),
        metric_values.measure_metrics(own_samples),
        metric_values.read_metrics(shared.get(base.metrics())),
        [],
    )


def _text_of(file: Path) -> str:
    """What a file holds; read once, since a pipe gives it once."""
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"cannot read {file}: {reason}") from error


def rows_of_log(file: Path, text: str) -> str:
    """A text; of a log of another tool, its answers as rows that `read_external` reads, without the scores that it gave."""
    if (log := read_log(file, text.encode())) is None:
        return text
    rows = []
    for row in log.rows:
        if not row.completions:
            _refuse(file, row.number, f"{log.kind}: it has no answer that the model wrote, which is what is scored")
        draws = enumerate(row.completions, start=row.draw)
        rows += [{"prompt": row.prompt, "draw": draw, "completion": answer} for draw, answer in draws]
    say(f"{file}: read as {log.kind}: {len(rows)} answers; its own scores are not read")
    if talks := sum(row.turns > 1 for row in log.rows):
        what = "answers are to conversations, of which the last turn alone is read as the prompt"
        say(f"{file}: {talks} of {len(log.rows)} {what}")
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_external(file: Path, text: str, chosen: Sequence[Prompt], task: TaskConfig) -> list[dict[str, Any]]:
    """The rows of a JSONL text, by prompt and draw, each with ``prompt_id``, ``draw`` and ``completion``; null is absent.

    Raises UserError naming ``file`` and the row.
    """
    known = {prompt.id: prompt for prompt in chosen}
    by_text = {normalise(prompt.text): prompt.id for prompt in chosen}
    lines = text.removeprefix("\ufeff").rstrip().split("\n")
    low, high = (0.0, 1.0) if task.objective.is_toxicity else (-math.inf, math.inf)  # the second scorer has its own scale
    rows: list[dict[str, Any]] = []
    drawn: Counter[str] = Counter()
    seen: dict[tuple[str, Any], int] = {}
    for number, line in enumerate(lines, start=1):
        row = _row(file, number, line, low, high)
        prompt = row["prompt_id"] if "prompt_id" in row else by_text.get(normalise(row["prompt"]), "")
        if prompt not in known:
            given = row.get("prompt_id", row.get("prompt"))
            _refuse(file, number, f"{given!r} is not one of the {len(known)} {task.evaluation.split} prompts of {task.name}; "
                    f"see: isoalign prompts {task.name}")  # fmt: skip
        if normalise(row.get("prompt", known[prompt].text)) != normalise(known[prompt].text):
            _refuse(file, number, f"prompt {prompt} has another text in {task.name}: {known[prompt].text[:40]!r}")
        draw = row.get("draw", drawn[prompt])
        drawn[prompt] += 1
        names = [("id", row["id"])] if "id" in row else []
        for what, name in [*names, (f"prompt {prompt} draw", draw)]:
            if (before := seen.setdefault((what, name), number)) != number:
                _refuse(file, number, f"{what} {name} is already in row {before}")
        rows.append(row | {"prompt_id": prompt, "draw": draw})
    if unread := sorted(set().union(*rows) - FIELDS):
        print(f"{file}: not read: {', '.join(map(repr, unread))} (read: {', '.join(sorted(FIELDS))})", file=sys.stderr)
    _complete(file, rows, known, task)
    place = {prompt: number for number, prompt in enumerate(known)}
    return sorted(rows, key=lambda row: (place[row["prompt_id"]], row["draw"]))


def _row(file: Path, number: int, line: str, low: float, high: float) -> dict[str, Any]:
    try:
        row = outside_json.decode(line, parse_constant=_no_number)
    except ValueError as error:
        _refuse(file, number, f"cannot be read: {error}")
    if not isinstance(row, dict):
        _refuse(file, number, f"a row is a JSON object, not {line[:40]}")
    row = {name: value for name, value in row.items() if value is not None}
    if not isinstance(row.get("completion"), str):
        _refuse(file, number, "completion must be a text" if "completion" in row else "completion is missing")
    if not ({"prompt_id", "prompt"} & row.keys()):
        _refuse(file, number, "prompt_id or prompt is missing")
    for name in ("prompt_id", "prompt"):
        if not isinstance(row.get(name, ""), str):
            _refuse(file, number, f"{name} must be a text")
    if not isinstance(row.get("draw", 0), int) or isinstance(row.get("draw"), bool) or row.get("draw", 0) < 0:
        _refuse(file, number, "draw must be a whole number from 0")
    if "kl" in row and (type(row["kl"]) not in (int, float) or not 0 <= row["kl"] <= MOST):
        _refuse(file, number, f"kl must be a number of nats from 0 to {MOST:g}")
    if not isinstance(row.get("finished", False), bool):
        _refuse(file, number, "finished must be true or false")
    if isinstance(row.get("id"), list | dict):
        _refuse(file, number, "id must be a text or a number")
    scores = row.get("scores", {})
    if not isinstance(scores, dict) or not all(_is_score(value, low, high) for value in scores.values()):
        numbers = "numbers" if math.isinf(high) else f"numbers in [{low:g}, {high:g}]"
        _refuse(file, number, f"scores must map scorers to {numbers} or null")
    return row


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number; write null for a missing value")


def _is_score(value: Any, low: float, high: float) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high)


def _complete(file: Path, rows: Sequence[dict[str, Any]], known: dict[str, Prompt], task: TaskConfig) -> None:
    """Every prompt is there, with the same draws, ``kl`` and ``finished`` are in all rows or none, and the scores are of this
    task's scorers or of none."""
    draws: defaultdict[str, set[int]] = defaultdict(set)
    for row in rows:
        draws[row["prompt_id"]].add(row["draw"])
    if missing := [prompt for prompt in known if prompt not in draws]:
        first = known[missing[0]]
        raise UserError(
            f"{file}: {len(missing)} of the {len(known)} {task.evaluation.split} prompts of {task.name} are missing, "
            f"such as {first.id} ({first.text[:40]!r})"
        )
    first_prompt = rows[0]["prompt_id"]
    for prompt, own in draws.items():
        if own != draws[first_prompt]:
            raise UserError(
                f"{file}: unequal draws: prompt {first_prompt} has {len(draws[first_prompt])}, prompt {prompt} has {len(own)}"
            )
    if draws[first_prompt] != set(range(len(draws[first_prompt]))):
        raise UserError(f"{file}: draws must be numbered from 0 without a gap, not {sorted(draws[first_prompt])[:5]}")
    for name in ("kl", "finished"):  # a mean over some of the prompts would stand beside those over all
        lacking = [number for number, row in enumerate(rows, start=1) if name not in row]
        if 0 < len(lacking) < len(rows):
            _refuse(file, lacking[0], f"{name} is missing or null, and other rows have it; give it in every row, or in none")
    scorers = {frozenset(row.get("scores", {})) for row in rows}
    wanted = frozenset((task.evaluation.scorer, task.evaluation.second_scorer))
    if scorers not in ({frozenset()}, {wanted}):
        raise UserError(f"{file}: scores must be of {' and '.join(sorted(wanted))} in every row, or in none")


def _samples(text: str, rows: Sequence[dict[str, Any]], base: Run) -> Stage:
    shared, task = base.shared, base.task
    recipe = {
        "version": VERSION, "file": hashlib.sha256(text.encode()).hexdigest(), "sft": shared.sft.key,
        "sampling": sample.VERSION, "prompts": shared.prompt_recipe(task.evaluation.split), "split": task.evaluation.split,
    }  # fmt: skip

    def make(work: Path) -> None:
        known = {prompt.id: prompt for prompt in prompts.load_split(task.prompts, task.evaluation.split)}
        drawn = [_sample(row, known[row["prompt_id"]]) for row in rows]
        write_rows(work / "samples.jsonl", map(asdict, _with_base(drawn, shared.base_model(), base)))
        if rows[0].get("scores"):
            names = sorted(rows[0]["scores"])
            (work / "scores.json").write_text(json.dumps({name: [row["scores"][name] for row in rows] for name in names}))

    return Stage("samples", recipe, make)


def _sample(row: dict[str, Any], prompt: Prompt) -> Sample:
    return Sample(
        prompt.id, row["draw"], prompt.text, row["completion"], [], None, None, row.get("kl"),
        row.get("finished"), prompt.source, prompt.stratum,
    )  # fmt: skip


def _with_base(drawn: Sequence[Sample], model: LanguageModel, base: Run) -> list[Sample]:
    """The samples with their tokens, and their log-probability under the task's SFT base: fluency needs no policy."""
    tokens = encode_words(model.tokenizer, [s.completion for s in drawn])
    contexts = sample.prompt_ids(model, drawn, base.task.model, base.evaluation_prompts())
    logp = base_logp(contexts, tokens, model)
    return [replace(s, token_ids=ids, base_logp=p) for s, ids, p in zip(drawn, tokens, logp, strict=True)]


def base_logp(contexts: Sequence[list[int]], answers: Sequence[list[int]], model: LanguageModel) -> list[float]:
    """Log-probability of each answer in nats under the base; 0 of one without tokens. Of an answer with a token that the base
    never writes, such as an unknown one, that which its weights give it."""
    found, banned = [0.0] * len(answers), set(model.banned.tolist())
    unbanned = LanguageModel(model.model, model.tokenizer, model.ends, model.precision, model.rows, bans=False)
    written = [i for i, ids in enumerate(answers) if ids and banned.isdisjoint(ids)]
    others = [i for i, ids in enumerate(answers) if not banned.isdisjoint(ids)]
    for places, reader in ((written, model), (others, unbanned)):
        for start in range(0, len(places), sample.ROWS):
            part = places[start : start + sample.ROWS]
            batch = as_rollouts([contexts[i] for i in part], [answers[i] for i in part], int(model.tokenizer.pad_token_id))
            for i, logp in zip(part, sample.score_rollouts(batch, reader, reader)[1], strict=True):
                found[i] = logp
    return found


def _refuse(file: Path, number: int, why: str) -> NoReturn:
    raise UserError(f"{file}: row {number}: {why}")
