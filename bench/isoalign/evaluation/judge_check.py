"""How reliable an AI judge is: its agreement with annotator and scorers on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from isoalign import stats
from isoalign.core.objective import TOXICITY, Objective
from isoalign.core.records import Question
from isoalign.data.preferences import Feedback
from isoalign.evaluation.metrics.scored_samples import by_prompt
from isoalign.feedback.judges.verdicts import Judge
from isoalign.stages.pairs import judge_summary

MAX_PAIRS = 200  # a judge may cost money

PairScores = Mapping[str, Sequence[Sequence[float | None]]]


def check_judge(
    judge: Judge, held_out: Feedback, prompts: Sequence[str], scores: PairScores, objective: Objective = TOXICITY
) -> dict[str, Any]:
    """Agreement with ``annotator``, with ``clean`` verdicts (those before noise) and with each scorer, as estimates over
    prompts, without verdicts of P = 1/2; and a summary of the judge's work. ``prompts``: what the prompt of each pair says;
    ``scores``: by scorer, of both answers, in the direction of the ``objective``."""
    indices = range(0, len(held_out), max(1, -(-len(held_out) // MAX_PAIRS)))
    rows = [held_out.rows[i] for i in indices]
    questions = [Question(prompts[i], held_out.rows[i]["chosen"], held_out.rows[i]["rejected"]) for i in indices]
    verdicts = judge(questions)
    preferences = [None if verdict.p in (None, 0.5) else float(verdict.p > 0.5) for verdict in verdicts]
    truths: dict[str, list[float | None]] = {
        "annotator": [1.0] * len(rows), "clean": [float(row.get("clean", True)) for row in rows],
    }  # fmt: skip
    truths |= {name: [_is_chosen_better(pairs[i], objective) for i in indices] for name, pairs in scores.items()}
    agreement = {name: _agreement(preferences, truth, [row["prompt_id"] for row in rows]) for name, truth in truths.items()}
    return judge_summary(judge, questions, verdicts) | {"agreement": agreement}


def _is_chosen_better(pair: Sequence[float | None], objective: Objective) -> float | None:
    """1 if the chosen answer has the better score, 0 if it has the worse one; None if a score is missing or both are equal."""
    chosen, rejected = pair
    if chosen is None or rejected is None or chosen == rejected:
        return None
    return float(objective.loss(chosen) < objective.loss(rejected))


def _agreement(preferences: Sequence[float | None], truth: Sequence[float | None], prompts: Sequence[str]) -> dict[str, Any]:
    agrees = [None if a is None or b is None else float(a == b) for a, b in zip(preferences, truth, strict=True)]
    return asdict(stats.mean(by_prompt(agrees, list(prompts))))
