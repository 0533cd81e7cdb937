"""Answers that people scored for harm, as pairs: what a reward model makes of judgements that no part of a task has seen.

The files are those on which PyRIT checks its own scorers: harmful requests ("objectives"), answers by people and models,
and for each answer one or three people's scores from 0, harmless, to 1, harmful.
"""

import csv
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

from isoalign.core.errors import UserError
from isoalign.core.text import normalise, squeeze
from isoalign.data import assets

GAP = 0.25
"""Mean scores have to be this far apart: a step of the scale that the annotators used."""
_SCORE = re.compile(r"human_score(_\d+)?")


@dataclass(frozen=True)
class HumanPair:
    """Two answers to one ``objective``, the less harmful ``chosen``. ``category`` of harm; ``gap`` of the mean scores, in
    (0, 1]. White space is squeezed."""

    objective: str
    chosen: str
    rejected: str
    category: str
    gap: float


@dataclass(frozen=True)
class Scored:
    """A row: one answer and what each annotator gave it, in [0, 1]."""

    objective: str
    answer: str
    category: str
    scores: tuple[float, ...]


def load() -> list[HumanPair]:
    """The pairs of the asset ``human_scored``."""
    return pairs(sorted(assets.path("human_scored").glob("*.csv")))


def pairs(files: Iterable[Path]) -> list[HumanPair]:
    """Every two answers to an objective whose mean scores are ``GAP`` apart, each pair once over all files.

    Only answers of one file are paired: another file's annotators are other people, and one annotator's score is not on the
    scale of three annotators' mean. An answer that a file holds twice has the scores of both rows; two answers that two files
    hold count in the first. Raises UserError naming file and row where one is malformed.
    """
    found: dict[tuple[str, frozenset[str]], HumanPair] = {}
    for file in files:
        answers: defaultdict[str, defaultdict[str, list[Scored]]] = defaultdict(lambda: defaultdict(list))
        for row in read(file):
            answers[normalise(row.objective)][normalise(row.answer)].append(row)
        for objective, known in answers.items():
            for one, other in itertools.combinations(known, 2):
                pair = _pair(known[one], known[other])
                if pair.gap >= GAP:
                    found.setdefault((objective, frozenset((one, other))), pair)
    return list(found.values())


def _pair(one: list[Scored], other: list[Scored]) -> HumanPair:
    means = [fmean(score for row in rows for score in row.scores) for rows in (one, other)]
    better, worse = (one[0], other[0]) if means[0] < means[1] else (other[0], one[0])
    gap = round(abs(means[0] - means[1]), 6)  # thirds of quarters: without rounding some gaps of .25 are just under it
    return HumanPair(better.objective, better.answer, worse.answer, better.category, gap)


def read(file: Path) -> list[Scored]:
    """The rows of a file: a comment, a header, then the answers. Rows are counted with those two.

    Raises UserError naming file and row where one is malformed.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            if not stream.readline().startswith("#"):
                _refuse(file, 1, "expected a comment with the version of the data")
            return list(_rows(file, csv.DictReader(stream)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file}: {error}") from error


def _rows(file: Path, table: Any) -> Iterator[Scored]:
    columns = [name for name in table.fieldnames or () if _SCORE.fullmatch(name)]
    if missing := {"harm_category", "objective", "assistant_response"} - set(table.fieldnames or ()):
        _refuse(file, 2, f"the header lacks {', '.join(sorted(missing))}")
    if not columns:
        _refuse(file, 2, "the header has no column human_score or human_score_1")
    for number, row in enumerate(table, start=3):
        if None in row or None in row.values():
            _refuse(file, number, f"expected {len(table.fieldnames)} columns")
        category, objective, answer = (squeeze(row[name]) for name in ("harm_category", "objective", "assistant_response"))
        if not (category and objective and answer):
            _refuse(file, number, "harm_category, objective and assistant_response must not be empty")
        yield Scored(objective, answer, category.lower(), tuple(_score(file, number, name, row[name]) for name in columns))


def _score(file: Path, number: int, name: str, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:  # NaN is not within either
        _refuse(file, number, f"{name} must be a number from 0 to 1, not {text[:20]!r}")
    return score


def _refuse(file: Path, number: int, why: str) -> NoReturn:
    raise UserError(f"{file}: row {number}: {why}")
