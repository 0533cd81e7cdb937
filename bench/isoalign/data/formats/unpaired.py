"""Unpaired feedback: single answers labelled good or bad (TRL's unpaired preferences, for KTO)."""

from __future__ import annotations

from collections.abc import Iterator

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row, quoted
from isoalign.data.formats.types import UnpairedLabel

COLUMNS = (("prompt", "completion", "label"), *((whole, "label") for whole in conversation.WHOLE))
OPTIONAL = ("system",)
_LABELS = {"true": True, "1": True, "1.0": True, "up": True, "false": False, "0": False, "0.0": False, "down": False}


def records(row: Row) -> Iterator[UnpairedLabel]:
    """The row's answer with its label."""
    prompt, answer = conversation.one_answer(row)
    label = row.get("label")
    desirable = _LABELS.get(str(label).strip().lower())
    if desirable is None:
        raise row.fault(f"label must be true or false, 1 or 0, up or down, not {quoted(label)}")
    yield UnpairedLabel(prompt, answer, desirable, row.number, row.rater, row.source)
