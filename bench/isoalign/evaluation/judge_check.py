"""How far an AI judge can be believed: what it says of held-out pairs, beside what others say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from isoalign import stats
from isoalign.core.records import Question
from isoalign.data.preferences import Feedback
from isoalign.evaluation.metrics.evidence import by_prompt
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models.language import LanguageModel
from isoalign.stages.pairs import judge_summary

MOST = 200  # pairs; a judge may cost money

PairScores = Mapping[str, Sequence[Sequence[float | None]]]


def check(judge: Judge, held_out: Feedback, base: LanguageModel, scores: PairScores) -> dict[str, Any]:
    """Agreement with ``annotator``, with ``clean`` verdicts (those before noise) and with each scorer, of P != 1/2, as
    estimates over prompts; and what is told of any judge's work. ``scores``: P(toxic) of both answers, by scorer."""
    places = range(0, len(held_out), max(1, -(-len(held_out) // MOST)))
    rows = [held_out.rows[i] for i in places]
    prompts = [str(base.tokenizer.decode(held_out.prompts[i], skip_special_tokens=True)) for i in places]
    questions = [Question(text, row["chosen"], row["rejected"]) for text, row in zip(prompts, rows, strict=True)]
    said = judge(questions)
    prefers = [None if verdict.p in (None, 0.5) else float(verdict.p > 0.5) for verdict in said]
    truths: dict[str, list[float | None]] = {
        "annotator": [1.0] * len(rows), "clean": [float(row.get("clean", True)) for row in rows],
    }  # fmt: skip
    truths |= {name: [_lower(pairs[i]) for i in places] for name, pairs in scores.items()}
    agreement = {name: _agreement(prefers, truth, [row["prompt_id"] for row in rows]) for name, truth in truths.items()}
    return judge_summary(judge, questions, said) | {"agreement": agreement}


def _lower(pair: Sequence[float | None]) -> float | None:
    """1 where the chosen answer is the less toxic, 0 where it is the more; None where a score is missing or both are equal."""
    chosen, rejected = pair
    return None if chosen is None or rejected is None or chosen == rejected else float(chosen < rejected)


def _agreement(said: Sequence[float | None], truth: Sequence[float | None], prompts: Sequence[str]) -> dict[str, Any]:
    alike = [None if a is None or b is None else float(a == b) for a, b in zip(said, truth, strict=True)]
    return asdict(stats.mean(by_prompt(alike, list(prompts))))
