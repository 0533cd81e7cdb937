"""The classifier as a judge: the more acceptable answer is better, independent of prompt and order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from isoalign.config.feedback import JudgeConfig
from isoalign.core.errors import UserError
from isoalign.core.records import Question
from isoalign.feedback.judges.identity import judge_identity
from isoalign.feedback.judges.verdicts import Verdict
from isoalign.models.classifiers import CharClassifier

EPS = 1e-3  # P(acceptable) is clipped to [EPS, 1 - EPS]: odds beyond that are noise of the classifier


class ClassifierJudge:
    """Bradley-Terry with the log-odds of being acceptable as an answer's strength (Bradley and Terry 1952).

    P(first is better) = sigmoid(logit(1 - p1) - logit(1 - p2)), with p = P(offensive). Prompts are not read.
    """

    name = "classifier"

    def __init__(self, annotator: CharClassifier, identity: dict[str, Any]) -> None:
        self.annotator, self.identity = annotator, identity

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question, never missing. Raises UserError for a principle, which it can't read."""
        if principle is not None:
            raise UserError("the classifier judge can't read a principle; set task.judge.kind to lm or server")
        texts = list(dict.fromkeys(text for question in questions for text in (question.first, question.second)))
        strength = dict(zip(texts, -logit(np.clip(self.annotator(texts), EPS, 1 - EPS)), strict=True))
        flops = {text: self.annotator.flops([text]) for text in texts}
        return [
            Verdict(p, (p, p), tokens=0, flops=flops[question.first] + flops[question.second])
            for question in questions
            for p in [float(expit(strength[question.first] - strength[question.second]))]
        ]


def load_classifier(config: JudgeConfig, annotators: Path) -> ClassifierJudge:
    """The classifier that the annotators' stage fitted as a judge. Raises UserError if it is missing."""
    return ClassifierJudge(CharClassifier.load(annotators / "judge"), judge_identity(config))
