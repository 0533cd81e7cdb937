"""Feedback rounds, the outer loop of RLHF: during training, completions of the current policy are sampled and judged.

Round 0 is the feedback that all methods share. Whenever a further share of the budget is spent, the next round begins: the
current policy answers the training prompts, annotator and judge compare its answers, and reward models are trained again, on
the verdicts of all rounds. Verdicts are charged when first read and reward models when first used, as in round 0. (Stiennon et
al. 2020, arXiv:2009.01325, section 3.2; Bai et al. 2022, arXiv:2204.05862, section 4.5.)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isoalign.core import world
from isoalign.core.batches import Prompts
from isoalign.core.files import flush
from isoalign.core.randomness import own_random_state
from isoalign.core.store import recipe_fields
from isoalign.data.preferences import Feedback, UnpairedFeedback, join_feedback
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models.language import LanguageModel
from isoalign.models.reward import Rewarder, Shaped
from isoalign.stages import completions
from isoalign.stages.pairs import NoVerdict

if TYPE_CHECKING:
    from isoalign.stages.shared import OpinionJudge, SharedStages


class FeedbackRounds:
    """The feedback source of one training run: ``SharedStages``, and the feedback of later rounds. ``folder`` holds the
    outputs of the rounds; what exists there is not made again."""

    def __init__(self, shared: SharedStages, folder: Path) -> None:
        self.shared, self.folder, self.config = shared, folder, shared.task.rounds
        self.round = 0
        self._rewards: dict[tuple[str, int], Rewarder] = {}
        self._verdicts: dict[tuple[str, int], Feedback] = {}
        self._teacher: LanguageModel | None = None

    def round_due(self, fraction: float) -> bool:
        """Whether the next round begins at this spent fraction of the budget."""
        return self.round + 1 < self.config.count and fraction >= (self.round + 1) / self.config.count

    def begin_round(self, policy: LanguageModel) -> None:
        """Sample the policy's answers to the training prompts; from now on, feedback includes verdicts on them."""
        task, number = self.shared.task, self.round + 1

        def make(work: Path) -> None:
            prompts = replace(task.prompts, train=self.config.prompts) if self.config.prompts else task.prompts
            seed = task.seed + number
            completions.make_completions(work, policy, task.model, prompts, "train", task.feedback.draws, seed)

        self._get(number, "completions", make)
        self.round = number

    # -- the feedback source --------------------------------------------------------------------------------------

    def prompts(self) -> Prompts:
        """The training prompts, the same in every round."""
        return self.shared.prompts()

    def unpaired(self) -> UnpairedFeedback | None:
        """Human binary feedback on single answers, if the task has a file of it."""
        return self.shared.unpaired()

    def revisions(self) -> Feedback:
        """The SFT base's answers and their revisions, the same in every round."""
        return self.shared.revisions()

    def teacher(self) -> LanguageModel:
        """The task's teacher, loaded once; it goes when the run ends."""
        self._teacher = self._teacher or self.shared.teacher()
        return self._teacher

    def prompt_texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """What prompts of these tokens say."""
        return self.shared.prompt_texts(ids)

    def comparing_judge(self) -> Judge | None:
        """The AI judge that compares answers, if the task has one. Raises UserError if it is asked for another objective."""
        self.shared.check_fits("judge")
        return self.shared.comparing_judge()

    def scoring_judge(self) -> OpinionJudge:
        """The AI judge that scores single answers, the same in every round."""
        self.shared.check_fits("judge")
        return self.shared.scoring_judge()

    def feedback(self, labelled_by: str) -> Feedback:
        """The verdicts of all rounds so far, the earliest first. Raises UserError if they are not of the objective."""
        self.shared.check_fits(labelled_by)
        return self._feedback(labelled_by)

    def _feedback(self, labelled_by: str) -> Feedback:
        key = (labelled_by, self.round)
        if key not in self._verdicts:
            folders = [self._pairs(labelled_by, number) for number in range(1, self.round + 1)]
            later_rounds = [Feedback.read(folder) for folder in folders if (folder / "pairs.jsonl").exists()]
            self._verdicts = {key: join_feedback([self.shared.feedback(labelled_by), *later_rounds])}
        return self._verdicts[key]

    def reward(self, labelled_by: str) -> Rewarder:
        """The reward model of this round. Raises UserError if its verdicts are not of the objective."""
        self.shared.check_reward_fits(labelled_by)
        if not self.round:
            return self.shared.reward(labelled_by)
        key = (labelled_by, self.round)
        if key not in self._rewards:
            self._rewards = {key: self._reward(labelled_by)}  # those of earlier rounds are not used again
        return self._rewards[key]

    def _reward(self, labelled_by: str) -> Rewarder:
        def train(member: int) -> Callable[[Path], None]:
            return lambda work: self.shared.train_reward(work, self._feedback(labelled_by), member)

        count = self.shared.task.shaping.members
        folders = [self._get(self.round, f"reward-{labelled_by}-{member}", train(member)) for member in range(count)]
        members = [self.shared.load_reward(folder) for folder in folders]
        return Shaped(members, self.shared.task.shaping) if recipe_fields(self.shared.task.shaping) else members[0]

    def _pairs(self, labelled_by: str, number: int) -> Path:
        task = self.shared.task

        def make(work: Path) -> None:
            answers = self.folder / str(number) / "completions"
            with suppress(NoVerdict):  # the policy's answers may all be the same: use the verdicts so far
                self.shared.judge_pairs(work, answers, labelled_by, task.seed + number)

        return self._get(number, f"pairs-{labelled_by}", make)

    def _get(self, number: int, name: str, make: Callable[[Path], None]) -> Path:
        """A folder of a round, made atomically if missing; of several processes the first one makes it. The run's random state
        does not change."""
        final = self.folder / str(number) / name
        what = f"round {number} {name}"
        if world.rank():
            world.heard(what, until=final.is_dir)
            return final
        with world.telling(what), world.alone():
            return self._made(final, make)

    def _made(self, final: Path, make: Callable[[Path], None]) -> Path:
        if not final.is_dir():
            work = final.with_name(f".work-{final.name}")
            shutil.rmtree(work, ignore_errors=True)  # left by a killed run; the lock of the train stage keeps others out
            work.mkdir(parents=True)
            try:
                with torch.enable_grad(), own_random_state():
                    make(work)
                flush(*work.rglob("*"), work)  # a checkpoint that is flushed counts on it
                work.rename(final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return final
