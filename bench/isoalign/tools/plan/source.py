"""The feedback source of a plan: what the store holds already, and else feedback of planned numbers and lengths."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from isoalign.config.evaluation import REWARD, scorer_source
from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.core.records import Question
from isoalign.data import prompts
from isoalign.data.preferences import Feedback, UnpairedFeedback
from isoalign.feedback.constitution import PrincipledJudge
from isoalign.feedback.judges.lm import LMJudge
from isoalign.feedback.judges.verdicts import Judge
from isoalign.feedback.judges.writer import LMWriter
from isoalign.models import loading, tokens
from isoalign.models.flops import Shape
from isoalign.models.language import LanguageModel
from isoalign.models.reward import Retokenizer
from isoalign.stages import pairs, revisions
from isoalign.stages.completions import completion_ids
from isoalign.stages.cutting import Cutter, encode_prompts
from isoalign.stages.reward import WHITENED, chosen_verdicts, token_rows, training_flops
from isoalign.stages.shared import SharedStages
from isoalign.stages.stage import Stage
from isoalign.stages.teacher import require_teacher
from isoalign.tools.plan.feedback import PlannedReward, PlannedScores, PlannedServer
from isoalign.tools.plan.models import PlannedModel, language_model, reward_shapes

VERDICTS = 0.2  # share of the pairs of answers that get a verdict: .22 and .24 on nano, .13 and .16 on smol
FEATURES = 230  # of a text, that the classifier of the judge reads: models/classifiers.py
ASKED = 32  # questions by which a judge's price is estimated, and answers by which a critic's is


class PlannedSource:
    """Prompts, verdicts, reward models and judges with the numbers, lengths and prices that they will have.

    ``answer``: tokens of an answer. ``share``: of the pairs of answers that get a verdict. ``notes``: what is assumed.
    """

    round = 0

    def __init__(self, shared: SharedStages, tokenizer: Any, shape: Shape, policy: PlannedModel, share: float) -> None:
        self.shared, self.task, self.tokenizer, self.shape, self.policy = shared, shared.task, tokenizer, shape, policy
        self.share, self.notes = share, dict[str, None]()
        self._cache: dict[str, Any] = {}

    # -- rounds -------------------------------------------------------------------------------------------------------

    def round_due(self, fraction: float) -> bool:
        """Whether the next feedback round begins."""
        count = self.task.rounds.count
        return self.round + 1 < count and fraction >= (self.round + 1) / count

    def begin_round(self, policy: LanguageModel) -> None:
        """From now on, feedback includes that of one more round."""
        self.round += 1

    # -- prompts ------------------------------------------------------------------------------------------------------

    def prompts(self) -> Prompts:
        """The training prompts; of the greatest length where their data is not at hand."""
        return self.encoded("train")

    def encoded(self, split: str) -> Prompts:
        """The prompts of a split, tokenised."""
        return self._once(f"prompts-{split}", lambda: self._encode(split))

    def _encode(self, split: str) -> Prompts:
        config = self.task.prompts
        if folder := self._made(f"completions-{split}", lambda: self.shared.completions(split)):
            ids = [row["prompt_ids"] for row in read_rows(folder / "answers.jsonl")]
            return tokens.left_padded(ids, int(self.tokenizer.pad_token_id))
        try:
            return encode_prompts(self.tokenizer, prompts.load_split(config, split), self.task.model)
        except (UserError, AttributeError):
            count, width = getattr(config, split) or 1000, self.task.model.prompt_tokens
            self.notes[f"prompts have {width} tokens each, the most that the task allows: their data is not at hand"] = None
            row = torch.ones(1, width, dtype=torch.long)
            return Prompts(row.expand(count, -1), row.bool().expand(count, -1), torch.arange(count))

    # -- verdicts -----------------------------------------------------------------------------------------------------

    def feedback(self, labelled_by: str) -> Feedback:
        """Preference pairs: those of the store, or planned ones."""
        self.shared.check_fits(labelled_by)
        return self._once(f"feedback-{labelled_by}-{self.round}", lambda: self._feedback(labelled_by))

    def _feedback(self, labelled_by: str) -> Feedback:
        if not self.round and (folder := self._made(f"pairs-{labelled_by}", lambda: self.shared.pairs(labelled_by))):
            return Feedback.read(folder)
        task, source = self.task, pairs.SOURCES[labelled_by]
        asked = self.prompts()
        if labelled_by == "annotator" and task.feedback.file:
            self.notes[f"{len(asked):,} verdicts in {task.feedback.file}, a pair for each training prompt"] = None
            return self._pairs(range(len(asked)), "human", {})
        possible = len(asked) * task.feedback.draws * (task.feedback.draws - 1) // 2
        if labelled_by == "judge" and task.judge.compares and task.feedback.judge_questions:
            possible = min(possible, task.feedback.judge_questions)
        count = max(1, round(self.share * possible))
        self.notes[f"{self.share:.0%} of the pairs of answers get a verdict"] = None
        price = {"feedback": self.completions("train") // count}
        if judging := self._judging(labelled_by, len(asked) * task.feedback.draws, possible):
            price["judge"] = judging // count
        places = [place * len(asked) // count for place in range(count)]
        return self._pairs([place for _ in range(self.round + 1) for place in places], source, price)

    def _pairs(self, places: Sequence[int], source: str, price: dict[str, int]) -> Feedback:
        ids = self._ids(self.prompts())
        answer = self.policy.written(1, self.policy.answer)[0].tolist()
        rows: list[dict[str, Any]] = [{} for _ in places]
        return Feedback([ids[place] for place in places], [answer] * len(rows), [answer] * len(rows), rows, source, price)

    def completions(self, split: str) -> int:
        """FLOPs of the completions to be judged."""
        if folder := self._made(f"completions-{split}", lambda: self.shared.completions(split)):
            return int(json.loads((folder / "record.json").read_text())["flops"])
        lengths, draws = self.encoded(split).lengths().tolist(), self.task.feedback.draws
        contexts = [length for length in lengths for _ in range(draws)]
        return self.shape.prefill(lengths) + self.shape.decode(contexts, [self.policy.answer] * len(contexts))

    def _judging(self, labelled_by: str, answers: int, questions: int) -> int:
        """FLOPs of all verdicts; 0 for the simulated annotator, which costs nothing."""
        if name := self.task.scored_by(labelled_by):
            return self.scorer_price(name)(answers)
        if labelled_by == "annotator":
            return 0
        judge = self.comparing_judge()
        if judge is None:
            return 2 * FEATURES * answers
        texts = self.prompt_texts(self._ids(self.prompts())[:ASKED])
        answer = self.tokenizer.decode(self.policy.written(1, self.policy.answer)[0].tolist())
        verdicts = judge([Question(text, answer, answer + ".") for text in texts])
        return questions * sum(verdict.flops or 0 for verdict in verdicts) // len(verdicts)

    def unpaired(self) -> UnpairedFeedback | None:
        """Human labels of single answers, if the store holds them already."""
        folder = self._made("unpaired", lambda: self.shared.unpaired_stage)
        return self._once("unpaired", lambda: UnpairedFeedback.read(folder)) if folder else None

    # -- revisions ----------------------------------------------------------------------------------------------------

    def revisions(self) -> Feedback:
        """Answers and their revisions: those of the store, or some that are made by the stage's own code."""
        return self._once("revisions", self._revise)

    def _revise(self) -> Feedback:
        stage = self.shared.revisions_stage
        if folder := self._made("revisions", lambda: stage):
            return Feedback.read(folder)
        config, principles = self.task.constitution, self.shared.constitution
        assert principles is not None
        self.notes["every revision is usable"] = None
        model = self._writer(config.model) if config.model else self.policy
        asked = prompts.load_split(self.task.prompts, "train")
        answers = self.policy.generate(self.prompts(), torch.zeros(len(asked), self.task.model.new_tokens))
        ids, contexts = completion_ids(answers), self._ids(self.prompts())
        rows = [
            prompt.row() | {"prompt_ids": context, "answers": ["..."], "answer_ids": [answer]}
            for prompt, context, answer in zip(asked, contexts, ids, strict=True)
        ]
        with tempfile.TemporaryDirectory() as work:
            write_rows(Path(work) / "answers.jsonl", rows)
            revisions.make_revisions(
                Path(work), Path(work), self.shape, Cutter(self.tokenizer, self.task.model),
                LMWriter("the critic", model, config.tokens), principles, config.prompts, self.task.seed,
            )  # fmt: skip
            return Feedback.read(Path(work))

    def teacher(self) -> PlannedModel:
        """The task's teacher, which writes as long answers as the policy."""
        name = require_teacher(self.task)

        def load() -> PlannedModel:
            return PlannedModel(
                language_model(name), self.tokenizer, self.policy.ends, self.policy.answer,
                self.policy.filler.tolist(),
            )  # fmt: skip

        return self._once("teacher", load)

    # -- rewards and judges -------------------------------------------------------------------------------------------

    def reward(self, labelled_by: str) -> PlannedReward:
        """The reward model of this round."""
        self.shared.check_reward_fits(labelled_by)
        return self._once(f"reward-{labelled_by}-{self.round}", lambda: self._reward(labelled_by))

    def _reward(self, labelled_by: str) -> PlannedReward:
        task, config, feedback = self.task, self.task.reward, self.feedback(labelled_by)
        untrained = config.classifier or config.model or (task.scored_by(labelled_by) if task.known_reward else "")
        if untrained:
            each = self.scorer_price("" if untrained == "annotator" else untrained)
            whitened = each(2 * min(WHITENED, len(feedback)))
            return PlannedReward(lambda rollouts: each(len(rollouts)), [("reward", "forward", whitened)], {})
        trained, scoring = reward_shapes(config.base or task.model.name, task.model.lora)
        other = self._retokenizer(config.base)
        read = chosen_verdicts(feedback, config, task.seed)
        rows = token_rows(feedback, read, other)
        flops = training_flops(trained, rows, list(range(len(rows))) * config.epochs)
        members = task.shaping.members
        bill = [("reward", kind, amount * members) for kind, amount in flops.items()]

        def price(rollouts: Rollouts) -> int:
            lengths = (other.rollouts(rollouts) if other else rollouts).mask.sum(1).tolist()
            return members * scoring.forward(lengths, [0] * len(lengths))

        return PlannedReward(price, bill, {feedback.source: read})

    def _retokenizer(self, base: str) -> Retokenizer | None:
        if not base:
            return None
        try:
            return Retokenizer(self.tokenizer, loading.load_tokenizer(base))
        except (UserError, AttributeError):
            self.notes[f"{base} makes as many tokens of a text as the policy: a tokenizer is not at hand"] = None
            return None

    def scorer_price(self, name: str) -> Callable[[int], int]:
        """FLOPs of scoring a number of answers by a scorer: by the shape of its network, 0 without one."""
        source = scorer_source(name)
        if not source:
            return lambda count: 2 * FEATURES * count * (not name)
        whole = name.startswith(REWARD)
        length = self.policy.answer + (int(self.prompts().lengths().double().mean()) if whole else 0)
        shape = self._once(f"scorer-{source}", lambda: reward_shapes(source)[1])
        self.notes[f"{source} reads as many tokens as the policy writes"] = None
        return lambda count: int(shape.forward([length] * count, [0] * count))

    def prompt_texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """What the policy reads."""
        return [str(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def comparing_judge(self) -> Judge | None:
        """The AI judge that compares two answers."""
        config = self.task.judge
        if not config.compares:
            return None

        def load() -> Judge:
            if config.kind != "lm":
                self.notes["the FLOPs of a judge behind a server are not known"] = None
                return PlannedServer()
            judge = LMJudge(config, self._writer(config.model), quiet=True)
            return PrincipledJudge(judge, self.shared.constitution, self.task.seed) if self.shared.constitution else judge

        return self._once("judge", load)

    def scoring_judge(self) -> PlannedScores:
        """The AI judge that scores single answers."""
        return PlannedScores(self.scorer_price(self.task.scored_by("judge")))

    def _writer(self, name: str) -> PlannedModel:
        """A language model that judges or writes."""
        return PlannedModel(language_model(name), loading.load_tokenizer(name), True, self.task.judge.thought, [0])

    # -- helpers ------------------------------------------------------------------------------------------------------

    @cached_property
    def mean_answer(self) -> float | None:
        """The mean length of the base's completions, in tokens; None unless the store has them."""
        folder = self._made("completions-train", lambda: self.shared.completions("train"))
        lengths = [len(ids) for row in read_rows(folder / "answers.jsonl") for ids in row["answer_ids"]] if folder else []
        return sum(lengths) / len(lengths) if lengths else None

    def _made(self, name: str, stage: Callable[[], Stage | None]) -> Path | None:
        """The folder of a stage that the store has, looked for once; None too where its key can't be known."""
        return self._once(f"made-{name}", lambda: self._folder(stage))

    def _folder(self, stage: Callable[[], Stage | None]) -> Path | None:
        try:
            found = stage()
        except UserError:
            return None
        return self.shared.store.path(found.name, found.key) if found and self.shared.has(found) else None

    @staticmethod
    def _ids(asked: Prompts) -> list[list[int]]:
        if asked.tokens.stride(0) == 0:  # all are the same
            return [asked.tokens[0].tolist()] * len(asked)
        return [ids[mask].tolist() for ids, mask in zip(asked.tokens, asked.mask, strict=True)]

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]
