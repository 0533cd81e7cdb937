"""Transcripts of HH-RLHF: whole dialogues, chosen and rejected, turns marked by "Human:" and "Assistant:".

Bai et al. 2022, "Training a helpful and harmless assistant with reinforcement learning from human feedback".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import EMPTY, Row, quoted
from isoalign.data.formats.types import Comparison, Record, Turn, Turns, unless_equal

COLUMNS = (("chosen", "rejected"),)
_NAMES = ("chosen", "rejected")
_OPENING = re.compile(r"\s*Human:")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def matches(row: Row) -> bool:
    """Whether chosen and rejected begin like transcripts: by columns alone they could be pairs."""
    return all(_OPENING.match(text) if isinstance(text := row.values[name], str) else False for name in _NAMES)


def records(row: Row) -> Iterator[Record]:
    """The row's comparison. The prompt is the shared turns, up to the last position where both have an assistant turn."""
    prompt, (chosen, rejected) = conversation.split_prompt(row, _NAMES, [_read_transcript(row, name) for name in _NAMES])
    yield unless_equal(Comparison(prompt, chosen, rejected, row.number, row.rater, row.source))


def read_dialogue(row: Row, name: str, text: Any) -> Turns:
    """Turns of a transcript, without surrounding white space. Raises Fault unless it begins with Human:."""
    if not isinstance(text, str) or not _OPENING.match(text):
        raise row.fault(f"{name} must be a transcript that begins with Human:, not {quoted(text)}")
    _, *parts = _TURN.split("\n\n" + row.valid_text(name, text).replace("\r\n", "\n").lstrip())
    return tuple(Turn(_ROLES[who], what.strip()) for who, what in zip(parts[::2], parts[1::2], strict=True))


def read_prompt(row: Row, name: str) -> Turns:
    """A prompt: a transcript that ends where the assistant has to speak, or whatever `conversation.read_turns` reads."""
    text = row.get(name)
    if isinstance(text, str) and _OPENING.match(text):
        *turns, last = read_dialogue(row, name, text)
        if last == Turn("assistant", ""):
            return tuple(turns)
    return conversation.read_turns(row, name, text)


def _read_transcript(row: Row, name: str) -> Turns:
    turns = read_dialogue(row, name, row.get(name))
    if turns[-1].role != "assistant":
        raise row.fault(f"{name} ends with a user turn; the last turn must be the assistant's")
    if not turns[-1].content:
        raise row.fault(f"{name} ends with an empty turn", EMPTY)
    return turns
