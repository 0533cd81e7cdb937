"""An evaluation scorer as a judge: of two answers the one with the better score wins, whatever their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isoalign.core.errors import UserError
from isoalign.core.records import Question
from isoalign.feedback.judges.verdicts import Verdict
from isoalign.models.answer_scorers import AnswerScorer, Asked, identity, load_answer_scorer, runs_network

WHERE = "task.evaluation.win_rate.judge.model"


class ScorerJudge:
    """Verdicts of 1, 0, and 1/2 for equal scores; missing where an answer has no score. ``higher_is_better``: of the score."""

    def __init__(self, scorer: AnswerScorer, higher_is_better: bool) -> None:
        self.scorer, self.sign = scorer, 1 if higher_is_better else -1
        self.name = f"scorer:{scorer.name}"
        self.identity = scorer_judge_identity(scorer.name) | {"higher_is_better": higher_is_better}

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question. Raises UserError for a principle, which it can't read."""
        if principle is not None:
            raise UserError("a scorer can't read a principle; choose a judge that reads")
        cells = list(dict.fromkeys((q.turns or q.prompt, text) for q in questions for text in (q.first, q.second)))
        scores = dict(zip(cells, self.scorer([p for p, _ in cells], [text for _, text in cells]), strict=True))
        return [self._verdict(question, scores) for question in questions]

    def _verdict(self, question: Question, scores: Mapping[tuple[Asked, str], float | None]) -> Verdict:
        prompt = question.turns or question.prompt
        first, second = scores[prompt, question.first], scores[prompt, question.second]
        tokens, flops = (None, self._flops(question)) if runs_network(self.scorer.name) else (0, 0)
        if first is None or second is None:
            return Verdict(None, (None, None), tokens, flops, missing="no score")
        ahead = self.sign * (first - second)
        p = 0.5 if ahead == 0 else float(ahead > 0)
        return Verdict(p, (p, p), tokens, flops)

    def _flops(self, question: Question) -> int | None:
        """FLOPs of scoring both answers; None where the scorer can't say them."""
        prompt = question.turns or question.prompt
        try:
            return self.scorer.flops([prompt] * 2, [question.first, question.second]) if self.scorer.price else None
        except UserError:
            return None  # a scorer for evaluation alone has no price


def scorer_judge_identity(name: str) -> dict[str, Any]:
    """All that its verdicts depend on, without loading it; its direction follows from the scorer or the task."""
    return {"kind": "scorer", "scorer": identity(name), "name": name} | ({"priced": True} if runs_network(name) else {})


def load_scorer_judge(name: str, device: str, default: bool | None) -> ScorerJudge:
    """A scorer by name as a judge. ``default``: whether more is better of one that does not say it, None where nothing does.

    Raises UserError where the direction is not known, and for a scorer that compares with right answers.
    """
    scorer = load_answer_scorer(name, device)
    if scorer.references:
        raise UserError(f"{WHERE}: {name} compares with right answers, so there is no better one of two; name another scorer")
    direction = default if scorer.higher_is_better is None else scorer.higher_is_better
    if direction is None:
        raise UserError(
            f"{WHERE}: {name} does not say whether more is better; name the task's scorer, or one of a direction of its own"
        )
    return ScorerJudge(scorer, direction)
