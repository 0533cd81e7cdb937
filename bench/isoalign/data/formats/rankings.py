"""Rankings of several answers to a prompt: every two answers make a comparison.

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", sec. 3.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import MOST_ANSWERS, Row, quoted
from isoalign.data.formats.types import TIE, Comparison, Record, Remark, unless_equal

COLUMNS = (("prompt", "answers", "ranking"), ("prompt", "ranked"))


def records(row: Row) -> Iterator[Record]:
    """n (n - 1) / 2 comparisons, without ties. ``ranking``: 1 is best; ``ranked``: best answer first."""
    name = "ranked" if row.has("ranked") else "answers"
    texts = row.get_list(name)
    if not 2 <= len(texts) <= MOST_ANSWERS:
        raise row.fault(f"{name} has {len(texts)} answers; a ranking needs 2 to {MOST_ANSWERS}")
    prompt, answers = conversation.prompt_and_answers(row, "prompt", [(f"{name}[{i}]", text) for i, text in enumerate(texts)])
    ranks = _read_ranks(row, len(answers)) if name == "answers" else list(range(1, len(answers) + 1))
    for (first, one), (second, two) in combinations(zip(ranks, answers, strict=True), 2):
        if first == second and one != two:
            yield Remark(TIE)
        else:
            better, worse = (one, two) if first < second else (two, one)
            yield unless_equal(Comparison(prompt, better, worse, row.number, row.rater, row.source))


def _read_ranks(row: Row, count: int) -> list[float]:
    given = row.get_list("ranking")
    if len(given) != count:
        raise row.fault(f"ranking has {len(given)} ranks for {count} answers")
    ranks = [row.finite_number("ranking", rank) for rank in given]
    if not 1 <= min(ranks) <= max(ranks) <= count:  # ranks from 0 suggest positions, which mean the opposite
        raise row.fault(f"ranking must hold the rank of each answer, from 1 (best) to {count}, not {quoted(given)}")
    return ranks
