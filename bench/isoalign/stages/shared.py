"""The outputs of a task's shared stages, loaded when first needed; used by all methods, seeds and parallel jobs."""

from __future__ import annotations

from pathlib import Path

import torch

from isoalign.core.batches import Prompts
from isoalign.core.devices import device
from isoalign.core.errors import UserError
from isoalign.core.store import recipe_fields
from isoalign.data import prompts
from isoalign.data.preferences import Feedback, UnpairedFeedback
from isoalign.models import loading
from isoalign.models.reward import HeadReward, Rewarder, Shaped
from isoalign.stages import pairs
from isoalign.stages.cutting import encode_prompts
from isoalign.stages.graph import StageGraph


class ClassifierJudge:
    """The classifier judge, as a `ScoringJudge`."""

    def __init__(self, folder: Path) -> None:
        self.annotator = pairs.classifier_of(folder, "judge")

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """P(acceptable) [B]."""
        return 1 - torch.as_tensor(self.annotator(texts), dtype=torch.float32)

    def flops(self, texts: list[str]) -> int:
        """Cost of reading the texts, in FLOPs."""
        return int(self.annotator.flops(texts))


class SharedStages(StageGraph):
    """Prompts, feedback, reward models and judges of a task."""

    def prompts(self) -> Prompts:
        """The training prompts, tokenised."""
        return self.cached("prompts", self._encode)

    def _encode(self) -> Prompts:
        tokenizer, chosen = loading.load_tokenizer(self.task.model.name), prompts.load_split(self.task.prompts, "train")
        return encode_prompts(tokenizer, chosen, self.task.model)

    def feedback(self, labelled_by: str) -> Feedback:
        """The training pairs."""
        return self.cached(f"feedback-{labelled_by}", lambda: Feedback.read(self.get(self.pairs(labelled_by))))

    def reward(self, labelled_by: str) -> Rewarder:
        """The reward model, or ensemble, loaded."""

        def load() -> Rewarder:
            members = [self.load_reward(self.get(stage)) for stage in self.reward_models(labelled_by).values()]
            return Shaped(members, self.task.shaping) if recipe_fields(self.task.shaping) else members[0]

        rewarder: Rewarder = self.cached(f"reward-{labelled_by}", load)
        return rewarder

    def load_reward(self, folder: Path) -> Rewarder:
        """A reward model, loaded."""
        task, normalise = self.task, self.task.shaping.normalise
        if task.reward.classifier:
            return self.classifier_reward(folder)
        if task.reward.model:
            return self.own_reward(folder)
        return HeadReward(folder, task.model, task.reward.base, device(), normalise)

    def unpaired(self) -> UnpairedFeedback | None:
        """Human binary feedback on single answers, if the task has a file of it."""
        stage = self.unpaired_stage
        unpaired: UnpairedFeedback | None = self.cached(
            "unpaired", lambda: UnpairedFeedback.read(self.get(stage)) if stage else None
        )
        return unpaired

    def revisions(self) -> Feedback:
        """Answers and their revisions."""
        feedback: Feedback = self.cached("revisions", lambda: Feedback.read(self.get(self.revisions_stage)))
        return feedback

    def scoring_judge(self) -> ClassifierJudge:
        """The AI judge that scores single answers, loaded."""
        if self.task.judge.kind != "classifier":
            raise UserError(
                f"a {self.task.judge.kind} judge compares answers and cannot score single ones; set algorithm.mode=canonical"
            )
        return self.cached("judge", lambda: ClassifierJudge(self.get(self.annotators)))
