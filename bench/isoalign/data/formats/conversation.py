"""Turns of a text or a list of messages, and the split of conversations into prompt and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isoalign.data.formats.rows import Row, quoted
from isoalign.data.formats.types import Turn, Turns

ROLES = ("system", "user", "assistant")


def read_turns(row: Row, name: str, value: Any) -> Turns:
    """A text as one turn without a role; a message or a list of messages as turns. Raises Fault naming column ``name``."""
    value = row.messages(name, value)
    if isinstance(value, str):
        return (Turn("", row.valid_text(name, value)),)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise row.fault(f"{name} must be a text or a list of messages, not {quoted(value)}")
    if not value:
        raise row.fault(f"{name} is empty")
    return tuple(_read_turn(row, name, message) for message in value)


def _read_turn(row: Row, name: str, message: Any) -> Turn:
    if not isinstance(message, dict):
        raise row.fault(f"{name}: a message is an object with role and content, not {quoted(message)}")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            what = f"must be a text, not {quoted(message[key])}" if message.get(key) is not None else "is missing"
            raise row.fault(f"{name}: a message's {key} {what}")
    if message["role"] not in ROLES:
        raise row.fault(f"{name}: unknown role {quoted(message['role'])}; known: {', '.join(ROLES)}")
    return Turn(message["role"], row.valid_text(name, message["content"]))


def prompt_and_answers(row: Row, prompt: str | None, answers: Sequence[tuple[str, Any]]) -> tuple[Turns, list[Turns]]:
    """A prompt and its answers. ``prompt``: its column, None if the answers begin with it; ``answers``: by name.

    Plain texts stay plain. If one of them is a conversation, all are: a plain prompt is a user turn, a plain answer an
    assistant turn. Answers may be whole conversations that repeat a prompt of messages, have no prompt column, or stand
    beside a plain prompt; in the last two cases the prompt is the shared turns, up to an assistant turn in each. Raises
    Fault.
    """
    asked = read_turns(row, prompt, row.get(prompt)) if prompt else ()
    given = [read_turns(row, name, value) for name, value in answers]
    if not all(map(is_plain, [asked, *given] if asked else given)):
        asked, given = _conversation(row, asked, [name for name, _ in answers], given)
    if not any(turn.content.strip() for turn in asked if turn.role != "system"):
        raise row.fault(f"{prompt or 'the prompt'} is empty")
    if asked[-1].role == "system":
        raise row.fault(f"{prompt or 'the prompt'} ends with a system turn; a user turn must follow")
    for (name, _), answer in zip(answers, given, strict=True):
        if not answer[-1].content.strip():
            raise row.fault(f"{name} {'is empty' if len(answer) == 1 else 'ends with an empty turn'}")
    return asked, given


def is_plain(turns: Turns) -> bool:
    """Whether this is a plain text, not a conversation."""
    return len(turns) == 1 and not turns[0].role


def _conversation(row: Row, asked: Turns, names: list[str], given: list[Turns]) -> tuple[Turns, list[Turns]]:
    prompt, answers = _as_conversation(asked, "user"), [_as_conversation(answer, "assistant") for answer in given]
    for name, answer in zip(names, answers, strict=True):
        if answer[-1].role != "assistant":
            raise row.fault(f"{name} ends with a {answer[-1].role} turn; the last turn must be the assistant's")
    if prompt and all(answer[0].role == "assistant" for answer in answers):
        return prompt, answers
    if not prompt or is_plain(asked):
        return split_prompt(row, names, answers)
    for name, answer in zip(names, answers, strict=True):
        if answer[: len(prompt)] != prompt or [turn.role for turn in answer[len(prompt) :]][:1] != ["assistant"]:
            raise row.fault(f"{name} must begin with an assistant turn, or with the prompt's turns and then an assistant turn")
    return prompt, [answer[len(prompt) :] for answer in answers]


def _as_conversation(turns: Turns, role: str) -> Turns:
    return (Turn(role, turns[0].content),) if turns and is_plain(turns) else turns


def split_prompt(row: Row, names: Sequence[str], conversations: Sequence[Turns]) -> tuple[Turns, list[Turns]]:
    """The turns that all conversations share, up to the last position where each has an assistant turn, and the rest.

    So an answer begins with an assistant turn, even if the conversations first differ later, in a user turn. Raises Fault
    if they share no turns.
    """
    first, cut = conversations[0], 0
    for place in range(min(map(len, conversations))):
        if all(other[place].role == "assistant" for other in conversations):
            cut = place
        if any(other[place] != first[place] for other in conversations):
            break
    if not cut:
        lacking = "share no prompt" if len(names) > 1 else "has no prompt before the assistant turn"
        raise row.fault(f"{' and '.join(names)} {lacking}")
    return first[:cut], [other[cut:] for other in conversations]
