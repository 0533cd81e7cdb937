"""The outputs of a task's shared stages, loaded when first needed; used by all methods, seeds and parallel jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from isoalign.config import known
from isoalign.core.batches import Prompts
from isoalign.core.devices import device
from isoalign.core.errors import UserError
from isoalign.core.store import recipe_fields
from isoalign.data import prompts
from isoalign.data.preferences import Feedback, UnpairedFeedback
from isoalign.data.prompts import as_text
from isoalign.models import loading
from isoalign.models.known_reward import KnownReward
from isoalign.models.language import LanguageModel
from isoalign.models.reward import HeadReward, Rewarder, Shaped
from isoalign.stages import pairs
from isoalign.stages.cutting import encode_prompts
from isoalign.stages.graph import StageGraph
from isoalign.stages.opinions import Offence, Opinion, Scores
from isoalign.stages.teacher import require_teacher


class OpinionJudge:
    """A judge that scores single answers, as a `ScoringJudge`."""

    def __init__(self, opinion: Opinion) -> None:
        self.opinion, self.unscored = opinion, 0  # texts so far without a score

    def __call__(self, texts: list[str], prompts: list[str]) -> torch.Tensor:
        """P(acceptable) [B]; of a scorer the place of the score between its bounds, 1/2 without a score."""
        losses = self.opinion.losses(prompts, texts, [""] * len(texts))
        if not isinstance(self.opinion, Scores):
            return 1 - torch.tensor(losses, dtype=torch.float32)
        self.unscored += losses.count(None)
        low, high = self.opinion.scorer.bounds
        if low is None or high is None:
            raise UserError(
                f"the scores of the judge {self.opinion.name} have no bounds, so they are no probability; set "
                "algorithm.mode=canonical"
            )
        worst = -low if self.opinion.higher_is_better else high
        return torch.tensor([0.5 if loss is None else (worst - loss) / (high - low) for loss in losses], dtype=torch.float32)

    def flops(self, texts: list[str]) -> int:
        """Cost of reading the texts, in FLOPs."""
        return self.opinion.flops([""] * len(texts), texts)


class ClassifierJudge(OpinionJudge):
    """The classifier of toxicity as a judge. ``folder``: of the annotators' stage."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Offence("judge", pairs.classifier_of(folder, "judge")))


class SharedStages(StageGraph):
    """Prompts, feedback, reward models and judges of a task."""

    def prompts(self) -> Prompts:
        """The training prompts, tokenised."""
        return self.cached("prompts", self._encode)

    def _encode(self) -> Prompts:
        tokenizer, chosen = loading.task_tokenizer(self.task.model), prompts.load_split(self.task.prompts, "train")
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
        source = json.loads((folder / "record.json").read_text())["source"]
        if task.known_reward and source == pairs.SOURCES["annotator"]:
            return KnownReward(folder, task.model.name, self.known_function(), normalise)
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

    def teacher(self) -> LanguageModel:
        """The task's teacher, frozen. Raises UserError if the task names none."""
        model, tokenizer = loading.load_model(require_teacher(self.task), dtype=self.task.model.frozen)
        return self.language_model(model, tokenizer, self.task.model.precision)

    def check_pairs(self, wanted: str) -> None:
        """Raises UserError if human feedback is unpaired: ``wanted`` would come from the simulated annotator instead."""
        if self.unpaired_stage:
            raise UserError(known.unpaired(self.task.feedback.file, wanted))

    def check_fits(self, labelled_by: str) -> None:
        """Raises UserError if nothing is to be learned from an annotator or judge, who knows toxicity alone."""
        if why := known.misfit(self.task, labelled_by):
            raise UserError(why)

    def check_reward_fits(self, labelled_by: str) -> None:
        """The same for a reward model that is trained on their verdicts, or is the annotator's own classifier."""
        self.check_fits("reward")
        if not self.task.reward.model and not self.task.reward.classifier.startswith("hf:"):
            self.check_fits(labelled_by)

    def check_scoring_judge(self) -> None:
        """Raises UserError if the task's judge compares answers."""
        if self.task.judge.compares:
            raise UserError(
                f"a {self.task.judge.kind} judge compares answers and cannot score single ones; set algorithm.mode=canonical"
            )

    def scoring_judge(self) -> OpinionJudge:
        """The AI judge that scores single answers, loaded."""
        self.check_scoring_judge()
        return self.cached("judge", lambda: OpinionJudge(self.opinion("judge")))

    def prompt_texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """What prompts of these tokens say, as the judge of completions reads them."""
        return [as_text(self.asked(each)) for each in ids]

    def unread(self, read: Iterable[str]) -> list[str]:
        """Keys of the feedback and the reward models of those sources that none of the names of what was read has in it."""
        others = [by for by in pairs.SOURCES if not any(by in name for name in read)]
        return [stage.key for by in others for stage in [self.pairs(by), *self.reward_models(by).values()]]
