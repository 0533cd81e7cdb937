"""A constitution: the principles by which an AI criticises, revises and compares answers, as people wrote them in a yaml.

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
    """What a critique is to look for, what a revision is to change, and what the better of two answers is like, in words."""

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
        """Of every word, for the key of a stage."""
        return store.digest([asdict(principle) for principle in self.principles])

    def of(self, item: str, seed: int) -> Principle:
        """The principle that an item falls to, by chance: the same whatever other items there are."""
        return random.Random(f"{seed} {item}").choice(self.principles)


class PrincipledJudge:
    """A judge that is asked each question by a principle of its own, chosen by ``seed`` and the question's texts."""

    def __init__(self, judge: Judge, constitution: Constitution, seed: int) -> None:
        self.judge, self.constitution, self.seed = judge, constitution, seed
        self.name = judge.name
        self.identity = judge.identity | {"constitution": constitution.digest, "seed": seed}

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question, in order; a ``principle`` that is given goes before those of the constitution."""
        asked: dict[str, list[int]] = {}
        for place, question in enumerate(questions):
            asked.setdefault(principle or self.preference(question), []).append(place)
        said: dict[int, Verdict] = {}
        for preference, places in asked.items():
            said |= zip(places, self.judge([questions[place] for place in places], preference), strict=True)
        return [said[place] for place in range(len(questions))]

    def preference(self, question: Question) -> str:
        """By what a question is judged."""
        return self.constitution.of(store.digest([question.prompt, question.first, question.second]), self.seed).preference


def shipped() -> dict[str, Path]:
    """The constitutions of conf/constitution by name."""
    return {file.stem: file for file in sorted((CONF / "constitution").glob("*.yaml"))}


def load(name: str) -> Constitution:
    """A constitution by the name of one that ships, or by path. Raises UserError naming the file and the principle."""
    file = shipped().get(name, Path(name))
    try:
        rows = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(shipped())
        raise UserError(f"task.constitution.file: {name} is neither one of {known} nor a yaml that can be read") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"task.constitution.file: {name}{where} is no yaml that can be read") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"task.constitution.file: {name} must hold a list of principles, each with {', '.join(_keys())}")
    principles = tuple(_principle(row, f"{name}: principle {number}") for number, row in enumerate(rows, start=1))
    names = [principle.name for principle in principles]
    if twice := next((each for each in names if names.count(each) > 1), None):
        raise UserError(f"task.constitution.file: {name}: two principles are named {twice!r}")
    return Constitution(principles)


def _keys() -> list[str]:
    return [field.name for field in fields(Principle)]


def _principle(row: Any, where: str) -> Principle:
    """One entry of the list; its name is told as soon as it is known."""
    if not isinstance(row, dict):
        raise UserError(f"task.constitution.file: {where}: expected {', '.join(_keys())}, not {str(row)[:40]!r}")
    if isinstance(row.get("name"), str):
        where += f" ({row['name'][:40]})"
    for key in _keys():
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"task.constitution.file: {where}: {key} must be a text, {_said(row, key)}")
    if unknown := [str(key) for key in row if key not in _keys()]:
        raise UserError(f"task.constitution.file: {where}: unknown {', '.join(unknown)}; known: {', '.join(_keys())}")
    return Principle(**{key: " ".join(row[key].split()) for key in _keys()})


def _said(row: dict[Any, Any], key: str) -> str:
    return f"not {str(row[key])[:40]!r}" if key in row else "and is missing"
