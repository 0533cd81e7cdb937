"""Two candidates and the choice between them: the human preference data of Google's RLHF tuning."""

from __future__ import annotations

from collections.abc import Iterator

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row, quoted
from isoalign.data.formats.types import Comparison, Record, unless_equal

COLUMNS = (("input_text", "candidate_0", "candidate_1", "choice"),)


def records(row: Row) -> Iterator[Record]:
    """The row's comparison, with the position of the chosen candidate."""
    names = ("candidate_0", "candidate_1")
    prompt, answers = conversation.prompt_and_answers(row, "input_text", [(name, row.get(name)) for name in names])
    place = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(str(row.get("choice")).strip())
    if place is None:
        raise row.fault(f"choice must be 0 or 1, not {quoted(row.get('choice'))}")
    yield unless_equal(Comparison(prompt, answers[place], answers[1 - place], row.number, row.rater, row.source, place))
