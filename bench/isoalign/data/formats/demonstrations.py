"""Demonstrations: answers to learn from, as plain texts or as messages."""

from __future__ import annotations

from collections.abc import Iterator

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row
from isoalign.data.formats.types import Demonstration

COLUMNS = (("prompt", "completion"), ("messages",))


def records(row: Row) -> Iterator[Demonstration]:
    """The row's answer; in messages, the last assistant turn and the shared prompt before it."""
    if row.has("messages") and not row.has("completion"):
        prompt, (answer,) = conversation.prompt_and_answers(row, None, [("messages", row.get("messages"))])
    else:
        prompt, (answer,) = conversation.prompt_and_answers(row, "prompt", [("completion", row.get("completion"))])
    yield Demonstration(prompt, answer, row.number, row.source)
