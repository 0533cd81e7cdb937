"""Preference pairs: a prompt, the chosen answer and the rejected one.

As in TRL's preferences, UltraFeedback binarized, Tulu 3's mixture, Skywork, RewardBench 1 and 2, Orca's pairs, ShareGPT's
and OpenAI's preference format.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import product
from typing import Any

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import EMPTY, MOST_ANSWERS, TOOLS, Fault, Row
from isoalign.data.formats.types import (
    EQUAL_SCORES,
    OTHER_PROMPT,
    REVERSED,
    TRANSCRIPT,
    Comparison,
    Record,
    Remark,
    Turn,
    Turns,
    unless_equal,
)

PROMPTS = ("question", "instruction", "query", "input", "context", "post", "history")  # other names of a prompt column
_OPENAI = ("input", "preferred_output", "non_preferred_output")
_NAMES = ("chosen", "rejected")
COLUMNS = (*((prompt, *_NAMES) for prompt in ("prompt", "conversations", *PROMPTS)), _NAMES, _OPENAI)
_SCORES = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"), ("chosen-rating", "rejected-rating"),
)  # fmt: skip
OPTIONAL = ("system", *(name for names in _SCORES for name in names))


def records(row: Row) -> Iterator[Record]:
    """The row's comparisons: one, or each chosen answer with each rejected one where there are lists of texts."""
    if row.has(*_OPENAI[1:]) and not row.has(*_NAMES):
        prompt, (chosen, rejected) = _openai(row)
        yield unless_equal(Comparison(prompt, chosen, rejected, row.number, row.rater, row.source))
        return
    name = _prompt_column(row)
    better, worse = (_alternatives(row, name) for name in _NAMES)
    if name is None and "prompt" in row.values and any(isinstance(row.messages(*each), str) for each in (*better, *worse)):
        raise row.fault("prompt is missing", EMPTY)
    if name is None and all(isinstance(row.messages(*answer), str) for answer in (*better, *worse)):
        prompt, given = _shared_text(row)
        if all(mark in prompt[0].content for mark in ("\n\nHuman:", "\n\nAssistant:")):
            yield Remark(TRANSCRIPT)
    else:
        prompt, given = conversation.prompt_and_answers(row, name, [*better, *worse])
        _check_lists(row, prompt, given, better, worse)
        if name and prompt[0].role:
            yield from _foreign_prompt(row, name, prompt)
    prompt, given = conversation.with_system(row, prompt, given)
    yield from _score_remarks(row)
    for chosen, rejected in product(given[: len(better)], given[len(better) :]):
        yield unless_equal(Comparison(prompt, chosen, rejected, row.number, row.rater, row.source))


def _prompt_column(row: Row) -> str | None:
    """The column of the prompt; None if there is none, and the prompt is what chosen and rejected share."""
    if row.has("prompt"):
        return "prompt"
    found = [name for name in ("conversations", *PROMPTS) if row.has(name)]
    if len(found) > 1:
        alike = ", ".join(found[:-1]) + f" and {found[-1]}"
        raise row.fault(f"{alike} look like the prompt: choose one with columns={{prompt: {found[0]}}}")
    return found[0] if found else None


def _alternatives(row: Row, name: str) -> list[tuple[str, Any]]:
    """The answers in a column, by name: those of a list of texts, otherwise one."""
    value = row.get(name)
    if not (isinstance(value, list) and value and all(isinstance(text, str) for text in value)):
        return [(name, value)]
    if len(value) > MOST_ANSWERS:
        raise row.fault(f"{name} has {len(value)} answers; at most {MOST_ANSWERS} are read")
    return [(f"{name}[{i}]", text) for i, text in enumerate(value)]


def _check_lists(row: Row, prompt: Turns, given: list[Turns], better: list[Any], worse: list[Any]) -> None:
    """Refuse two lists of texts that both begin with the prompt: they are the turns of conversations, not answers."""
    if len(better) < 2 or len(worse) < 2:
        return
    if all(given[place][0].content.strip() == prompt[-1].content.strip() for place in (0, len(better))):
        raise row.fault(
            f"{better[0][0]} and {worse[0][0]} are the prompt itself, and each text of a list is read as an answer; "
            "if the lists hold the turns of conversations, give each as an object with role and content"
        )


def _openai(row: Row) -> tuple[Turns, list[Turns]]:
    """A row of OpenAI's preference format."""
    asked = row.get_object("input")
    if asked.get("tools"):
        raise row.fault("input offers tools (tools); conversations with tools are not read", TOOLS)
    turns = conversation.read_turns(row, "input", asked.get("messages"))
    return conversation.answers_to(row, "input", turns, [(name, row.get(name)) for name in _OPENAI[1:]])


def _foreign_prompt(row: Row, name: str, prompt: Turns) -> Iterator[Remark]:
    """A remark if a plain prompt beside whole conversations is not one of their turns; the conversations are used."""
    column = conversation.read_turns(row, name, row.get(name))
    if conversation.is_plain(column) and column[0].content.strip() not in {turn.content.strip() for turn in prompt}:
        yield Remark(OTHER_PROMPT)


def _score_remarks(row: Row) -> Iterator[Remark]:
    """A remark if the scores beside the answers are equal or say the opposite; scores that are no numbers are not read."""
    for names in _SCORES:
        if row.has(*names):
            try:
                chosen, rejected = (row.finite_number(name, row.get(name)) for name in names)
            except Fault:
                continue
            if chosen <= rejected:
                yield Remark(EQUAL_SCORES if chosen == rejected else REVERSED)
            return


def _shared_text(row: Row) -> tuple[Turns, list[Turns]]:
    """Prompt and answers of two plain texts that begin alike."""
    first, second = (conversation.read_turns(row, name, row.get(name)) for name in _NAMES)
    prompt, *answers = (first,) * 3 if first == second else _split_texts(row, first[0].content, second[0].content)
    return prompt, answers


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
    for name, part in zip(_NAMES, parts[1:], strict=True):
        if not part.strip():
            raise row.fault(f"{name} has nothing after the shared prompt", EMPTY)
    return (Turn("", parts[0]),), (Turn("", parts[1]),), (Turn("", parts[2]),)
