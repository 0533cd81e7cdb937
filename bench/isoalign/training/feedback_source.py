"""What a training run draws feedback from: the interface between a session and the stages that make feedback."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from isoalign.core.batches import Prompts
from isoalign.data.preferences import Feedback, UnpairedFeedback
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models.language import LanguageModel
from isoalign.models.reward import Rewarder


class ScoringJudge(Protocol):
    """An AI judge that reads single answers."""

    def __call__(self, texts: list[str]) -> Tensor:
        """P(acceptable) of each text [B]."""
        ...

    def flops(self, texts: list[str]) -> int:
        """Price of reading the texts, in FLOPs."""
        ...


class FeedbackSource(Protocol):
    """Prompts, verdicts, reward models and judges of one training run.

    ``round``: how often feedback was gathered anew, 0 with the feedback that all methods share. Making what is asked for may
    take minutes; a session stops its clock meanwhile.
    """

    round: int

    def round_due(self, fraction: float) -> bool:
        """Whether enough of the budget is spent, of 1, for the next feedback round."""
        ...

    def begin_round(self, policy: LanguageModel) -> None:
        """Sample the policy's completions, and go on with verdicts on them too."""
        ...

    def prompts(self) -> Prompts:
        """The training prompts."""
        ...

    def feedback(self, labelled_by: str) -> Feedback:
        """Preference pairs by ``annotator`` or ``judge``, of all rounds so far."""
        ...

    def unpaired(self) -> UnpairedFeedback | None:
        """People's binary feedback on single answers, where the task has a file of it."""
        ...

    def revisions(self) -> Feedback:
        """Answers of the base and their revisions by the task's constitution."""
        ...

    def reward(self, labelled_by: str) -> Rewarder:
        """The reward model of this round."""
        ...

    def comparing_judge(self) -> Judge | None:
        """The AI judge that compares two answers; None where it scores single ones."""
        ...

    def scoring_judge(self) -> ScoringJudge:
        """The AI judge that scores single answers."""
        ...
