"""What annotators and judges that score single answers think of them: a loss for each, of which less is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isoalign.feedback import annotators
from isoalign.models.answer_scorers import AnswerScorer

Losses = list[float | None]
Floats = NDArray[np.float64]


class Opinion(Protocol):
    """Scores answers to prompts. ``references``: the right answers of the prompts, where they have some."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    def losses(self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str] = ()) -> Losses:
        """The loss of each answer, None without a score."""

    def raw(self, prompts: Sequence[str], answers: Sequence[str]) -> Losses:
        """The figures themselves, whichever direction is better."""

    def utilities(self, losses: Floats) -> Floats:
        """Losses as the utilities of a panel, of any shape."""

    def flops(self, prompts: Sequence[str], answers: Sequence[str]) -> int:
        """FLOPs of reading the answers."""


@dataclass(frozen=True)
class Offence:
    """A classifier that was fit on people's labels: P(offensive), and a panel's utility in logits of P(acceptable)."""

    name: str
    classifier: Any

    def losses(self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str] = ()) -> Losses:
        """P(offensive) of each answer; prompts are not read."""
        losses: Losses = self.classifier(answers).tolist()
        return losses

    def raw(self, prompts: Sequence[str], answers: Sequence[str]) -> Losses:
        """P(offensive) of each answer."""
        return self.losses(prompts, answers)

    def utilities(self, losses: Floats) -> Floats:
        """Logits of P(acceptable)."""
        return annotators.utility(losses)

    def flops(self, prompts: Sequence[str], answers: Sequence[str]) -> int:
        """FLOPs of the classifier."""
        return int(self.classifier.flops(answers))


@dataclass(frozen=True)
class Scores:
    """A scorer; ``higher_is_better``: its direction. A panel's utility is in units of the score."""

    scorer: AnswerScorer
    higher_is_better: bool

    @property
    def name(self) -> str:
        """The scorer's name."""
        return self.scorer.name

    def losses(self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str] = ()) -> Losses:
        """The scores, with the sign by which less is better."""
        found = self.scorer(prompts, answers, references)
        return [None if score is None else -score if self.higher_is_better else score for score in found]

    def raw(self, prompts: Sequence[str], answers: Sequence[str]) -> Losses:
        """The scores."""
        return self.scorer(prompts, answers)

    def utilities(self, losses: Floats) -> Floats:
        """The scores, with the sign by which more is better."""
        return -losses

    def flops(self, prompts: Sequence[str], answers: Sequence[str]) -> int:
        """FLOPs of the scorer; 0 for a function without a network."""
        return self.scorer.flops(prompts, answers)


Scoring = Offence | Scores  # annotators and judges that score single answers


def unscored(losses: Losses) -> dict[str, int]:
    """The number of answers without a score, for a record; empty if all have one."""
    missing = losses.count(None)
    return {"unscored": missing, "answers": len(losses)} if missing else {}


def why_none(opinion: Opinion, losses: Losses, margin: float) -> str:
    """Why no two answers of the SFT base got a verdict, in a line."""
    if not isinstance(opinion, Scores):
        return f"the annotator's scores of no two answers differ by more than {margin}; lower task.feedback.margin"
    different, answers = {loss for loss in losses if loss is not None}, f"{len(losses):,} answers of the SFT base"
    nothing = "so there is nothing to learn from: choose another scorer or base"
    if not different:
        return f"{opinion.name} gives a score to none of {answers}, {nothing}"
    if len(different) > 1:
        return (
            f"{opinion.name}: the scores of no two answers to one prompt differ by more than {margin}, of {answers}; lower "
            "task.feedback.margin or raise task.feedback.draws"
        )
    if opinion.scorer.bounds != (0.0, 1.0) or different & {0.0, -1.0, 1.0} != different:
        return f"{opinion.name} gives all of {answers} one score, {nothing}"
    return f"of {answers} {'none fulfils' if different == {0.0} else 'every one fulfils'} {opinion.name}, {nothing}"
