"""Contests of a run's samples with other answers: a judge compares each two, in both orders. The metrics need no judge."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from isoalign.config.evaluation import WIN_RATE, WinRateConfig
from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.core.records import Contest, Question, Sample
from isoalign.data.prompts import Prompt
from isoalign.feedback.judges.verdicts import Judge, Verdict, known_sum

__all__ = ["WIN_RATE", "make_contests", "read_contests"]

VERSION = 1
FILE = "contests.jsonl"

Answers = Mapping[tuple[str, int], str]
"""Prompt and draw to the opponent's answer."""


def make_contests(
    work: Path, drawn: Sequence[Sample], answers: Answers, judge: Judge, config: WinRateConfig, chosen: Sequence[Prompt] = ()
) -> None:
    """Write ``contests.jsonl``, the judge's verdicts on samples and the opponent's answers, and ``record.json``, what it was
    asked. Two equal texts are a tie, and not asked about. ``chosen``: the prompts, for the turns of conversations.

    Raises UserError where more than ``config.missing`` of the contests have no verdict.
    """
    asked = [sample for sample in drawn if sample.completion != answers[sample.prompt_id, sample.draw]]
    turns = {prompt.id: prompt.turns for prompt in chosen}
    questions = [Question(s.prompt, s.completion, answers[s.prompt_id, s.draw], turns.get(s.prompt_id, ())) for s in asked]
    verdicts = judge(questions, config.criterion or None) if questions else []
    if len(verdicts) != len(questions):
        raise UserError(f"win rate: {judge.name} gave {len(verdicts)} verdicts on {len(questions)} questions")
    by_sample = {(s.prompt_id, s.draw): verdict for s, verdict in zip(asked, verdicts, strict=True)}
    contests = [
        _contest(each, answers[each.prompt_id, each.draw], by_sample.get((each.prompt_id, each.draw))) for each in drawn
    ]
    causes = Counter(contest.missing for contest in contests if contest.sides is None)
    if (lost := causes.total()) > config.missing * len(questions):
        told = ", ".join(f"{cause}: {count}" for cause, count in sorted(causes.items()))
        reason = next(verdict.reason for verdict in verdicts if None in verdict.orders).strip()
        raise UserError(
            f"win rate: {judge.name} gave no verdict on {lost} of {len(questions)} contests ({told}"
            f"{f'; such as {reason[:60]!r}' if reason else ''}); change its template or model, or raise "
            "task.evaluation.win_rate.missing, by which they count as ties"
        )
    write_rows(work / FILE, map(asdict, contests))
    record = {
        "judge": judge.name, "contests": len(contests), "equal": len(contests) - len(questions),
        "questions": 2 * len(questions), "missing": dict(sorted(causes.items())),
        "tokens": known_sum(verdict.tokens for verdict in verdicts), "flops": known_sum(verdict.flops for verdict in verdicts),
        "estimated": sum(verdict.estimated for verdict in verdicts),
    } | ({"cut": cut} if (cut := sum(verdict.cut for verdict in verdicts)) else {})  # fmt: skip
    (work / "record.json").write_text(json.dumps(record, indent=1))


def _contest(sample: Sample, answer: str, verdict: Verdict | None) -> Contest:
    """The contest of a sample with an answer; without a verdict because the two are equal."""
    place, lengths = (sample.prompt_id, sample.draw), (len(sample.completion), len(answer))
    if verdict is None:
        return Contest(*place, 0.5, 0.5, *lengths, equal=True)
    missing = (verdict.missing or "no verdict") if None in verdict.orders else ""
    return Contest(*place, *verdict.orders, *lengths, missing, tokens=verdict.tokens)


def read_contests(folder: Path) -> list[Contest]:
    """The contests of a folder."""
    return [Contest(**row) for row in read_rows(folder / FILE)]
