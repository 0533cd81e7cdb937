"""Turns: what a text or a list of messages becomes, and where a prompt ends and its answers begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isoalign.data.formats.rows import Row, shown
from isoalign.data.formats.types import Turn, Turns

ROLES = ("system", "user", "assistant")


def turns(row: Row, name: str, value: Any) -> Turns:
    """A text as one turn without a role; a message, or a list of them, as theirs. Raises Fault naming ``name``."""
    value = row.messages(name, value)
    if isinstance(value, str):
        return (Turn("", row.sound(name, value)),)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise row.fault(f"{name} must be a text or a list of messages, not {shown(value)}")
    if not value:
        raise row.fault(f"{name} is empty")
    return tuple(_turn(row, name, message) for message in value)


def _turn(row: Row, name: str, message: Any) -> Turn:
    if not isinstance(message, dict):
        raise row.fault(f"{name}: a message is an object with role and content, not {shown(message)}")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            what = f"must be a text, not {shown(message[key])}" if message.get(key) is not None else "is missing"
            raise row.fault(f"{name}: a message's {key} {what}")
    if message["role"] not in ROLES:
        raise row.fault(f"{name}: unknown role {shown(message['role'])}; known: {', '.join(ROLES)}")
    return Turn(message["role"], row.sound(name, message["content"]))


def answered(row: Row, prompt: str | None, answers: Sequence[tuple[str, Any]]) -> tuple[Turns, list[Turns]]:
    """A prompt and its answers. ``prompt``: its column, None where it is what the answers begin with; ``answers``: by name.

    Plain texts stay so. As soon as one of them is a conversation all are: a plain prompt is the user's, a plain answer the
    assistant's. Answers may be whole conversations, that repeat a prompt of messages, or stand without one, or beside a
    plain text of it; then the prompt is as many turns as all share, up to a turn of the assistant in each. Raises Fault.
    """
    asked = turns(row, prompt, row.get(prompt)) if prompt else ()
    given = [turns(row, name, value) for name, value in answers]
    if not all(map(plain, [asked, *given] if asked else given)):
        asked, given = _conversation(row, asked, [name for name, _ in answers], given)
    if not any(turn.content.strip() for turn in asked if turn.role != "system"):
        raise row.fault(f"{prompt or 'the prompt'} is empty")
    if asked[-1].role == "system":
        raise row.fault(f"{prompt or 'the prompt'} ends with a system turn; the user's must follow")
    for (name, _), answer in zip(answers, given, strict=True):
        if not answer[-1].content.strip():
            raise row.fault(f"{name} {'is empty' if len(answer) == 1 else 'ends with an empty turn'}")
    return asked, given


def plain(turns: Turns) -> bool:
    """Whether this is a text, not a conversation."""
    return len(turns) == 1 and not turns[0].role


def _conversation(row: Row, asked: Turns, names: list[str], given: list[Turns]) -> tuple[Turns, list[Turns]]:
    prompt, answers = _spoken(asked, "user"), [_spoken(answer, "assistant") for answer in given]
    for name, answer in zip(names, answers, strict=True):
        if answer[-1].role != "assistant":
            raise row.fault(f"{name} ends with a {answer[-1].role} turn; the last must be the assistant's")
    if prompt and all(answer[0].role == "assistant" for answer in answers):
        return prompt, answers
    if not prompt or plain(asked):
        return split(row, names, answers)
    for name, answer in zip(names, answers, strict=True):
        if answer[: len(prompt)] != prompt or [turn.role for turn in answer[len(prompt) :]][:1] != ["assistant"]:
            raise row.fault(f"{name} must begin with the assistant's turn, or with the prompt's turns and then it")
    return prompt, [answer[len(prompt) :] for answer in answers]


def _spoken(turns: Turns, role: str) -> Turns:
    return (Turn(role, turns[0].content),) if turns and plain(turns) else turns


def split(row: Row, names: Sequence[str], conversations: Sequence[Turns]) -> tuple[Turns, list[Turns]]:
    """The turns that all conversations share, up to the last place where each goes on with the assistant's, and the rest.

    So an answer begins where the assistant speaks, even if the conversations part later, in a user's turn. Raises Fault
    where they share nothing.
    """
    first, cut = conversations[0], 0
    for place in range(min(map(len, conversations))):
        if all(other[place].role == "assistant" for other in conversations):
            cut = place
        if any(other[place] != first[place] for other in conversations):
            break
    if not cut:
        lacking = "share no prompt" if len(names) > 1 else "has no prompt before the assistant's turn"
        raise row.fault(f"{' and '.join(names)} {lacking}")
    return first[:cut], [other[cut:] for other in conversations]
