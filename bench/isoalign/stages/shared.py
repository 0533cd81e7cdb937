"""What the shared stages of a task made, loaded when it is first asked for; used by every method, seed and parallel job."""

from __future__ import annotations

from pathlib import Path

import torch

from isoalign.core.batches import Prompts
from isoalign.core.errors import UserError
from isoalign.core.runtime import device
from isoalign.core.store import plain
from isoalign.data import prompts
from isoalign.data.preferences import Feedback, UnpairedFeedback
from isoalign.models.reward import ClassifierReward, HeadReward, Rewarder, Shaped
from isoalign.stages import pairs
from isoalign.stages.graph import StageGraph


class ClassifierJudge:
    """The classifier judge as the lab uses it."""

    def __init__(self, folder: Path) -> None:
        self.annotator = pairs.classifier_of(folder, "judge")

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """P(acceptable) [B]."""
        return 1 - torch.as_tensor(self.annotator(texts), dtype=torch.float32)

    def flops(self, texts: list[str]) -> int:
        """Price of reading the texts."""
        return int(self.annotator.flops(texts))


class SharedStages(StageGraph):
    """Prompts, feedback, reward models and judges of a task."""

    def prompts(self) -> Prompts:
        """The training prompts, tokenised."""
        return self._keep("prompts", self._encode)

    def _encode(self) -> Prompts:
        chosen = prompts.load_split(self.task.prompts, "train")
        return self.base_model().encode([p.text for p in chosen], self.task.model.prompt_tokens)

    def feedback(self, labelled_by: str) -> Feedback:
        """The training pairs."""
        return self._keep(f"feedback-{labelled_by}", lambda: Feedback.read(self.get(self.pairs(labelled_by))))

    def reward(self, labelled_by: str) -> Rewarder:
        """The reward model, or ensemble, loaded."""

        def load() -> Rewarder:
            members = [self.load_reward(self.get(stage)) for stage in self.reward_models(labelled_by).values()]
            return Shaped(members, self.task.shaping) if plain(self.task.shaping) else members[0]

        kept: Rewarder = self._keep(f"reward-{labelled_by}", load)
        return kept

    def load_reward(self, folder: Path) -> Rewarder:
        """A reward model, loaded."""
        task, normalise = self.task, self.task.shaping.normalise
        if task.reward.classifier:
            return ClassifierReward(folder, task.model, self._classifier(), normalise)
        return HeadReward(folder, task.model, task.reward.base, device(), normalise)

    def unpaired(self) -> UnpairedFeedback | None:
        """People's binary feedback on single answers, if the task has a file of it."""
        stage = self.unpaired_stage
        unpaired: UnpairedFeedback | None = self._keep(
            "unpaired", lambda: UnpairedFeedback.read(self.get(stage)) if stage else None
        )
        return unpaired

    def revisions(self) -> Feedback:
        """Answers and their revisions."""
        kept: Feedback = self._keep("revisions", lambda: Feedback.read(self.get(self.revisions_stage)))
        return kept

    def scoring_judge(self) -> ClassifierJudge:
        """The AI judge that reads single answers, loaded."""
        if self.task.judge.kind != "classifier":
            raise UserError(f"a {self.task.judge.kind} judge compares answers and scores none; set algorithm.mode=canonical")
        return self._keep("judge", lambda: ClassifierJudge(self.get(self.annotators)))
