"""Scores of single answers: two answers to one prompt that one rater scored differently make a comparison.

A row has the scores of all raters (``scores``), one score (``score``, of the ``rater`` or of one without a name), or all
answers to a prompt with a score each (``completions``, as in UltraFeedback). In HelpSteer2 answer and score are ``response``
and ``helpfulness``. Higher is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import MOST_ANSWERS, RATERS, Fault, Row, quoted
from isoalign.data.formats.types import TIE, Comparison, Record, Remark, Score, Turns, unless_equal

COLUMNS = (
    ("prompt", "completion", "scores"),
    *(("prompt", "completion", rater, "score") for rater in RATERS),
    ("prompt", "completion", "score"),
    ("prompt", "response", "score"),
    ("prompt", "response", "helpfulness"),
    ("prompt", "completions"),
    ("instruction", "completions"),
    *((whole, "score") for whole in conversation.WHOLE),
)
OPTIONAL = ("system",)
SCORES = ("score", "overall_score", "rating")  # of an entry of completions


def records(row: Row) -> Iterator[Score]:
    """The row's scores; null scores are skipped."""
    if row.has("completions"):
        yield from _scored_completions(row)
        return
    prompt, answer = conversation.one_answer(row, ("completion", "response"))
    single = "score" if row.has("score") or not row.has("helpfulness") else "helpfulness"
    given = row.get_object("scores") if row.has("scores") else {row.rater: row.get(single)}
    scores = {rater: score for rater, score in given.items() if score is not None}
    if not scores:
        raise row.fault("scores has no score")
    for rater, score in scores.items():
        value = row.finite_number(f"score of {quoted(rater)}" if rater else single, score)
        yield Score(prompt, answer, value, row.number, row.valid_text("scores", rater), row.source)


def _scored_completions(row: Row) -> Iterator[Score]:
    entries = row.get_list("completions")
    given = [_read_entry(row, f"completions[{i}]", entry) for i, entry in enumerate(entries)]
    if len(given) < 2:
        raise row.fault(f"completions has {len(given)}; a comparison needs two")
    asked = "prompt" if row.has("prompt") else "instruction"
    read = conversation.prompt_and_answers(row, asked, [(name, text) for name, text, _ in given])
    prompt, answers = conversation.with_system(row, *read)
    for answer, (name, _, score) in zip(answers, given, strict=True):
        if score is not None:
            yield Score(prompt, answer, row.finite_number(f"{name}: score", score), row.number, row.rater, row.source)


def _read_entry(row: Row, name: str, entry: Any) -> tuple[str, Any, Any]:
    """Name, text and score of an entry."""
    if not isinstance(entry, dict):
        raise row.fault(f"{name} must be an object with completion and score, not {quoted(entry)}")
    texts = [entry[key] for key in ("completion", "response") if entry.get(key) is not None]
    if not texts:
        raise row.fault(f"{name}: completion is missing")
    return name, texts[0], next((entry[key] for key in SCORES if entry.get(key) is not None), None)


def compare(scores: Iterable[Score]) -> Iterator[Record]:
    """Comparisons within each prompt and rater, in the order of the file; equal scores are ties.

    Raises Fault at a rater's 1001st answer to one prompt: the number of pairs grows quadratically.
    """
    groups: dict[tuple[Turns, str], list[Score]] = {}
    for score in scores:
        group = groups.setdefault((score.prompt, score.rater), [])
        if len(group) == MOST_ANSWERS:
            raise Fault(score.row, f"more than {MOST_ANSWERS} answers of one annotator to one prompt: too many pairs")
        group.append(score)
    for group in groups.values():
        for one, two in combinations(group, 2):
            if one.score == two.score and one.completion != two.completion:
                yield Remark(TIE)
            else:
                best, worst = (one, two) if one.score > two.score else (two, one)
                yield unless_equal(
                    Comparison(best.prompt, best.completion, worst.completion, best.row, best.rater, best.source)
                )
