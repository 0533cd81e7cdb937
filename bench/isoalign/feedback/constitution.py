"""Constitutions: principles, written in yaml, by which an AI criticises, revises and compares answers.

(Bai et al. 2022, "Constitutional AI", arXiv:2212.08073, sections 3.1 and 4.1.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from isoalign.core import store
from isoalign.core.errors import UserError
from isoalign.core.places import CONF
from isoalign.core.records import Question
from isoalign.feedback.judges.verdicts import Judge, Verdict


@dataclass(frozen=True)
class Principle:
    """What a critique looks for, what a revision changes, and which of two answers is preferred, in words."""

    name: str
    critique: str
    revision: str
    preference: str


@dataclass(frozen=True)
class Constitution:
    """One principle or more, in the order of the file."""

    principles: tuple[Principle, ...]

    @property
    def digest(self) -> str:
        """Digest of all texts, for the key of a stage."""
        return store.digest([asdict(principle) for principle in self.principles])

    def choose(self, item: str, seed: int) -> Principle:
        """A random principle for an item, independent of other items."""
        return random.Random(f"{seed} {item}").choice(self.principles)


class PrincipledJudge:
    """A judge with a random principle for each question, chosen by ``seed`` and the question's texts."""

    def __init__(self, judge: Judge, constitution: Constitution, seed: int) -> None:
        self.judge, self.constitution, self.seed = judge, constitution, seed
        self.name = judge.name
        self.identity = judge.identity | {"constitution": constitution.digest, "seed": seed}

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question, in order; ``principle`` overrides those of the constitution."""
        by_preference: dict[str, list[int]] = {}
        for place, question in enumerate(questions):
            by_preference.setdefault(principle or self.preference(question), []).append(place)
        verdicts: dict[int, Verdict] = {}
        for preference, places in by_preference.items():
            verdicts |= zip(places, self.judge([questions[place] for place in places], preference), strict=True)
        return [verdicts[place] for place in range(len(questions))]

    def preference(self, question: Question) -> str:
        """The criterion of a question."""
        return self.constitution.choose(store.digest([question.prompt, question.first, question.second]), self.seed).preference


def shipped_constitutions() -> dict[str, Path]:
    """The constitutions of conf/constitution by name."""
    return {file.stem: file for file in sorted((CONF / "constitution").glob("*.yaml"))}


def load_constitution(name: str) -> Constitution:
    """A constitution by the name of a shipped one, or by path. Raises UserError naming the file and the principle."""
    file = shipped_constitutions().get(name, Path(name))
    try:
        rows = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(shipped_constitutions())
        raise UserError(f"task.constitution.file: {name} must be one of {known} or a readable yaml file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"task.constitution.file: {name}{where} is not valid yaml") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"task.constitution.file: {name} must hold a list of principles, each with {', '.join(_keys())}")
    principles = tuple(_principle(row, f"{name}: principle {number}") for number, row in enumerate(rows, start=1))
    names = [principle.name for principle in principles]
    if repeated := next((each for each in names if names.count(each) > 1), None):
        raise UserError(f"task.constitution.file: {name}: two principles are named {repeated!r}")
    return Constitution(principles)


def _keys() -> list[str]:
    return [field.name for field in fields(Principle)]


def _principle(row: Any, where: str) -> Principle:
    """One entry of the list; errors name it as soon as its name is known."""
    if not isinstance(row, dict):
        raise UserError(f"task.constitution.file: {where}: expected {', '.join(_keys())}, not {str(row)[:40]!r}")
    if isinstance(row.get("name"), str):
        where += f" ({row['name'][:40]})"
    for key in _keys():
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"task.constitution.file: {where}: {key} {_text_problem(row, key)}")
    if unknown := [str(key) for key in row if key not in _keys()]:
        raise UserError(f"task.constitution.file: {where}: unknown {', '.join(unknown)}; known: {', '.join(_keys())}")
    return Principle(**{key: " ".join(row[key].split()) for key in _keys()})


def _text_problem(row: dict[Any, Any], key: str) -> str:
    return f"must be a text, not {str(row[key])[:40]!r}" if key in row else "is missing; it must be a text"
