"""Preference pairs: a prompt, the chosen answer and the rejected one (TRL's preferences, UltraFeedback binarized)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row
from isoalign.data.formats.types import OTHER_PROMPT, Comparison, Record, Remark, Turn, Turns, unless_equal

PROMPTS = ("question", "instruction", "query", "input", "context", "post", "history")  # other names of a prompt column
COLUMNS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))


def records(row: Row) -> Iterator[Record]:
    """The row's comparison. Without a prompt column the prompt is what chosen and rejected share."""
    answers = [(name, row.get(name)) for name in ("chosen", "rejected")]
    if row.has("prompt"):
        prompt, (chosen, rejected) = conversation.prompt_and_answers(row, "prompt", answers)
        if prompt[0].role:
            yield from _foreign_prompt(row, prompt)
    else:
        if other := next((name for name in PROMPTS if row.has(name)), None):
            raise row.fault(f"column prompt is missing and {other} looks like it; rename it to prompt")
        first, second = (conversation.read_turns(row, name, value) for name, value in answers)
        if conversation.is_plain(first) and conversation.is_plain(second):
            prompt, chosen, rejected = (
                (first,) * 3 if first == second else _split_texts(row, first[0].content, second[0].content)
            )
        else:
            prompt, (chosen, rejected) = conversation.prompt_and_answers(row, None, answers)
    yield unless_equal(Comparison(prompt, chosen, rejected, row.number, row.rater, row.source))


def _foreign_prompt(row: Row, prompt: Turns) -> Iterator[Remark]:
    """A remark if a plain prompt beside whole conversations is not one of their turns; the conversations are used."""
    column = conversation.read_turns(row, "prompt", row.get("prompt"))
    if conversation.is_plain(column) and column[0].content.strip() not in {turn.content.strip() for turn in prompt}:
        yield Remark(OTHER_PROMPT)


def _split_texts(row: Row, chosen: str, rejected: str) -> tuple[Turns, Turns, Turns]:
    """Shared prefix of two texts, up to the last whole word, and the rest of each, which begins with its white space."""
    place = bisect_left(range(min(len(chosen), len(rejected))), True, key=lambda i: chosen[: i + 1] != rejected[: i + 1])
    while place and not (chosen[place : place + 1].isspace() and rejected[place : place + 1].isspace()):
        place -= 1
    while place and chosen[place - 1].isspace():
        place -= 1
    if not chosen[:place].strip():
        raise row.fault("chosen and rejected share no prompt, and column prompt is missing")
    parts = (chosen[:place], chosen[place:], rejected[place:])
    for name, part in zip(("chosen", "rejected"), parts[1:], strict=True):
        if not part.strip():
            raise row.fault(f"{name} has nothing after the shared prompt")
    return (Turn("", parts[0]),), (Turn("", parts[1]),), (Turn("", parts[2]),)
