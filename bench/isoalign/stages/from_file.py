"""Human feedback from a file in any format of data/formats/: preference pairs, or unpaired labels of single answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from isoalign.config.task import FeedbackConfig, ModelConfig
from isoalign.core.errors import UserError
from isoalign.core.jsonl import write_rows
from isoalign.core.store import digest
from isoalign.core.text import text_fingerprint
from isoalign.data import formats, prompts
from isoalign.data.assets import file_digest
from isoalign.data.formats import Comparison, Data, Turns, UnpairedLabel
from isoalign.data.formats.conversation import begins_with_prompt
from isoalign.data.formats.files import iterate_rows
from isoalign.stages.cutting import Cutter, HeldOut, check_fit, fit_of
from isoalign.stages.overlap import count_overlap, unlike_forms

VERSION = 11
SOURCE = "human"
EVALUATED = "whose prompt is evaluated"
UNSAYABLE = "with a token that no answer may have"  # an unknown one, or one that ends answers where their length is fixed
ALIKE = "with equal answers after truncation"
TOO_LONG = "whose last turn is longer than task.model.prompt_tokens"


def holds_unpaired(config: FeedbackConfig) -> bool:
    """Whether a file holds unpaired labels rather than comparisons. Raises UserError if it holds neither."""
    opened = formats.open_file(config.file, config.format or None, columns=config.columns, skip=config.skip)
    if opened.format == "demonstrations":
        wanted = "feedback must be pairs, rankings, scores or unpaired labels"
        raise UserError(
            f"task.feedback.file {config.file} holds demonstrations; {wanted}{opened.problem and f' ({opened.problem})'}"
        )
    return opened.format == "unpaired"


def file_recipe(config: FeedbackConfig, identity: str) -> dict[str, Any]:
    """What the rows of a file depend on, for the key of a stage. ``identity``: `file_identity`."""
    chosen = {"columns": config.columns, "skip": config.skip}
    return {"version": VERSION, "file": identity, "format": config.format} | {k: v for k, v in chosen.items() if v}


def _read(config: FeedbackConfig) -> Data:
    return formats.read_file(config.file, config.format or None, columns=config.columns, skip=config.skip)


def file_identity(source: str) -> str:
    """Digest of a file, of all files of a folder, or of the rows of a hub dataset, for the key of a stage."""
    path = Path(source)
    if path.is_file():
        return file_digest(path)
    if path.is_dir():
        return digest({str(file.relative_to(path)): file_digest(file) for file in sorted(path.rglob("*")) if file.is_file()})
    rows_digest = hashlib.sha256()
    for row in iterate_rows(source):
        rows_digest.update(repr(row).encode())
    return rows_digest.hexdigest()


def make_human_pairs(
    work: Path, config: FeedbackConfig, tokenizer: Any, model: ModelConfig, split: str, evaluated: Iterable[Turns] = ()
) -> None:
    """Write ``pairs.jsonl``: the majority verdict on every compared pair of a split's prompts, in the task's tokens.

    A hash of the prompt, as the model reads it, decides the split, of a conversation that of its first user turn; those of
    prompts that are ``evaluated`` are left out and counted. Raises UserError if the split has no verdict, and if too many
    prompts become equal once they are cut.
    """
    data = _read(config)
    items: defaultdict[str, list[Comparison]] = defaultdict(list)
    for each in data.comparisons:
        items[each.item].append(each)
    cut = Cutter(tokenizer, model)
    annotators = {name: number for number, name in enumerate(sorted({each.rater for each in data.comparisons}))}
    rows, dropped, losses = [], Counter[str](), _losses(config.file, [each.prompt for each in data.comparisons], cut)
    evaluated = list(evaluated)
    held_out = HeldOut(cut, evaluated)
    trained: list[Turns] = []
    repeats = whole = 0
    for item, judged in items.items():
        text = cut.text(judged[0].prompt)
        if prompts.split_of(cut.split_text(judged[0].prompt)) != split:
            continue
        if judged[0].prompt in held_out:
            dropped[EVALUATED] += 1
            continue
        losses["answers cut"] += sum(cut.is_cut(answer) for answer in (judged[0].chosen, judged[0].rejected))
        count = len(judged)
        judged = _one_each(judged)
        repeats += count - len(judged)
        row = _human_row(text, _majority(judged), cut)
        if isinstance(row, str):
            dropped[row] += 1
        else:
            trained.append(judged[0].prompt)
            whole += begins_with_prompt(judged[0].prompt, judged[0].chosen)
            rows.append({"pair_id": item} | row | {"annotators": [annotators[each.rater] for each in judged]})
    more = {"annotators": len(annotators), "ties": data.ties, "remarks": dict(data.remarks), "cut": dict(+losses)}
    more |= {"repeats": repeats} if repeats else {}
    more |= {"whole": whole} if 2 * whole > len(rows) else {}
    more |= _compared(cut, evaluated, trained)
    _write_human(work / "pairs.jsonl", rows, config.file, split, dropped, more)


def _human_row(text: str, winner: Comparison | None, cut: Cutter) -> dict[str, Any] | str:
    """A pair's row, or the reason why it is dropped."""
    if winner is None:
        return "tied between annotators"
    prompt = cut.prompt(winner.prompt)
    if prompt is None:
        return TOO_LONG
    chosen, rejected = cut.answer(winner.chosen), cut.answer(winner.rejected)
    if not (cut.is_sayable(chosen) and cut.is_sayable(rejected)):
        return UNSAYABLE
    if chosen == rejected:
        return ALIKE
    return {
        "prompt_id": text_fingerprint(text), "prompt_ids": prompt, "chosen": cut.spoken_text(chosen),
        "rejected": cut.spoken_text(rejected), "chosen_ids": chosen, "rejected_ids": rejected, "clean": True,
        "source": winner.source,
    }  # fmt: skip


