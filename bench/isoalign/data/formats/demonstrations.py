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
    yield Demonstration(*conversation.one_answer(row), row.number, row.source)
