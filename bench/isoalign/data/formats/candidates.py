"""Two candidates and which was chosen: the human preference data of Google's RLHF tuning."""

from __future__ import annotations

from collections.abc import Iterator

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row, shown
from isoalign.data.formats.types import Comparison, Record, distinct

COLUMNS = (("input_text", "candidate_0", "candidate_1", "choice"),)


def records(row: Row) -> Iterator[Record]:
    """The row's comparison, with the place where the chosen candidate stood."""
    names = ("candidate_0", "candidate_1")
    prompt, answers = conversation.answered(row, "input_text", [(name, row.get(name)) for name in names])
    place = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(str(row.get("choice")).strip())
    if place is None:
        raise row.fault(f"choice must be 0 or 1, not {shown(row.get('choice'))}")
    yield distinct(Comparison(prompt, answers[place], answers[1 - place], row.number, row.rater, row.source, place))