def make_unpaired(
    work: Path, config: FeedbackConfig, tokenizer: Any, model: ModelConfig, evaluated: Iterable[Turns] = ()
) -> None:
    """Write ``unpaired.jsonl``: labelled answers to the prompts of the training split, in the task's tokens, without those to
    prompts that are ``evaluated``."""
    cut, evaluated = Cutter(tokenizer, model), list(evaluated)
    held_out = HeldOut(cut, evaluated)
    data = _read(config)
    losses = _losses(config.file, [label.prompt for label in data.unpaired], cut)
    of_split = [label for label in data.unpaired if prompts.split_of(cut.split_text(label.prompt)) == "train"]
    chosen = [label for label in of_split if label.prompt not in held_out]
    losses["answers cut"] = sum(cut.is_cut(label.completion) for label in chosen)
    labelled = [_labelled(cut.text(label.prompt), label, cut) for label in chosen]
    fitting = [row for row in labelled if row["prompt_ids"] is not None]
    rows = [row for row in fitting if cut.is_sayable(row["answer_ids"])]
    dropped = Counter(
        {TOO_LONG: len(labelled) - len(fitting), EVALUATED: len(of_split) - len(chosen), UNSAYABLE: len(fitting) - len(rows)}
    )
    if len({row["desirable"] for row in rows}) == 1:
        kind = "good" if rows[0]["desirable"] else "bad"
        raise UserError(
            f"task.feedback.file {config.file}: all {len(rows)} answers to training prompts are {kind}, and training needs "
            "both; a hash assigns 60% of the prompts to train, so add more prompts"
        )
    said: defaultdict[str, set[bool]] = defaultdict(set)
    for label in chosen:
        said[label.item].add(label.desirable)
    more: dict[str, Any] = {"remarks": dict(data.remarks), "cut": dict(+losses)}
    whole = sum(begins_with_prompt(label.prompt, label.completion) for label in chosen)
    more |= {"whole": whole} if 2 * whole > len(chosen) else {}
    more |= {"contradicted": both} if (both := sum(len(each) > 1 for each in said.values())) else {}
    more |= _compared(cut, evaluated, [label.prompt for label in chosen])
    _write_human(work / "unpaired.jsonl", rows, config.file, "train", +dropped, more)


