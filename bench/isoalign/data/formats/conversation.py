"""Turns of a text or a list of messages, and the split of conversations into prompt and answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from isoalign.core.text import repeats
from isoalign.data.formats.rows import EMPTY, TOOLS, Fault, Row, quoted
from isoalign.data.formats.types import REASONING, Turn, Turns

VERSION = 2  # in keys of what is read from files
ROLES = ("system", "user", "assistant")
WHOLE = ("messages", "conversations")  # columns that hold a prompt and its answer
_SHAREGPT = {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
_ALIASES = {"developer": "system", "model": "assistant"}
_TOOL_ROLES = ("tool", "function", "ipython", "function_call", "function_response", "observation")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")


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
        raise row.fault(f"{name} is empty", EMPTY)
    return tuple(_read_turn(row, name, message) for message in value)


def _read_turn(row: Row, name: str, message: Any) -> Turn:
    """A message with role and content, or with from and value as ShareGPT has it."""
    if not isinstance(message, dict):
        raise row.fault(f"{name}: a message is an object with role and content, not {quoted(message)}")
    sharegpt = message.get("role") is None and message.get("from") is not None
    role, content = (message.get(key) for key in (("from", "value") if sharegpt else ("role", "content")))
    if tool := next((key for key in _TOOL_KEYS if message.get(key)), role if role in _TOOL_ROLES else ""):
        raise _tool_fault(row, name, tool)
    if any(message.get(key) for key in _REASONING_KEYS):
        row.left.add(REASONING)
    if isinstance(content, list):
        content = "".join(_part_text(row, name, part) for part in content)
    for key, value in (("role", role), ("content", content)):
        if not isinstance(value, str):
            what = f"must be a text, not {quoted(value)}" if value is not None else "is missing"
            raise row.fault(f"{name}: a message's {key} {what}")
    known = (_SHAREGPT if sharegpt else _ALIASES).get(str(role), str(role))
    if known not in ROLES:
        raise row.fault(f"{name}: unknown role {quoted(role)}; known: {', '.join(ROLES)}")
    return Turn(sys.intern(known), row.valid_text(name, str(content)))  # one text for all turns, not one each


def begins_with_prompt(prompt: Turns, answer: Turns) -> bool:
    """Whether an answer begins with its prompt, or with the last turn of it."""
    return repeats(prompt[-1].content, answer[0].content)


def _tool_fault(row: Row, name: str, what: str) -> Fault:
    return row.fault(f"{name}: a message calls or answers a tool ({what}); conversations with tools are not read", TOOLS)


def _part_text(row: Row, name: str, part: Any) -> str:
    """The text of a part of a message's content."""
    if isinstance(part, dict) and str(part.get("type")).startswith("tool"):
        raise row.fault(
            f"{name}: a message calls or answers a tool ({part['type']}); conversations with tools are not read", TOOLS
        )
    text = part.get("text") if isinstance(part, dict) else part
    if not isinstance(text, str):
        kind = f"of type {quoted(part.get('type'))}" if isinstance(part, dict) else quoted(part)
        raise row.fault(f"{name}: a part of a message's content is {kind}; only parts of text are read")
    return text


def prompt_and_answers(row: Row, prompt: str | None, answers: Sequence[tuple[str, Any]]) -> tuple[Turns, list[Turns]]:
    """A prompt and its answers. ``prompt``: its column, None if the answers begin with it; ``answers``: by name.

    Plain texts stay plain. If one of them is a conversation, all are: a plain prompt is a user turn, a plain answer an
    assistant turn. Answers may be whole conversations that repeat a prompt of messages, have no prompt column, or stand
    beside a plain prompt; in the last two cases the prompt is the shared turns, up to an assistant turn in each. Raises
    Fault.
    """
    return answers_to(row, prompt or "the prompt", read_turns(row, prompt, row.get(prompt)) if prompt else (), answers)


def answers_to(row: Row, prompt: str, asked: Turns, answers: Sequence[tuple[str, Any]]) -> tuple[Turns, list[Turns]]:
    """`prompt_and_answers` for a prompt that is read already, ``prompt`` in errors; without turns, answers begin with it."""
    given = [read_turns(row, name, value) for name, value in answers]
    if asked and asked[-1].role == "assistant":
        raise row.fault(f"{prompt} ends with an assistant turn, and the answer would open another; join the two")
    if not all(map(is_plain, [asked, *given] if asked else given)):
        asked, given = _conversation(row, asked, [name for name, _ in answers], given)
    if not any(turn.content.strip() for turn in asked if turn.role != "system"):
        raise row.fault(f"{prompt} is empty", EMPTY)
    if asked[-1].role == "system":
        raise row.fault(f"{prompt} ends with a system turn; a user turn must follow")
    for (name, _), answer in zip(answers, given, strict=True):
        if not answer[-1].content.strip():
            raise row.fault(f"{name} {'is empty' if len(answer) == 1 else 'ends with an empty turn'}", EMPTY)
    return asked, given


def one_answer(row: Row, names: Sequence[str] = ("completion",)) -> tuple[Turns, Turns]:
    """The prompt and the answer of a row that has one: in column ``prompt`` and the first of ``names`` that it has, or in
    messages, of which the last assistant turn is the answer. Raises Fault."""
    whole = next((name for name in WHOLE if row.has(name)), "")
    name = next((name for name in names if row.has(name)), "" if whole else names[0])
    read = ("prompt", [(name, row.get(name))]) if name else (None, [(whole, row.get(whole))])
    prompt, (answer,) = with_system(row, *prompt_and_answers(row, *read))
    return prompt, answer


def with_system(row: Row, asked: Turns, given: list[Turns]) -> tuple[Turns, list[Turns]]:
    """Prompt and answers with the text in column ``system`` as the first turn, if the file has that column.

    They become a conversation even where the text is empty, so that all rows of a file are of one kind.
    """
    if "system" not in row.values:
        return asked, given
    asked, given = _as_conversation(asked, "user"), [_as_conversation(answer, "assistant") for answer in given]
    text = row.values["system"]
    if isinstance(text, str) and text.strip() and asked[0].role != "system":
        asked = (Turn("system", row.valid_text("system", text)), *asked)
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
    """The turns that all conversations share, up to the last position where in each an assistant turn follows one of another
    role, and the rest.

    So an answer begins with an assistant turn, even if the conversations first differ later, in a user turn or in a second
    assistant turn. Raises Fault if they share no turns.
    """
    first, cut = conversations[0], 0
    for place in range(min(map(len, conversations))):
        answered = place > 0 and first[place - 1].role != "assistant"
        if answered and all(other[place].role == "assistant" for other in conversations):
            cut = place
        if any(other[place] != first[place] for other in conversations):
            break
    if not cut:
        lacking = "share no prompt" if len(names) > 1 else "has no prompt before the assistant turn"
        raise row.fault(f"{' and '.join(names)} {lacking}")
    return first[:cut], [other[cut:] for other in conversations]
