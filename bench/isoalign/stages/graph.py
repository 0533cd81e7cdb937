"""The shared stages of a task: what each is made from, and how. Each is made once, when it is first needed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from isoalign.config.evaluation import BASE, SCORER
from isoalign.config.feedback import PanelConfig
from isoalign.core import devices, world
from isoalign.core.errors import UserError
from isoalign.core.objective import objective_recipe
from isoalign.core.peak_memory import GIB
from isoalign.data import prompts
from isoalign.data.assets import ASSETS
from isoalign.data.formats import Turns
from isoalign.data.preferences import Feedback
from isoalign.feedback import constitution, judges
from isoalign.feedback.judges.scorer import load_scorer_judge, scorer_judge_identity
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models import loading, reward_classifier, scorers
from isoalign.models.own_reward import OwnReward
from isoalign.models.reward import ClassifierReward
from isoalign.models.samplers.engine import sampler_identity
from isoalign.stages import annotators, completions, from_file, pairs, preflight, revisions, reward
from isoalign.stages.conversations import PromptTurns
from isoalign.stages.cutting import Cutter, turns_of
from isoalign.stages.models import TaskModels
from isoalign.stages.opinions import Offence, Scoring
from isoalign.stages.stage import Stage

LATER = {"train": ("validation", "test"), "validation": ("test",), "test": ()}  # splits that come after


class StageGraph(TaskModels):
    """The stages that all methods and seeds of a task share."""

    def preflight(self, lora: int, trl_loop: bool = False, sampler: str = "") -> Stage:
        """The check of everything that a run loads, before its first stage: see `make_preflight`."""
        task, evaluation = self.task, self.task.evaluation
        names = [evaluation.scorer, evaluation.second_scorer]
        recipe = {
            "version": preflight.VERSION, "model": self.model_identity, "lora": lora, "trl": trl_loop,
            "device": devices.label(), "memory": f"{devices.memory() / GIB:.0f} GiB",
            "packages": [importlib.metadata.version(name) for name in ("torch", "transformers", "peft")],
            "reward": self._reward_identity,
            "writers": [loading.weights_identity(name) for name in preflight.writers(task)],
            "scorers": self.two_opinions(*names),
            "labels": [name.partition("#")[2] for name in (*names, task.reward.classifier) if name.startswith("hf:")],
            "prompts": [self.prompt_recipe(split) for split in preflight.SPLITS], "training": task.training,
        } | objective_recipe(task.objective)  # fmt: skip
        recipe |= {"file": self._file_recipe} if task.feedback.file and preflight.own_reward_models(task) else {}
        opinions = {by: found for by in pairs.SOURCES if (found := self.scorer_recipe(by))}
        recipe |= ({"opinions": opinions} if opinions else {}) | ({"sampler": sampler_identity(sampler)} if sampler else {})
        recipe |= {"win_rate": judged} if (judged := self.win_rate_recipe) else {}
        recipe |= {"shards": world.launched()} if task.model.shard else {}
        return Stage("preflight", recipe, lambda work: preflight.make_preflight(work, task, lora, trl_loop, sampler))

    def completions(self, split: str) -> Stage:
        """Completions of the SFT model, to be judged."""
        task = self.task
        draws = task.feedback.draws
        recipe = {
            "version": completions.VERSION, "sft": self.sft.key, "prompts": self.prompt_recipe(split), "split": split,
            "draws": draws, "seed": task.seed,
        }  # fmt: skip

        def make(work: Path) -> None:
            completions.make_completions(work, self.base_model(), task.model, task.prompts, split, draws, task.seed)

        return Stage("completions", recipe, make)

    @property
    def annotators(self) -> Stage:
        """The simulated annotator and the AI judge."""
        return Stage(
            "annotators", {"version": annotators.VERSION, "data": ASSETS["comments"].sha256}, annotators.make_annotators
        )

    def pairs(self, labelled_by: str, split: str = "train") -> Stage:
        """Preference pairs by ``annotator`` or ``judge``. Those of splits other than ``train`` are held out."""
        task, answers = self.task, self.completions(split)
        if labelled_by == "annotator" and task.feedback.file and not self._is_unpaired:
            return self._human_pairs(split)
        recipe = {
            "version": pairs.VERSION, "completions": answers.key, "annotators": self.annotators.key, "config": task.feedback,
            "labelled_by": labelled_by, "seed": task.seed,
        }  # fmt: skip
        if task.scored_by(labelled_by):
            recipe |= {"annotators": self.scorer_recipe(labelled_by)}
        if labelled_by == "judge" and task.judge.compares:
            recipe |= {"judge": self.judge_identity}
        if labelled_by == "annotator" and task.panel != PanelConfig():
            recipe |= {"panel": task.panel} | ({"golden": self._golden.key} if task.panel.golden else {})
        return Stage("pairs", recipe, lambda work: self.judge_pairs(work, self.get(answers), labelled_by, task.seed))

    def judge_pairs(self, work: Path, answers: Path, labelled_by: str, seed: int) -> None:
        """Write the verdicts on answers by annotators or by the AI judge."""
        task = self.task
        if labelled_by == "judge":
            judge = self.comparing_judge() or self.opinion(labelled_by)
            pairs.make_judge_pairs(work, answers, judge, task.feedback, seed)
        else:
            golden = self.get(self._golden) if task.panel.golden else None
            pairs.make_annotator_pairs(work, answers, self.opinion(labelled_by), task.feedback, task.panel, seed, golden)

    def opinion(self, labelled_by: str) -> Scoring:
        """What the annotator, or the judge that scores single answers, thinks of them."""
        scores = self.scores_of(labelled_by)
        return scores or Offence(labelled_by, pairs.classifier_of(self.get(self.annotators), labelled_by))

    @property
    def _golden(self) -> Stage:
        """Answers with a known better one, to weight annotators by; from a split that nothing is trained on."""
        return self.completions("validation")

    # -- the win rate ---------------------------------------------------------------------------------------------

    @property
    def win_rate_recipe(self) -> dict[str, Any]:
        """What the win rate's verdicts depend on besides the answers; empty where the task measures none."""
        config = self.task.evaluation.win_rate
        if not config.on:
            return {}
        if config.judge.kind == SCORER:
            judge = scorer_judge_identity(config.judge.model) | {"default": self._win_rate_direction}
        else:
            judge = judges.judge_identity(config.judge)
            judge |= {"annotators": self.annotators.key} if config.judge.kind == "classifier" else {}
        given = config.opponent != BASE
        opponent = {"file": self._digest(config.opponent), "columns": config.columns} if given else BASE
        return {"judge": judge, "opponent": opponent, "criterion": config.criterion}

    def win_rate_judge(self) -> Judge:
        """The judge of the win rate, loaded."""
        config = self.task.evaluation.win_rate.judge

        def load() -> Judge:
            if config.kind == SCORER:
                return load_scorer_judge(config.model, devices.device(), self._win_rate_direction)
            annotators = self.get(self.annotators) if config.kind == "classifier" else None
            return judges.load_judge(config, self.server_answers, annotators)

        judge: Judge = self.cached("win-rate-judge", load)
        return judge

    @property
    def _win_rate_direction(self) -> bool | None:
        """The direction of a scorer that does not say its own: the objective's, if it is one of the task's scorers."""
        evaluation = self.task.evaluation
        known = evaluation.win_rate.judge.model in (evaluation.scorer, evaluation.second_scorer)
        return self.task.objective.higher_is_better if known else None

    @property
    def revisions_stage(self) -> Stage:
        """Answers revised by the constitution. Raises UserError if the task has none."""
        task, config, principles, answers = self.task, self.task.constitution, self.constitution, self.completions("train")
        if principles is None:
            known = ", ".join(constitution.shipped_constitutions())
            raise UserError(
                f"revisions need a constitution: set task.constitution.file to a yaml file, or to a built-in one: {known}"
            )
        recipe = {
            "version": revisions.VERSION, "completions": answers.key, "constitution": principles.digest,
            "critic": self.critic_identity, "tokens": config.tokens, "prompts": config.prompts, "seed": task.seed,
        } | revisions.turns_recipe(task)  # fmt: skip

        def make(work: Path) -> None:
            base = self.base_model()
            cut, critic = Cutter(base.tokenizer, task.model), self.critic(base)
            revisions.make_revisions(work, self.get(answers), base.shape, cut, critic, principles, config.prompts, task.seed)

        return Stage("revisions", recipe, make)

    def _human_pairs(self, split: str) -> Stage:
        """Preference pairs with human verdicts, from a file."""
        config, task = self.task.feedback, self.task
        recipe = self._file_recipe | {"split": split, "pairs": True} | self._left_out_recipe(split)

        def make(work: Path) -> None:
            tokenizer, left_out = loading.task_tokenizer(task.model), self._left_out(split)
            from_file.make_human_pairs(work, config, tokenizer, task.model, split, left_out)

        return Stage("pairs", recipe, make)

    @property
    def unpaired_stage(self) -> Stage | None:
        """Human labels of single answers, if the task's feedback is a file of them."""
        config, task = self.task.feedback, self.task
        if not config.file or not self._is_unpaired:
            return None

        def make(work: Path) -> None:
            tokenizer, left_out = loading.task_tokenizer(task.model), self._left_out("train")
            from_file.make_unpaired(work, config, tokenizer, task.model, left_out)

        return Stage("unpaired", self._file_recipe | self._left_out_recipe("train"), make)

    def _left_out(self, split: str) -> list[Turns]:
        """The prompts of later splits, to which no verdicts of this one may belong."""
        return [turns_of(each) for later in LATER[split] for each in prompts.load_split(self.task.prompts, later)]

    def _left_out_recipe(self, split: str) -> dict[str, Any]:
        return {"left_out": [self.prompt_recipe(each) for each in LATER[split]]}

    @property
    def _is_unpaired(self) -> bool:
        config = self.task.feedback
        return bool(self.cached("is-unpaired", lambda: from_file.holds_unpaired(config)))

    @property
    def _file_recipe(self) -> dict[str, Any]:
        config, model = self.task.feedback, self.task.model
        data = self.cached("file-digest", lambda: from_file.file_identity(config.file))
        return from_file.file_recipe(config, data) | {
            "tokenizer": loading.weights_identity(model.name),
            "prompt_tokens": model.prompt_tokens, "new_tokens": model.new_tokens, "eos": model.eos,
        } | ({"template": self.template_identity} if model.template != "auto" else {})  # fmt: skip

    def reward_models(self, labelled_by: str) -> dict[str, Stage]:
        """The reward models trained on these pairs, by their names on cards: one, or the members of an ensemble."""
        members = range(self.task.shaping.members)
        return {f"reward_{labelled_by}" + f"_{n + 1}" * (n > 0): self._reward_model(labelled_by, n) for n in members}

    def _reward_model(self, labelled_by: str, member: int) -> Stage:
        task, config, verdicts = self.task, self.task.reward, self.pairs(labelled_by)
        golden = self.pairs("annotator", "validation") if config.golden else None
        recipe: dict[str, Any] = {
            "version": reward.VERSION, "sft": self.sft.key, "pairs": verdicts.key, "config": config,
            "model": task.model, "seed": task.seed,
        }  # fmt: skip
        recipe |= {"member": member} if member else {}
        recipe |= {"golden": golden.key} if golden else {}
        recipe |= self._reward_identity
        if task.known_reward and labelled_by == "annotator":
            recipe |= {"config": None, "known": self.scorer_recipe(labelled_by)}
        return Stage("reward", recipe, lambda work: self.train_reward(work, Feedback.read(self.get(verdicts)), member), True)

    @property
    def _reward_identity(self) -> dict[str, str]:
        """What the reward model is, for recipes; empty for a head on the SFT base."""
        config = self.task.reward
        if config.base:
            return {"base": self.apart("reward.base", config.base, loading.weights_identity(config.base))}
        if config.model:
            own = self.apart("reward.model", config.model, scorers.scorer_identity(config.model))
            return {"model": own, "reading": str(reward_classifier.VERSION)}
        if config.classifier in ("", "annotator"):
            return {"classifier": self.annotators.key} if config.classifier else {}
        weights = self.apart("reward.classifier", config.classifier, scorers.scorer_identity(config.classifier))
        return {"classifier": weights} | ({"sign": "+"} if self.more_is_better else {})

    def train_reward(self, work: Path, verdicts: Feedback, member: int) -> None:
        """Train a reward model, or a member of an ensemble, on verdicts."""
        task, config = self.task, self.task.reward
        if task.known_reward and verdicts.source == pairs.SOURCES["annotator"]:
            reward.make_known_reward(work, verdicts, task.model, self.known_function())
            return
        if config.classifier:
            reward.make_classifier_reward(work, verdicts, task.model, self.classifier_reward)
            return
        if config.model:
            reward.make_classifier_reward(work, verdicts, task.model, self.own_reward)
            return
        golden = Feedback.read(self.get(self.pairs("annotator", "validation"))) if config.golden else None
        reward.make_reward_model(
            work, self.get(self.sft), verdicts, golden, task.model, config, task.seed, member, task.training
        )

    @property
    def asked(self) -> PromptTurns:
        """What the task's prompts say, by their tokens."""
        asked: PromptTurns = self.cached("turns", lambda: PromptTurns(self.task))
        return asked

    def own_reward(self, folder: Path) -> OwnReward:
        """The reward model of one's own, with the record in a folder."""
        task = self.task
        model = reward_classifier.load(task.reward.model.removeprefix("hf:"), devices.device())
        return OwnReward(folder, task.model, model, self.asked, task.shaping.normalise)

    def classifier_reward(self, folder: Path) -> ClassifierReward:
        """The classifier as a reward, with the record in a folder."""
        task = self.task
        return ClassifierReward(folder, task.model, self._classifier(), task.shaping.normalise, self.more_is_better)

    @property
    def more_is_better(self) -> bool:
        """Whether more of the classifier's label is better: never of harm; of other labels the objective says it."""
        name = self.task.reward.classifier
        return name != "annotator" and scorers.direction(name) is None and self.task.objective.higher_is_better

    def _classifier(self) -> Any:
        name = self.task.reward.classifier
        return (
            pairs.classifier_of(self.get(self.annotators), name)
            if name == "annotator"
            else scorers.load_scorer(name, devices.device())
        )
