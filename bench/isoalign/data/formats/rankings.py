"""Rankings of several answers to a prompt: every two of them make a comparison.

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", sec. 3.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import MOST_ANSWERS, Row, shown
from isoalign.data.formats.types import TIE, Comparison, Record, Remark, distinct

COLUMNS = (("prompt", "answers", "ranking"), ("prompt", "ranked"))


def records(row: Row) -> Iterator[Record]:
    """n (n - 1) / 2 comparisons, less those of equal ranks. ``ranking``: 1 is best; ``ranked``: the best comes first."""
    name = "ranked" if row.has("ranked") else "answers"
    texts = row.listed(name)
    if not 2 <= len(texts) <= MOST_ANSWERS:
        raise row.fault(f"{name} has {len(texts)}; a ranking is of 2 to {MOST_ANSWERS}")
    prompt, answers = conversation.answered(row, "prompt", [(f"{name}[{i}]", text) for i, text in enumerate(texts)])
    ranks = _ranks(row, len(answers)) if name == "answers" else list(range(1, len(answers) + 1))
    for (first, one), (second, two) in combinations(zip(ranks, answers, strict=True), 2):
        if first == second and one != two:
            yield Remark(TIE)
        else:
            better, worse = (one, two) if first < second else (two, one)
            yield distinct(Comparison(prompt, better, worse, row.number, row.rater, row.source))


def _ranks(row: Row, count: int) -> list[float]:
    given = row.listed("ranking")
    if len(given) != count:
        raise row.fault(f"ranking has {len(given)} ranks for {count} answers")
    ranks = [row.number_in("ranking", rank) for rank in given]
    if not 1 <= min(ranks) <= max(ranks) <= count:  # places from 0 would mean the opposite
        raise row.fault(f"ranking holds each answer's rank, from 1, the best, to {count}, not {shown(given)}")
    return ranks
