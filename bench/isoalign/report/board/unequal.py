"""What differs between the rows of a section though a comparison wants it equal: settings of the task beyond those that open
a section of their own, trials of tuning, versions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from isoalign.config.training import OF_THE_MACHINE
from isoalign.core.records import Card
from isoalign.evaluation.tracks import TUNED, track
from isoalign.report.board.rows import METHOD, Row, flatten, task_of

FREE = (
    "name", "budgets", "evaluation.split", "evaluation.draws", "evaluation.scorer", "evaluation.second_scorer",
    "evaluation.win_rate", "training.snapshots", "training.kl_snapshots", "training.micro_batch", "model.sampler",
    *OF_THE_MACHINE,
)  # fmt: skip
"""Settings of a task, or beginnings of their names, that change no training, or have sections of their own."""
NAMED = ("isoalign", "torch", "transformers", "trl")
MOST = 3  # rows that a line names


def unequal(rows: Sequence[Row], compared: Sequence[Row] | None = None) -> list[str]:
    """A line for each setting, kind of tuning or version in which a few of the ``compared`` rows differ from the others; by
    default those that may be ranked."""
    ranked = [row for row in rows if row.rankable] if compared is None else compared
    methods = [row for row in rows if row.part == METHOD]
    untuned = [row.name for row in methods if row.track != TUNED]
    told = [f"not tuned: {', '.join(untuned)}"] if 0 < len(untuned) < len(methods) else []
    lines = [*_lines(_settings(ranked)), *_lines(_tuning(ranked)), *_lines(_versions(ranked)), *_lines(_devices(ranked))]
    return [*told, *lines, *_bases(ranked), *_twins(ranked)]


def _settings(rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each setting of the task in which rows differ, with its values by row; not those that names of rows tell."""
    tasks = {row.name: flatten(task_of(row.cards[0])) for row in rows}
    for key in sorted({key for settings in tasks.values() for key in settings}):
        told = any(f"task.{key}=" in name for name in tasks)
        if not key.startswith(FREE) and not told:
            yield f"task.{key}", {name: str(settings.get(key, "")) for name, settings in tasks.items()}


def _tuning(rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, str]]]:
    """How tuned rows were tuned: trials and rule, and on which other task."""
    tuned = {row.name: {_how(card) for card in row.cards if track(card) == TUNED} for row in rows}
    yield "tuning", {name: " and ".join(sorted(texts)) for name, texts in tuned.items() if texts}


def _how(card: Card) -> str:
    """How a card was tuned, without the method whose settings a twin has, and its own."""
    told = re.sub(r"^as \w+, ", "", str(card.notes.get("tuning")))
    return re.sub(rf"(, as \w+)_{re.escape(card.algorithm)}\b", r"\1", told)


def _bases(rows: Sequence[Row]) -> Iterator[str]:
    """The bases, of a task with several, that rows do not share though they have one key: machines make them anew, and differ
    in the last digits, and then in more."""
    for stage, what in (("sft", "base"), ("held_out", "held-out pairs of base")):
        made: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            for base, content in {(card.base, card.contents.get(stage, "")[:8]) for card in row.cards}:
                if base is not None and content:
                    made[base][content].append(row.name)
        for base, names in sorted(made.items()):
            if len(names) > 1:
                told = "; ".join(f"{content} of {', '.join(each)}" for content, each in sorted(names.items()))
                yield f"{what} {base} was made more than once: {told}"


def _versions(rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, str]]]:
    """The versions of the packages that train, by row."""
    for package in NAMED:
        found: dict[str, set[Any]] = defaultdict(set)
        for row in rows:
            found[row.name] |= {card.versions.get(package) for card in row.cards} - {None}
        yield package, {name: " and ".join(sorted(map(str, each))) for name, each in found.items() if each}


def _devices(rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, str]]]:
    """On what the rows were trained."""
    found = {row.name: {card.training.get("device") for card in row.cards} - {None} for row in rows}
    yield "device", {name: " and ".join(sorted(map(str, each))) for name, each in found.items() if each}


def _twins(rows: Sequence[Row]) -> Iterator[str]:
    """Rows that gave the same answers, under several names."""
    found: dict[frozenset[str], list[str]] = defaultdict(list)
    for row in rows:
        answers = frozenset(card.contents.get("samples", "") for card in row.cards)
        if "" not in answers:
            found[answers].append(row.name)
    for names in found.values():
        if len(names) > 1:
            yield f"{' and '.join(names)} gave the same answers: they are one method under several names"


def _lines(asked: Iterator[tuple[str, dict[str, str]]]) -> Iterator[str]:
    """A line for each name of which rows have several values: those of the fewer rows, beside that of most."""
    for what, values in asked:
        counts = Counter(values.values())
        if len(counts) < 2:
            continue
        (usual, _), *others = counts.most_common()
        parts = []
        for value, count in others:
            names = [name for name, own in values.items() if own == value]
            shown = ", ".join(names[:MOST]) + (f" and {count - MOST} more" if count > MOST else "")
            parts.append(f"{value or 'none'} of {shown}")
        yield f"{what} differs: {'; '.join(parts)}; of the others {usual or 'none'}"
