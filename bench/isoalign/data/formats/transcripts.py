"""Transcripts of HH-RLHF: whole dialogues, chosen and rejected, their turns marked by "Human:" and "Assistant:".

Bai et al. 2022, "Training a helpful and harmless assistant with reinforcement learning from human feedback".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row, shown
from isoalign.data.formats.types import Comparison, Record, Turn, Turns, distinct

COLUMNS = (("chosen", "rejected"),)
_NAMES = ("chosen", "rejected")
_OPENING = re.compile(r"\s*Human:")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def looks(row: Row) -> bool:
    """Whether chosen and rejected begin as transcripts do: the columns alone could be those of pairs."""
    return all(_OPENING.match(text) if isinstance(text := row.values[name], str) else False for name in _NAMES)


def records(row: Row) -> Iterator[Record]:
    """The row's comparison: the prompt is what both share, up to the last turn of the assistant that begins in both."""
    prompt, (chosen, rejected) = conversation.split(row, _NAMES, [_turns(row, name) for name in _NAMES])
    yield distinct(Comparison(prompt, chosen, rejected, row.number, row.rater, row.source))


def _turns(row: Row, name: str) -> Turns:
    """The turns of a transcript, white space around each taken off."""
    text = row.get(name)
    if not isinstance(text, str) or not _OPENING.match(text):
        raise row.fault(f"{name} must be a transcript that begins with Human:, not {shown(text)}")
    _, *parts = _TURN.split("\n\n" + row.sound(name, text).replace("\r\n", "\n").lstrip())
    turns = tuple(Turn(_ROLES[who], what.strip()) for who, what in zip(parts[::2], parts[1::2], strict=True))
    if turns[-1].role != "assistant":
        raise row.fault(f"{name} ends with a user turn; the last must be the assistant's")
    if not turns[-1].content:
        raise row.fault(f"{name} ends with an empty turn")
    return turns
