"""Preference pairs: a prompt, the answer preferred and the other (TRL's preferences, UltraFeedback binarized)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row
from isoalign.data.formats.types import ELSEWHERE, Comparison, Record, Remark, Turn, Turns, distinct

PROMPTS = ("question", "instruction", "query", "input", "context", "post", "history")  # what others call a prompt
COLUMNS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))


def records(row: Row) -> Iterator[Record]:
    """The row's comparison. Where there is no prompt it is what chosen and rejected share."""
    answers = [(name, row.get(name)) for name in ("chosen", "rejected")]
    if row.has("prompt"):
        prompt, (chosen, rejected) = conversation.answered(row, "prompt", answers)
        if prompt[0].role:
            yield from _elsewhere(row, prompt)
    else:
        if other := next((name for name in PROMPTS if row.has(name)), None):
            raise row.fault(f"there is no column prompt, and {other} looks like one; rename it to prompt")
        first, second = (conversation.turns(row, name, value) for name, value in answers)
        if conversation.plain(first) and conversation.plain(second):
            prompt, chosen, rejected = (first,) * 3 if first == second else _divided(row, first[0].content, second[0].content)
        else:
            prompt, (chosen, rejected) = conversation.answered(row, None, answers)
    yield distinct(Comparison(prompt, chosen, rejected, row.number, row.rater, row.source))


def _elsewhere(row: Row, prompt: Turns) -> Iterator[Remark]:
    """A plain prompt beside whole conversations should be one of their turns; it is them that are believed."""
    told = conversation.turns(row, "prompt", row.get("prompt"))
    if conversation.plain(told) and told[0].content.strip() not in {turn.content.strip() for turn in prompt}:
        yield Remark(ELSEWHERE)


def _divided(row: Row, chosen: str, rejected: str) -> tuple[Turns, Turns, Turns]:
    """Two texts as what they share, to the last whole word, and the rest of each, which begins with its white space."""
    place = bisect_left(range(min(len(chosen), len(rejected))), True, key=lambda i: chosen[: i + 1] != rejected[: i + 1])
    while place and not (chosen[place : place + 1].isspace() and rejected[place : place + 1].isspace()):
        place -= 1
    while place and chosen[place - 1].isspace():
        place -= 1
    if not chosen[:place].strip():
        raise row.fault("chosen and rejected share no prompt, and there is no column prompt")
    parts = (chosen[:place], chosen[place:], rejected[place:])
    for name, part in zip(("chosen", "rejected"), parts[1:], strict=True):
        if not part.strip():
            raise row.fault(f"{name} has nothing after the prompt that both share")
    return (Turn("", parts[0]),), (Turn("", parts[1]),), (Turn("", parts[2]),)
