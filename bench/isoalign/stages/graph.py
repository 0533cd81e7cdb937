"""The shared stages of a task: what each is made from, and how. Each is made once, when it is first needed."""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isoalign.config.feedback import JudgeConfig, PanelConfig
from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.randomness import own_random_state
from isoalign.core.runtime import device
from isoalign.core.store import Store, recipe_fields
from isoalign.data.assets import ASSETS
from isoalign.data.preferences import Feedback
from isoalign.feedback import constitution, judges
from isoalign.feedback.constitution import Constitution, PrincipledJudge
from isoalign.feedback.judges.verdicts import Judge
from isoalign.feedback.judges.writer import LMWriter, ServerWriter, Writer
from isoalign.models import language, scorers
from isoalign.models.language import LanguageModel
from isoalign.stages import annotators, completions, from_file, pairs, preflight, revisions, reward, sft
from isoalign.stages.stage import Stage


class StageGraph:
    """The stages that all methods and seeds of a task share."""

    def __init__(self, task: TaskConfig, store: Store) -> None:
        self.task, self.store = task, store
        self._cache: dict[str, Any] = {}

    def get(self, stage: Stage) -> Path:
        """The directory of a stage, made first if missing. This may happen within a training run: the stage is independent of
        the run's no_grad, and leaves its random state unchanged."""

        def make(work: Path) -> None:
            stage.make(work)
            gc.collect()  # trainers hold their models in cycles

        with torch.enable_grad(), own_random_state():
            return self.store.get(stage.name, stage.key, stage.recipe, make)

    # -- the stages -----------------------------------------------------------------------------------------------

    def preflight(self, lora: int) -> Stage:
        """The check of everything that a run loads, before its first stage. ``lora``: rank of the policy's adapter."""
        task, evaluation = self.task, self.task.evaluation
        names = [evaluation.scorer, evaluation.second_scorer]
        recipe = {
            "version": preflight.VERSION, "model": self._model_identity, "lora": lora, "device": device(),
            "packages": [importlib.metadata.version(name) for name in ("torch", "transformers", "peft")],
            "reward": self._reward_identity,
            "writers": [language.weights_identity(name) for name in preflight.writers(task)],
            "scorers": list(map(scorers.scorer_identity, names)),
            "prompts": [self.prompt_recipe(split) for split in preflight.SPLITS], "training": task.training,
        }  # fmt: skip
        return Stage("preflight", recipe, lambda work: preflight.make_preflight(work, task, lora))

    @property
    def sft(self) -> Stage:
        """The SFT base of all methods."""
        task = self.task
        recipe = {
            "version": sft.VERSION, "data": ASSETS["comments"].sha256, "model": self._model_identity, "config": task.sft,
            "words": task.prompts.words, "seed": task.seed,
        }  # fmt: skip
        return Stage("sft", recipe, lambda work: sft.make_sft(work, task.model, task.sft, task.prompts.words, task.seed))

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
        if labelled_by == "judge" and task.judge.kind != "classifier":
            recipe |= {"judge": self.judge_identity}
        if labelled_by == "annotator" and task.panel != PanelConfig():
            recipe |= {"panel": task.panel} | ({"golden": self._golden.key} if task.panel.golden else {})
        return Stage("pairs", recipe, lambda work: self.judge_pairs(work, self.get(answers), labelled_by, task.seed))

    def judge_pairs(self, work: Path, answers: Path, labelled_by: str, seed: int) -> None:
        """Write the verdicts on answers by annotators or by the AI judge."""
        task, annotators = self.task, self.get(self.annotators)
        if labelled_by == "judge":
            pairs.make_judge_pairs(work, answers, annotators, task.feedback, self.comparing_judge(), seed)
        else:
            golden = self.get(self._golden) if task.panel.golden else None
            pairs.make_annotator_pairs(work, answers, annotators, task.feedback, task.panel, seed, golden)

    @property
    def _golden(self) -> Stage:
        """Answers with a known better one, to weight annotators by; from a split that nothing is trained on."""
        return self.completions("validation")

    def comparing_judge(self) -> Judge | None:
        """The AI judge that compares two answers; None for the classifier, which scores single ones."""
        config = self.task.judge
        if config.kind == "classifier":
            return None

        def load() -> Judge:
            judge = judges.load_judge(config, self._server_answers)
            return PrincipledJudge(judge, self.constitution, self.task.seed) if self.constitution else judge

        judge: Judge = self._cached("comparing-judge", load)
        return judge

    @property
    def judge_identity(self) -> dict[str, Any]:
        """Everything that the comparing judge's verdicts depend on."""
        principles = {"constitution": self.constitution.digest} if self.constitution else {}
        return judges.judge_identity(self.task.judge) | principles

    @property
    def _server_answers(self) -> Path:
        """The folder in which answers of servers are stored."""
        return self.store.root / ".judge"

    @property
    def constitution(self) -> Constitution | None:
        """The task's constitution, if it has one."""
        file = self.task.constitution.file
        principles: Constitution | None = self._cached(
            "constitution", lambda: constitution.load_constitution(file) if file else None
        )
        return principles

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
            "critic": self._critic_identity, "tokens": config.tokens, "prompts": config.prompts, "seed": task.seed,
        }  # fmt: skip

        def make(work: Path) -> None:
            base = self.base_model()
            cut, critic = from_file.Cutter(base.tokenizer, task.model), self._critic(base)
            revisions.make_revisions(work, self.get(answers), base.shape, cut, critic, principles, config.prompts, task.seed)

        return Stage("revisions", recipe, make)

    @property
    def _critic_identity(self) -> dict[str, Any]:
        """Which model revises. The key of the answers, in the same recipe, covers the weights of the SFT base."""
        config = self.task.constitution
        if config.kind == "server":
            server = self._critic_server
            return {"kind": "server", "model": server.model, "base_url": server.base_url.rstrip("/")}
        return {"kind": "lm", "weights": language.weights_identity(config.model) if config.model else "sft"}

    @property
    def _critic_server(self) -> JudgeConfig:
        judge, config = self.task.judge, self.task.constitution
        try:
            return replace(judge, kind="server", model=config.model or judge.model)
        except ValueError as error:
            raise UserError(f"task.constitution.kind=server uses the server of task.judge: {error}") from error

    def _critic(self, base: LanguageModel) -> Writer:
        """The model that writes critiques and revisions; by default the SFT base."""
        config = self.task.constitution
        if config.kind == "server":
            return ServerWriter(self._critic_server, self._server_answers, config.tokens)
        if not config.model:
            return LMWriter("the SFT base", base, config.tokens)
        model, tokenizer = language.load_model(config.model)
        return LMWriter(f"lm:{config.model}", LanguageModel(model.to(device()), tokenizer, ends=True), config.tokens)

    def _human_pairs(self, split: str) -> Stage:
        """Preference pairs with human verdicts, from a file."""
        config, task = self.task.feedback, self.task
        recipe = self._file_recipe | {"split": split, "pairs": True}

        def make(work: Path) -> None:
            from_file.make_human_pairs(
                work, config.file, config.format, language.load_tokenizer(task.model.name), task.model, split
            )

        return Stage("pairs", recipe, make)

    @property
    def unpaired_stage(self) -> Stage | None:
        """Human labels of single answers, if the task's feedback is a file of them."""
        config, task = self.task.feedback, self.task
        if not config.file or not self._is_unpaired:
            return None

        def make(work: Path) -> None:
            from_file.make_unpaired(work, config.file, config.format, language.load_tokenizer(task.model.name), task.model)

        return Stage("unpaired", self._file_recipe, make)

    @property
    def _is_unpaired(self) -> bool:
        config = self.task.feedback
        return bool(self._cached("is-unpaired", lambda: from_file.holds_unpaired(config.file, config.format)))

    @property
    def _file_recipe(self) -> dict[str, Any]:
        config, model = self.task.feedback, self.task.model
        data = self._cached("file-digest", lambda: from_file.file_identity(config.file))
        return {
            "version": from_file.VERSION, "file": data, "format": config.format,
            "tokenizer": language.weights_identity(model.name),
            "prompt_tokens": model.prompt_tokens, "new_tokens": model.new_tokens, "eos": model.eos,
        }  # fmt: skip

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
        return Stage("reward", recipe, lambda work: self.train_reward(work, Feedback.read(self.get(verdicts)), member))

    @property
    def _reward_identity(self) -> dict[str, str]:
        """What the reward model is, for recipes; empty for a head on the SFT base."""
        config = self.task.reward
        base = {"base": language.weights_identity(config.base)} if config.base else {}
        return base | ({"classifier": self._classifier_identity()} if config.classifier else {})

    def train_reward(self, work: Path, verdicts: Feedback, member: int) -> None:
        """Train a reward model, or a member of an ensemble, on verdicts."""
        task, config = self.task, self.task.reward
        if config.classifier:
            reward.make_classifier_reward(work, verdicts, task.model, config, self._classifier())
            return
        golden = Feedback.read(self.get(self.pairs("annotator", "validation"))) if config.golden else None
        reward.make_reward_model(work, self.get(self.sft), verdicts, golden, task.model, config, task.seed, member)

    def _classifier_identity(self) -> str:
        """Raises UserError if the classifier is an evaluation scorer: a method must not train on what evaluates it."""
        name, evaluation = self.task.reward.classifier, self.task.evaluation
        evaluation_scorers = {scorers.scorer_identity(each) for each in (evaluation.scorer, evaluation.second_scorer)}
        if name != "annotator" and scorers.scorer_identity(name) in evaluation_scorers:
            raise UserError(f"task.reward.classifier {name} is an evaluation scorer; choose another classifier or scorer")
        return self.annotators.key if name == "annotator" else scorers.scorer_identity(name)

    def _classifier(self) -> Any:
        name = self.task.reward.classifier
        return (
            pairs.classifier_of(self.get(self.annotators), name)
            if name == "annotator"
            else scorers.load_scorer(name, device())
        )

    @property
    def _model_identity(self) -> dict[str, Any]:
        """The model's configuration and the identity of its weights."""
        return recipe_fields(self.task.model) | {"weights": language.weights_identity(self.task.model.name)}

    def prompt_recipe(self, split: str) -> dict[str, Any]:
        """Everything that a split's prompts depend on."""
        config = self.task.prompts
        data = [ASSETS[name].sha256 for name in ("rtp_scored", "rtp_categories", "comments")]
        return {"data": data, "count": getattr(config, split), "clean": config.clean, "words": config.words}

    # -- models ---------------------------------------------------------------------------------------------------

    def base_model(self, precision: str = "float32") -> LanguageModel:
        """The SFT base, frozen."""
        model, tokenizer = language.load_model(self.task.model.name, self.get(self.sft), self.task.model.frozen)
        return self.language_model(model, tokenizer, precision)

    def language_model(self, model: Any, tokenizer: Any, precision: str) -> LanguageModel:
        """A model as the task's policy or base, on the device."""
        task = self.task
        return LanguageModel(model.to(device()), tokenizer, task.model.eos == "open", precision, task.training.rows)

    def _cached(self, name: str, load: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = load()
        return self._cache[name]
