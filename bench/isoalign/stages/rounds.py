"""The outer loop of RLHF: along the budget the policy answers again, its answers are judged, and what follows learns of both.

Round 0 is the feedback that all methods share. Where a further share of the budget is spent, the next round begins: the
policy as it is then answers the training prompts, annotator and judge say what they prefer, and reward models are trained
anew on the verdicts of all rounds. Verdicts are paid when they are first read and reward models when they are first asked,
as in round 0. (Stiennon et al. 2020, arXiv:2009.01325, section 3.2; Bai et al. 2022, arXiv:2204.05862, section 4.5.)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isoalign.core.batches import Prompts
from isoalign.core.store import plain
from isoalign.data.preferences import Feedback, UnpairedFeedback, join_feedback
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models.language import LanguageModel
from isoalign.models.reward import Rewarder, Shaped
from isoalign.stages import candidates
from isoalign.stages.pairs import NoVerdict

if TYPE_CHECKING:
    from isoalign.stages.shared import ClassifierJudge, SharedStages


class FeedbackRounds:
    """What ``SharedStages`` hands a lab, with later rounds' feedback beside it. ``folder`` keeps what the rounds made: it
    belongs to one training run, and what is there is not made twice."""

    def __init__(self, shared: SharedStages, folder: Path) -> None:
        self.shared, self.folder, self.config = shared, folder, shared.task.rounds
        self.round = 0
        self._rewards: dict[tuple[str, int], Rewarder] = {}
        self._verdicts: dict[tuple[str, int], Feedback] = {}

    def round_due(self, fraction: float) -> bool:
        """Whether enough of the budget is spent, of 1, for the next round."""
        return self.round + 1 < self.config.count and fraction >= (self.round + 1) / self.config.count

    def begin_round(self, policy: LanguageModel) -> None:
        """Let the policy answer the training prompts, and go on with its answers."""
        task, number = self.shared.task, self.round + 1

        def make(work: Path) -> None:
            asked = replace(task.prompts, train=self.config.prompts) if self.config.prompts else task.prompts
            seed = task.seed + number
            candidates.make(work, policy, task.model, asked, "train", task.feedback.draws, seed)

        self._made(number, "candidates", make)
        self.round = number

    # -- what the lab asks for ------------------------------------------------------------------------------------

    def prompts(self) -> Prompts:
        """The training prompts, the same in every round."""
        return self.shared.prompts()

    def unpaired(self) -> UnpairedFeedback | None:
        """People's binary feedback on single answers, if the task has a file of it."""
        return self.shared.unpaired()

    def revisions(self) -> Feedback:
        """The base's answers and their revisions, the same in every round."""
        return self.shared.revisions()

    def comparing_judge(self) -> Judge | None:
        """The AI judge that compares answers, if the task has one."""
        return self.shared.comparing_judge()

    def scoring_judge(self) -> ClassifierJudge:
        """The AI judge, the same in every round."""
        return self.shared.scoring_judge()

    def feedback(self, labelled_by: str) -> Feedback:
        """The verdicts of all rounds so far, the earliest first."""
        place = (labelled_by, self.round)
        if place not in self._verdicts:
            later = [self._pairs(labelled_by, number) for number in range(1, self.round + 1)]
            told = [Feedback.read(folder) for folder in later if (folder / "pairs.jsonl").exists()]
            self._verdicts = {place: join_feedback([self.shared.feedback(labelled_by), *told])}
        return self._verdicts[place]

    def reward(self, labelled_by: str) -> Rewarder:
        """The reward model of this round."""
        if not self.round:
            return self.shared.reward(labelled_by)
        place = (labelled_by, self.round)
        if place not in self._rewards:
            self._rewards = {place: self._reward(labelled_by)}  # those of earlier rounds are not asked again
        return self._rewards[place]

    def _reward(self, labelled_by: str) -> Rewarder:
        def train(member: int) -> Callable[[Path], None]:
            return lambda work: self.shared.train_reward(work, self.feedback(labelled_by), member)

        count = self.shared.task.shaping.members
        folders = [self._made(self.round, f"reward-{labelled_by}-{member}", train(member)) for member in range(count)]
        members = [self.shared.load_reward(folder) for folder in folders]
        return Shaped(members, self.shared.task.shaping) if plain(self.shared.task.shaping) else members[0]

    def _pairs(self, labelled_by: str, number: int) -> Path:
        task = self.shared.task

        def make(work: Path) -> None:
            answers = self.folder / str(number) / "candidates"
            with suppress(NoVerdict):  # of a policy whose answers are all alike: the verdicts so far must do
                self.shared.judge_pairs(work, answers, labelled_by, task.seed + number)

        return self._made(number, f"pairs-{labelled_by}", make)

    def _made(self, number: int, name: str, make: Callable[[Path], None]) -> Path:
        """A folder of a round, made in one rename under a random state of its own."""
        final = self.folder / str(number) / name
        if not final.is_dir():
            work = final.with_name(f".work-{name}")
            shutil.rmtree(work, ignore_errors=True)  # what a kill left behind; the training's own lock keeps others out
            work.mkdir(parents=True)
            try:
                with torch.enable_grad(), torch.random.fork_rng(devices=[]):
                    make(work)
                work.rename(final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return final
