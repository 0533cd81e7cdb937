"""Pairs of answers that people scored for harm, for testing reward models on human judgements that no task has seen.

The files come from PyRIT's tests of its scorers: harmful requests ("objectives"), answers by people and models, and for each
answer the scores of one or three people from 0, harmless, to 1, harmful.
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
"""Minimum gap of mean scores: one step of the annotators' scale."""
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
    """A row: one answer and each annotator's score in [0, 1]."""

    objective: str
    answer: str
    category: str
    scores: tuple[float, ...]


def load_human_pairs() -> list[HumanPair]:
    """The pairs of the asset ``human_scored``."""
    return pairs(sorted(assets.asset_path("human_scored").glob("*.csv")))


def pairs(files: Iterable[Path]) -> list[HumanPair]:
    """Every two answers to an objective whose mean scores are ``GAP`` apart, each pair once over all files.

    Only answers of one file are paired: files have different annotators, and one annotator's score is not on the
    scale of the mean of three. An answer that occurs twice in a file has the scores of both rows; a pair that occurs in two
    files counts in the first. Raises UserError naming file and row if a row is malformed.
    """
    pairs: dict[tuple[str, frozenset[str]], HumanPair] = {}
    for file in files:
        answers: defaultdict[str, defaultdict[str, list[Scored]]] = defaultdict(lambda: defaultdict(list))
        for row in read_scored(file):
            answers[normalise(row.objective)][normalise(row.answer)].append(row)
        for objective, known in answers.items():
            for one, other in itertools.combinations(known, 2):
                pair = _pair_answers(known[one], known[other])
                if pair.gap >= GAP:
                    pairs.setdefault((objective, frozenset((one, other))), pair)
    return list(pairs.values())


def _pair_answers(one: list[Scored], other: list[Scored]) -> HumanPair:
    means = [fmean(score for row in rows for score in row.scores) for rows in (one, other)]
    better, worse = (one[0], other[0]) if means[0] < means[1] else (other[0], one[0])
    gap = round(abs(means[0] - means[1]), 6)  # without rounding, some gaps of .25 are slightly below it
    return HumanPair(better.objective, better.answer, worse.answer, better.category, gap)


def read_scored(file: Path) -> list[Scored]:
    """The answers of a file, after a comment and a header, which count as rows 1 and 2.

    Raises UserError naming file and row if a row is malformed.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            if not stream.readline().startswith("#"):
                _raise_row_error(file, 1, "expected a comment line with the version of the data")
            return list(_parse_rows(file, csv.DictReader(stream)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file}: {error}") from error


def _parse_rows(file: Path, table: Any) -> Iterator[Scored]:
    columns = [name for name in table.fieldnames or () if _SCORE.fullmatch(name)]
    if missing := {"harm_category", "objective", "assistant_response"} - set(table.fieldnames or ()):
        _raise_row_error(file, 2, f"the header lacks {', '.join(sorted(missing))}")
    if not columns:
        _raise_row_error(file, 2, "the header has no column human_score or human_score_1")
    for number, row in enumerate(table, start=3):
        if None in row or None in row.values():
            _raise_row_error(file, number, f"expected {len(table.fieldnames)} columns")
        category, objective, answer = (squeeze(row[name]) for name in ("harm_category", "objective", "assistant_response"))
        if not (category and objective and answer):
            _raise_row_error(file, number, "harm_category, objective and assistant_response must not be empty")
        yield Scored(objective, answer, category.lower(), tuple(_score(file, number, name, row[name]) for name in columns))


def _score(file: Path, number: int, name: str, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:  # also true for NaN
        _raise_row_error(file, number, f"{name} must be a number from 0 to 1, not {text[:20]!r}")
    return score


def _raise_row_error(file: Path, number: int, why: str) -> NoReturn:
    raise UserError(f"{file}: row {number}: {why}")