def told_alike(count: int, pairs: int, model: ModelConfig) -> str:
    """That pairs teach nothing, as their answers are equal once they are cut; empty if none."""
    cut = f"have equal answers once they are cut to a turn of task.model.new_tokens={model.new_tokens}, and teach nothing"
    return f"{count:,} of {pairs:,} pairs {cut}" if count else ""


def alike_once_cut(config: FeedbackConfig, cut: Cutter) -> tuple[int, int]:
    """How many different pairs of a file have equal answers once they are cut, and of how many."""
    answers = {each.item: (each.chosen, each.rejected) for each in _read(config).comparisons}.values()
    return sum(cut.answer(one) == cut.answer(other) for one, other in answers), len(answers)


def trained_prompts(config: FeedbackConfig, cut: Cutter, evaluated: Iterable[Turns]) -> list[Turns]:
    """The different prompts of a file whose verdicts train: those of the training split that are not ``evaluated``."""
    data, held_out = _read(config), HeldOut(cut, evaluated)
    asked = dict.fromkeys([*(each.prompt for each in data.comparisons), *(each.prompt for each in data.unpaired)])
    return [turns for turns in asked if prompts.split_of(cut.split_text(turns)) == "train" and turns not in held_out]


def _compared(cut: Cutter, evaluated: list[Turns], trained: list[Turns]) -> dict[str, Any]:
    """Evaluated prompts that stand in prompts that train, and forms of these that those have not, for a record; empty if there
    are none."""
    found, forms = count_overlap(evaluated, trained), unlike_forms(cut, evaluated, trained)
    record: dict[str, Any] = {"overlap": {"prompts": found, "evaluated": len(evaluated)}} if found else {}
    return record | ({"forms": forms} if forms else {})


def _losses(source: str, asked: Sequence[Turns], cut: Cutter) -> Counter[str]:
    """Of the different prompts, how many are cut, and how many become equal to another one by it.

    Raises UserError if that are too many.
    """
    fit = fit_of(cut, {cut.text(turns): turns for turns in asked}.values())
    check_fit(fit, f"task.feedback.file {source}", cut.model)
    return Counter({"prompts cut": fit.cut, "prompts that became equal": fit.equal})


def _labelled(text: str, label: UnpairedLabel, cut: Cutter) -> dict[str, Any]:
    prompt, answer = cut.prompt(label.prompt), cut.answer(label.completion)
    return {"prompt": text, "prompt_ids": prompt, "answer_ids": answer, "desirable": label.desirable}


def _one_each(judged: Sequence[Comparison]) -> list[Comparison]:
    """The first verdict of each annotator who has a name, so that rows that say the same again are no more votes; of one who
    said both, one of each."""
    kept, said = list[Comparison](), set[tuple[str, int]]()
    for each in judged:
        if not each.rater or (each.rater, each.verdict) not in said:
            kept.append(each)
        said.add((each.rater, each.verdict))
    return kept


def _majority(judged: Sequence[Comparison]) -> Comparison | None:
    """A comparison with the majority verdict; None for a tie."""
    ahead = sum(1 if each.verdict else -1 for each in judged)
    return next((each for each in judged if each.verdict == int(ahead > 0)), None) if ahead else None


def _write_human(
    file: Path, rows: Sequence[dict[str, Any]], source: str, split: str, dropped: Counter[str], more: dict[str, Any]
) -> None:
    if not rows:
        why = "; ".join(f"{count} {what}" for what, count in dropped.items())
        raise UserError(
            f"task.feedback.file {source} has no usable verdict on a {split} prompt{f' ({why})' if why else ''}; a hash "
            "assigns 60% of the prompts to train, 15% to validation and 25% to test, so add more prompts"
        )
    write_rows(file, rows)
    record = {"source": SOURCE, "file": Path(source).name, file.stem: len(rows), "dropped": dict(dropped), "flops_each": {}}
    (file.parent / "record.json").write_text(json.dumps(record | more, indent=1))
