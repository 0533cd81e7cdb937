"""The base's answers to red-team prompts, criticised and revised by principles: what constitutional AI imitates first.

One critique and one revision of each answer (Bai et al. 2022, arXiv:2212.08073, section 3.1), without examples before them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.data.formats import Turn
from isoalign.feedback.constitution import Constitution, Principle
from isoalign.feedback.judges.writer import Exchange, Talk, Writer, Written
from isoalign.models.flops import Shape
from isoalign.stages.candidates import read_rows, write_rows
from isoalign.stages.from_file import Cutter

VERSION = 1
SOURCE = "ai_revisions"
RED_TEAM = "toxic"  # the stratum of prompts that lead to harm

ANSWER = """\
Beginning of a text:
{prompt}

Continuation:
{answer}

Critique request: {critique}"""
REVISION = "Revision request: {revision} Write the new continuation and nothing else."

Row = dict[str, Any]


def make(
    work: Path, candidates: Path, shape: Shape, cut: Cutter, writer: Writer, principles: Constitution, limit: int, seed: int
) -> None:
    """Write ``pairs.jsonl``: the first answer to each red-team prompt as ``rejected``, its revision as ``chosen``.

    ``shape``: the base's, for the price of its answers; ``cut``: into the task's tokens; ``limit``: the most that are
    revised, 0 is all. What can't be used is counted in ``record.json``, and paid with the rest. Raises UserError where
    nothing can be.
    """
    rows = [row for row in read_rows(candidates / "answers.jsonl") if row["stratum"] == RED_TEAM]
    rows = rows[: limit or None]
    chosen = [principles.choose(row["id"], seed) for row in rows]
    asked = [question(row, principle) for row, principle in zip(rows, chosen, strict=True)]
    critiques = writer([(exchange,) for exchange in asked])
    critical = [place for place, critique in enumerate(critiques) if critique.text]
    talks = [second(asked[place], critiques[place].text, chosen[place]) for place in critical]
    revisions = dict(zip(critical, writer(talks), strict=True))
    found = [
        revised(row, principle, critique, revisions.get(place), cut)
        for place, (row, principle, critique) in enumerate(zip(rows, chosen, critiques, strict=True))
    ]
    kept = [row for row in found if not isinstance(row, str)]
    left_out = dict(sorted(Counter(reason for reason in found if isinstance(reason, str)).items()))
    if not kept:
        raise UserError(f"{writer.name} revised none of {len(rows)} answers: {told(left_out)}; see task.constitution")
    write_rows(work / "pairs.jsonl", kept)
    record = {"source": SOURCE, "critic": writer.name, "asked": len(rows), "revised": len(kept), "left_out": left_out}
    record |= {"principles": dict(sorted(Counter(row["principle"] for row in kept).items()))}
    record |= bill([*critiques, *revisions.values()], sampling(rows, shape), len(kept))
    (work / "record.json").write_text(json.dumps(record, indent=1))


# -- what the critic is asked -------------------------------------------------------------------------------------------


def question(row: Row, principle: Principle) -> Exchange:
    """The request for a critique of a prompt's first answer."""
    values = {"prompt": row["text"], "answer": row["answers"][0].strip(), "critique": principle.critique}
    return Exchange(ANSWER.format_map(values), "Critique")


def second(asked: Exchange, critique: str, principle: Principle) -> Talk:
    """The request for a revision, with the critique before it."""
    request = REVISION.format_map({"revision": principle.revision})
    return (Exchange(asked.request, asked.label, critique), Exchange(request, "Revision"))


# -- what becomes of it -------------------------------------------------------------------------------------------------


def revised(row: Row, principle: Principle, critique: Written, revision: Written | None, cut: Cutter) -> Row | str:
    """A row of a revision and the answer that it replaces, or in a few words why there is none."""
    if revision is None:
        return f"critique: {critique.missing or 'blank'}"
    text = unquoted(revision.text)
    if not text:
        return revision.missing or "blank"
    ids = cut.answer((Turn("", joined(text)),))
    said, before = cut.decoded(ids), row["answers"][0]
    if " ".join(said.split()) == " ".join(before.split()):
        return "unchanged"
    return {
        "pair_id": row["id"], "prompt_id": row["id"], "prompt_ids": row["prompt_ids"], "chosen": said, "rejected": before,
        "chosen_ids": ids, "rejected_ids": row["answer_ids"][0], "principle": principle.name, "critique": critique.text,
    }  # fmt: skip


def unquoted(text: str) -> str:
    """The text without the quotation marks around it, if there are any: models like to quote what they propose."""
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”")) else text


def joined(text: str) -> str:
    """The revision as what follows the prompt: after a space, but where a punctuation mark begins it."""
    return text if text[0] in ",.;:!?)'’" else f" {text}"


def told(left_out: dict[str, int]) -> str:
    """Reasons with their counts, as a sentence has them."""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "there is no red-team prompt"


# -- what it costs ------------------------------------------------------------------------------------------------------


def sampling(rows: Sequence[Row], shape: Shape) -> int:
    """FLOPs of sampling the first answers, as if no others had been: the other draws teach nothing here."""
    prompts, answers = [len(row["prompt_ids"]) for row in rows], [len(row["answer_ids"][0]) for row in rows]
    return shape.prefill(prompts) + shape.decode(prompts, answers)


def bill(written: Sequence[Written], sampling: int, kept: int) -> Row:
    """All that was asked and sampled, in shares of the revisions that can be used."""
    tokens, flops = sum(each.tokens for each in written), sum(each.flops for each in written)
    return {
        "passes": len(written), "tokens": tokens, "flops": flops,
        "flops_each": {"feedback": sampling // kept, "critic": flops // kept},
        "asked_each": {"critic_passes": len(written) / kept, "critic_tokens": tokens / kept},
    }  # fmt: skip
