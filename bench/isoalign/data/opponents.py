"""Given answers to evaluation prompts, against which a policy's are judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from isoalign.core.errors import UserError
from isoalign.core.text import text_fingerprint
from isoalign.data.formats.conversation import read_turns
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.rows import EMPTY, Fault, Row
from isoalign.data.prompts import as_text

WHERE = "task.evaluation.win_rate.opponent"


def read_answers(source: str, columns: Mapping[str, str] | None, wanted: Collection[str]) -> dict[str, str]:
    """Prompt id to the answer that a file, folder or ``hf:NAME`` gives, of the prompts ``wanted``; other rows are not used.

    A row has ``prompt``, a text or messages, and ``completion``, a text or an assistant's message; ``columns``: their names,
    where they are others. Raises UserError naming the row for one that can't be read and for a prompt that occurs twice, and
    for prompts without an answer.
    """
    answers: dict[str, str] = {}
    rows: dict[str, int] = {}
    for row in iterate_rows(source):
        try:
            if isinstance(row, Fault):
                raise row
            named = row.renamed(columns or {})
            prompt = text_fingerprint(as_text(read_turns(named, "prompt", named.get("prompt"))))
            answer = _answer(named)
            if prompt in wanted and (before := rows.setdefault(prompt, row.number)) != row.number:
                raise named.fault(f"its prompt is already in row {before}")
        except Fault as fault:
            raise UserError(f"{WHERE} {source}: {fault}") from fault
        if prompt in wanted:
            answers[prompt] = answer
    if missing := sorted(set(wanted) - answers.keys()):
        raise UserError(
            f"{WHERE} {source} has no answer to {len(missing)} of the {len(wanted)} evaluation prompts, such as {missing[0]}; "
            "see: isoalign prompts TASK"
        )
    return answers


def _answer(row: Row) -> str:
    turns = read_turns(row, "completion", row.get("completion"))
    if odd := [turn.role for turn in turns if turn.role not in ("", "assistant")]:
        raise row.fault(f"completion holds a turn of the {odd[0]}")
    if not (text := "".join(turn.content for turn in turns)).strip():
        raise row.fault("completion is empty; leave such prompts out of the evaluation, or say what was answered", EMPTY)
    return text
