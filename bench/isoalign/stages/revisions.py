"""Critiques and revisions of the SFT base's answers to red-team prompts, for the supervised stage of constitutional AI.

Each answer gets one critique and one revision (Bai et al. 2022, arXiv:2212.08073, section 3.1), without few-shot examples.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.data.formats import Turn
from isoalign.feedback.constitution import Constitution, Principle
from isoalign.feedback.judges.writer import Exchange, Talk, Writer, Written
from isoalign.models.flops import Shape
from isoalign.stages.cutting import Cutter

VERSION = 2
SOURCE = "ai_revisions"
RED_TEAM = "toxic"  # the stratum of prompts that elicit harmful answers

ANSWER = """\
Beginning of a text:
{prompt}

Continuation:
{answer}

Critique request: {critique}"""
REVISION = "Revision request: {revision} Write the new continuation and nothing else."

Row = dict[str, Any]


def turns_recipe(task: TaskConfig) -> dict[str, bool]:
    """For recipes: whether prompts may be in a chat template, in which revisions are turns."""
    plain = task.model.template == "off" or (task.model.template == "auto" and not task.prompts.source)
    return {} if plain else {"turns": True}


def make_revisions(
    work: Path, completions: Path, shape: Shape, cut: Cutter, writer: Writer, principles: Constitution, limit: int, seed: int
) -> None:
    """Write ``pairs.jsonl``: the first answer to each red-team prompt as ``rejected``, its revision as ``chosen``.

    ``shape``: of the base, for the cost of its answers. ``cut``: tokenizes for the task. ``limit``: the maximum number of
    answers to revise; 0 means all. Unusable revisions are counted in ``record.json``, and their cost is part of the bill.
    Raises UserError if no revision is usable.
    """
    rows = [row for row in read_rows(completions / "answers.jsonl") if row["stratum"] == RED_TEAM]
    rows = rows[: limit or None]
    chosen = [principles.choose(row["id"], seed) for row in rows]
    requests = [critique_request(row, principle) for row, principle in zip(rows, chosen, strict=True)]
    critiques = writer([(request,) for request in requests])
    criticised = [index for index, critique in enumerate(critiques) if critique.text]
    talks = [revision_request(requests[index], critiques[index].text, chosen[index]) for index in criticised]
    revisions = dict(zip(criticised, writer(talks), strict=True))
    outcomes = [
        revision_row(row, principle, critique, revisions.get(index), cut)
        for index, (row, principle, critique) in enumerate(zip(rows, chosen, critiques, strict=True))
    ]
    pairs = [row for row in outcomes if not isinstance(row, str)]
    left_out = dict(sorted(Counter(reason for reason in outcomes if isinstance(reason, str)).items()))
    if not pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "there is no red-team prompt"
        raise UserError(f"{writer.name} revised none of {len(rows)} answers: {reasons}; see task.constitution")
    write_rows(work / "pairs.jsonl", pairs)
    record = {"source": SOURCE, "critic": writer.name, "asked": len(rows), "revised": len(pairs), "left_out": left_out}
    record |= {"principles": dict(sorted(Counter(row["principle"] for row in pairs).items()))}
    record |= revision_costs([*critiques, *revisions.values()], sampling_flops(rows, shape), len(pairs))
    (work / "record.json").write_text(json.dumps(record, indent=1))


# -- requests to the critic ---------------------------------------------------------------------------------------------


def critique_request(row: Row, principle: Principle) -> Exchange:
    """The request for a critique of a prompt's first answer."""
    values = {"prompt": row["text"], "answer": row["answers"][0].strip(), "critique": principle.critique}
    return Exchange(ANSWER.format_map(values), "Critique")


def revision_request(first: Exchange, critique: str, principle: Principle) -> Talk:
    """The request for a revision, after the request for a critique and its answer."""
    request = REVISION.format_map({"revision": principle.revision})
    return (Exchange(first.request, first.label, critique), Exchange(request, "Revision"))


# -- rows ---------------------------------------------------------------------------------------------------------------


def revision_row(row: Row, principle: Principle, critique: Written, revision: Written | None, cut: Cutter) -> Row | str:
    """The row of a revision and the answer that it replaces, or the reason why it is left out."""
    if revision is None:
        return f"critique: {critique.missing or 'blank'}"
    text = unquoted(revision.text)
    if not text:
        return revision.missing or "blank"
    templated = cut.templated(tuple(Turn(**turn) for turn in row.get("turns", ())))
    ids = cut.answer((Turn("assistant", text) if templated else Turn("", with_space(text)),))
    if not cut.is_sayable(ids):
        return "a token that no answer may have"
    revised, answer = cut.spoken_text(ids), row["answers"][0]
    if " ".join(revised.split()) == " ".join(answer.split()):
        return "unchanged"
    return {
        "pair_id": row["id"], "prompt_id": row["id"], "prompt_ids": row["prompt_ids"], "chosen": revised, "rejected": answer,
        "chosen_ids": ids, "rejected_ids": row["answer_ids"][0], "principle": principle.name, "critique": critique.text,
    }  # fmt: skip


def unquoted(text: str) -> str:
    """The text without quotation marks around it: models often quote the text that they propose."""
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”")) else text


def with_space(text: str) -> str:
    """The revision as a continuation of the prompt: after a space, unless it begins with a punctuation mark."""
    return text if text[0] in ",.;:!?)'’" else f" {text}"


# -- costs --------------------------------------------------------------------------------------------------------------


def sampling_flops(rows: Sequence[Row], shape: Shape) -> int:
    """FLOPs of sampling the first answers alone: revisions do not use the others."""
    prompts, answers = [len(row["prompt_ids"]) for row in rows], [len(row["answer_ids"][0]) for row in rows]
    return shape.prefill(prompts) + shape.decode(prompts, answers)


def revision_costs(written: Sequence[Written], sampling: int, revised: int) -> Row:
    """The cost of all requests and samples, in total and per usable revision."""
    tokens, flops = sum(each.tokens for each in written), sum(each.flops for each in written)
    return {
        "passes": len(written), "tokens": tokens, "flops": flops,
        "flops_each": {"feedback": sampling // revised, "critic": flops // revised},
        "asked_each": {"critic_passes": len(written) / revised, "critic_tokens": tokens / revised},
    }  # fmt: skip
