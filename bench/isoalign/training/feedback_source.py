"""Where a training run gets its feedback: the interface between a session and the stages that produce feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from isoalign.core.batches import Prompts
from isoalign.data.preferences import Feedback, UnpairedFeedback
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models.language import LanguageModel
from isoalign.models.reward import Rewarder


class ScoringJudge(Protocol):
    """An AI judge that scores single answers."""

    def __call__(self, texts: list[str], prompts: list[str]) -> Tensor:
        """P(acceptable) of each text [B], an answer to the prompt beside it."""
        ...

    def flops(self, texts: list[str]) -> int:
        """Cost of reading the texts, in FLOPs."""
        ...


class FeedbackSource(Protocol):
    """Prompts, verdicts, reward models and judges of one training run.

    ``round``: the number of the feedback round, 0 for the feedback that all methods share. A call may take minutes, while what
    it returns is produced; a session stops its clock meanwhile.
    """

    round: int

    def round_due(self, fraction: float) -> bool:
        """Whether the next feedback round begins at this spent fraction of the budget."""
        ...

    def begin_round(self, policy: LanguageModel) -> None:
        """Sample completions of the policy; from now on, feedback includes verdicts on them."""
        ...

    def prompts(self) -> Prompts:
        """The training prompts."""
        ...

    def feedback(self, labelled_by: str) -> Feedback:
        """Preference pairs by ``annotator`` or ``judge``, of all rounds so far."""
        ...

    def unpaired(self) -> UnpairedFeedback | None:
        """Human binary feedback on single answers; None unless the task has a file of it."""
        ...

    def revisions(self) -> Feedback:
        """Answers of the SFT base and their revisions by the task's constitution."""
        ...

    def reward(self, labelled_by: str) -> Rewarder:
        """The reward model of this round."""
        ...

    def teacher(self) -> LanguageModel:
        """The frozen language model that the task names as its teacher, which reads and writes the policy's tokens."""
        ...

    def prompt_texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """What prompts of these tokens say, as a judge reads them: a conversation with its roles, not the model's template."""
        ...

    def comparing_judge(self) -> Judge | None:
        """The AI judge that compares two answers; None if the task's judge scores single ones."""
        ...

    def scoring_judge(self) -> ScoringJudge:
        """The AI judge that scores single answers."""
        ...
