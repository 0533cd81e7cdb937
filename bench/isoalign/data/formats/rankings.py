"""Rankings of several answers to a prompt: every two answers make a comparison.

Ouyang et al. 2022, "Training language models to follow instructions with human feedback", sec. 3.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from isoalign.data.formats import conversation, transcripts
from isoalign.data.formats.rows import MOST_ANSWERS, Row, quoted
from isoalign.data.formats.types import TIE, Comparison, Record, Remark, unless_equal

COLUMNS = (("prompt", "answers", "ranking"), ("prompt", "ranked"), ("prompt", "answers"))
OPTIONAL = ("system",)


def records(row: Row) -> Iterator[Record]:
    """n (n - 1) / 2 comparisons, without ties. ``ranking``: 1 is best; ``ranked``: best answer first.

    ``answers`` may be objects with ``answer`` and ``rank``, as in Nectar (Zhu et al. 2023), whose prompts are transcripts.
    """
    name = "ranked" if row.has("ranked") else "answers"
    texts = row.get_list(name)
    if not 2 <= len(texts) <= MOST_ANSWERS:
        raise row.fault(f"{name} has {len(texts)} answers; a ranking needs 2 to {MOST_ANSWERS}")
    ranks: list[float] = [*range(1, len(texts) + 1)]
    if name == "answers" and not row.has("ranking"):
        texts, ranks = _ranked_answers(row, texts)
    given = [(f"{name}[{i}]", text) for i, text in enumerate(texts)]
    read = conversation.answers_to(row, "prompt", transcripts.read_prompt(row, "prompt"), given)
    prompt, answers = conversation.with_system(row, *read)
    if row.has("ranking") and name == "answers":
        ranks = _read_ranks(row, len(answers))
    for (first, one), (second, two) in combinations(zip(ranks, answers, strict=True), 2):
        if first == second and one != two:
            yield Remark(TIE)
        else:
            better, worse = (one, two) if first < second else (two, one)
            yield unless_equal(Comparison(prompt, better, worse, row.number, row.rater, row.source))


def _ranked_answers(row: Row, entries: list[Any]) -> tuple[list[Any], list[float]]:
    """The text and the rank of each entry."""
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("answer") is None:
            raise row.fault(f"answers[{i}] must be an object with answer and rank, or a column ranking must hold the ranks")
    ranks = [row.finite_number(f"answers[{i}]: rank", entry.get("rank")) for i, entry in enumerate(entries)]
    return [entry["answer"] for entry in entries], ranks


def _read_ranks(row: Row, count: int) -> list[float]:
    given = row.get_list("ranking")
    if len(given) != count:
        raise row.fault(f"ranking has {len(given)} ranks for {count} answers")
    ranks = [row.finite_number("ranking", rank) for rank in given]
    if not 1 <= min(ranks) <= max(ranks) <= count:  # ranks from 0 suggest positions, which mean the opposite
        raise row.fault(f"ranking must hold the rank of each answer, from 1 (best) to {count}, not {quoted(given)}")
    return ranks
