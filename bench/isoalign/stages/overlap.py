"""Evaluated prompts whose words stand in prompts that train, though they are other prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from isoalign.data.formats import Turns
from isoalign.data.formats.leakage import Leakage
from isoalign.data.prompts import question

NGRAM = 8  # words in a row that count as a leak
WORDS = f"{NGRAM} words in a row, or all of a shorter one,"


def count_overlap(evaluated: Sequence[Turns], trained: Iterable[Turns]) -> int:
    """How many evaluated prompts have words in a row, as `isoalign data check` counts them, in prompts that train.

    Of a conversation that is evaluated the longest user turn is looked for, in all turns but those of the system.
    """
    index, found = Leakage(list(map(question, evaluated)), NGRAM), set[int]()
    for turns in dict.fromkeys(trained):
        for turn in turns:
            if turn.role != "system":
                found |= index.matches(turn.content)
    return len(found)


def told(found: int, evaluated: int, trained: str) -> str:
    """The overlap in words; empty if there is none. ``trained``: what the prompts that train are of."""
    return f"{found:,} of {evaluated:,} evaluated prompts: {WORDS} are in prompts of {trained} that train" if found else ""
