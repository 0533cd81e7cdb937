"""Demonstrations: answers to learn from, as plain texts or as messages (ShareGPT's `conversations` too)."""

from __future__ import annotations

from collections.abc import Iterator

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row
from isoalign.data.formats.types import Demonstration

COLUMNS = (("prompt", "completion"), ("messages",), ("conversations",))
OPTIONAL = ("system",)


def records(row: Row) -> Iterator[Demonstration]:
    """The row's answer; in messages, the last assistant turn and the shared prompt before it."""
    name = next((name for name in ("messages", "conversations") if row.has(name)), "completion")
    if name == "completion" or row.has("completion"):
        prompt, given = conversation.prompt_and_answers(row, "prompt", [("completion", row.get("completion"))])
    else:
        prompt, given = conversation.prompt_and_answers(row, None, [(name, row.get(name))])
    prompt, (answer,) = conversation.with_system(row, prompt, given)
    yield Demonstration(prompt, answer, row.number, row.source)
