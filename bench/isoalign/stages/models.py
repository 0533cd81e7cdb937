"""The models of a task: its base before and after SFT, its judge and its critic."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isoalign.config.feedback import JudgeConfig
from isoalign.config.task import TaskConfig
from isoalign.core.devices import device
from isoalign.core.errors import UserError
from isoalign.core.randomness import own_random_state
from isoalign.core.store import Store, digest, recipe_fields
from isoalign.data import prompts
from isoalign.data.assets import ASSETS
from isoalign.data.formats import conversation
from isoalign.feedback import constitution, judges
from isoalign.feedback.constitution import Constitution, PrincipledJudge
from isoalign.feedback.judges.identity import judge_model
from isoalign.feedback.judges.verdicts import Judge
from isoalign.feedback.judges.writer import LMWriter, ServerWriter, Writer
from isoalign.models import loading
from isoalign.models.answer_scorers import identity, load_answer_scorer
from isoalign.models.known_reward import Asked, KnownFunction
from isoalign.models.language import LanguageModel
from isoalign.models.precision import cast_frozen_weights, precision_recipe
from isoalign.models.scorers import weights_of
from isoalign.stages import sft
from isoalign.stages.cutting import HeldOut, encode_prompts
from isoalign.stages.from_file import file_identity
from isoalign.stages.opinions import Scores
from isoalign.stages.stage import Stage

EVALUATED = "evaluated-base"


class TaskModels:
    """What a task loads to answer, to judge and to write; each is loaded once, when it is first needed."""

    def __init__(self, task: TaskConfig, store: Store) -> None:
        self.task, self.store = task, store
        self._cache: dict[str, Any] = {}

    def get(self, stage: Stage) -> Path:
        """The directory of a stage, made first if missing. This may happen within a training run: the stage is independent of
        the run's no_grad, and leaves its random state unchanged."""

        def make(work: Path) -> Iterable[str] | None:
            gc.freeze()  # what is there already isn't searched again and again
            try:
                unread = stage.make(work)
                gc.collect()  # trainers hold their models in cycles
            finally:
                gc.unfreeze()
            return unread

        with torch.enable_grad(), own_random_state():
            return self.store.get(stage.name, stage.key, stage.recipe, make, stage.together)

    def has(self, stage: Stage) -> bool:
        """Whether a stage is made already."""
        return self.store.path(stage.name, stage.key).is_dir()

    # -- the policy ----------------------------------------------------------------------------------------------------

    @property
    def sft(self) -> Stage:
        """The SFT base of all methods."""
        task = self.task
        recipe = {
            "version": sft.VERSION, "data": ASSETS["comments"].sha256, "model": self.model_identity, "config": task.sft,
            "words": task.prompts.words, "seed": task.seed,
        }  # fmt: skip
        if task.sft.source not in ("", sft.NONE):  # demonstrations of evaluated prompts are left out
            recipe |= {
                "config": replace(task.sft, source=""),
                "demonstrations": self._digest(task.sft.source),
                "held_out": HeldOut.VERSION,
                "reading": conversation.VERSION,
            }
            recipe |= {"left_out": [self.prompt_recipe(split) for split in ("validation", "test")]}
        return Stage("sft", recipe, lambda work: sft.make_sft(work, task), together=True)

    def prompt_recipe(self, split: str) -> dict[str, Any]:
        """Everything that a split's prompts depend on."""
        config = self.task.prompts
        if config.source:
            source = getattr(config, f"{split}_source", "") or config.source
            own = {"source": self._digest(source), "named": source != config.source, "column": config.column}
            others = [self._digest(other) for other in prompts.other_sources(config, split)]
            own |= {name: value for name in ("format", "opening", "skip", "reference") if (value := getattr(config, name))}
            own |= ({"apart": prompts.APART} if others else {}) | ({"reading": conversation.VERSION} if config.format else {})
            return own | {"stratum": config.stratum, "count": getattr(config, split), "others": others}
        data = [ASSETS[name].sha256 for name in ("rtp_scored", "rtp_categories", "comments")]
        return {"data": data, "count": getattr(config, split), "clean": config.clean, "words": config.words}

    def _digest(self, source: str) -> str:
        found: str = self.cached(f"digest-{source}", lambda: file_identity(source))
        return found

    def chosen_prompts(self, split: str) -> list[prompts.Prompt]:
        """The prompts of a split."""
        chosen: list[prompts.Prompt] = self.cached(f"prompts-{split}", lambda: prompts.load_split(self.task.prompts, split))
        return chosen

    @property
    def model_identity(self) -> dict[str, Any]:
        """The model's configuration and the identity of its weights."""
        model = self.task.model
        identity = recipe_fields(model) | {"weights": loading.weights_identity(model.name)}
        identity |= precision_recipe(model.precision)
        return identity | ({"template": self.template_identity} if model.template_file else {})

    @property
    def template_identity(self) -> str:
        """How prompts are templated: a word, or the digest of a template of one's own."""
        file = self.task.model.template_file
        return digest(loading.read_template(file)) if file else self.task.model.template

    def base_model(self, precision: str = "float32") -> LanguageModel:
        """The SFT base, frozen."""
        tokenizer = loading.task_tokenizer(self.task.model)
        model, _ = loading.load_model(self.task.model.name, self.get(self.sft), self.task.model.frozen, tokenizer)
        return self.language_model(model, tokenizer, precision)

    def evaluated_base(self) -> LanguageModel:
        """The SFT base in the precision of evaluation, loaded once for all that a run evaluates; it must not be changed."""
        base: LanguageModel = self.cached(EVALUATED, lambda: self.base_model(self.task.evaluation.precision))
        return base

    def forget_base(self) -> None:
        """Free the memory of what `evaluated_base` has loaded, before a training needs it."""
        self._cache.pop(EVALUATED, None)

    def language_model(self, model: Any, tokenizer: Any, precision: str) -> LanguageModel:
        """A model as the task's policy or base, on the device."""
        task = self.task
        if precision == "bfloat16":
            cast_frozen_weights(model)
        return LanguageModel(model.to(device()), tokenizer, task.model.eos == "open", precision, task.training.rows)

    # -- judges and critics --------------------------------------------------------------------------------------------

    def comparing_judge(self) -> Judge | None:
        """The AI judge that compares two answers; None for the classifier, which scores single ones."""
        config = self.task.judge
        if not config.compares:
            return None

        def load() -> Judge:
            judge = judges.load_judge(config, self.server_answers)
            return PrincipledJudge(judge, self.constitution, self.task.seed) if self.constitution else judge

        judge: Judge = self.cached("comparing-judge", load)
        return judge

    def scores_of(self, labelled_by: str) -> Scores | None:
        """What an annotator or judge that is a scorer thinks of answers; None for another one."""
        if not (name := self.task.scored_by(labelled_by)):
            return None
        scorer, objective = load_answer_scorer(name, str(device())), self.task.objective
        known = self.task.known_reward and labelled_by == "annotator"
        unsaid = known or scorer.higher_is_better is None
        return Scores(scorer, bool(objective.higher_is_better if unsaid else scorer.higher_is_better))

    def scorer_recipe(self, labelled_by: str) -> dict[str, Any]:
        """All that the opinion of an annotator or judge that is a scorer depends on; empty for another one.

        Raises UserError for an annotator of one's own, or a judge, whose weights are an evaluation scorer's.
        """
        if not (name := self.task.scored_by(labelled_by)):
            return {}
        own = labelled_by == "judge" or not self.task.known_reward
        setting = "judge.model" if labelled_by == "judge" else "feedback.annotator"
        weights = self.apart(setting, name, identity(name)) if own else identity(name)
        recipe = {"scorer": weights, "higher": self.task.objective.higher_is_better}
        label = name.partition("#")[2] if name.startswith("hf:") else ""  # the weights are the same for each
        return recipe | ({"label": label} if label else {})

    def apart(self, setting: str, name: str, weights: str) -> str:
        """The identity of the weights that a setting names. Raises UserError if they are an evaluation scorer's: a method must
        not train on what evaluates it."""
        evaluation = self.task.evaluation
        if weights_of(weights) in (weights_of(identity(name)) for name in (evaluation.scorer, evaluation.second_scorer)):
            what = setting.rpartition(".")[2]
            raise UserError(f"task.{setting} {name} is an evaluation scorer; choose another {what} or scorer")
        return weights

    def two_opinions(self, first: str, second: str) -> list[str]:
        """Identities of the scorers of the evaluation. Raises UserError for one model under two spellings."""
        found = [identity(first), identity(second)]
        labels = first.partition("#")[2], second.partition("#")[2]  # a model may have several
        if weights_of(found[0]) == weights_of(found[1]) and labels[0] == labels[1]:
            raise UserError(
                f"task.evaluation.second_scorer {second} is the model of task.evaluation.scorer {first}; choose another: "
                "it is the second opinion"
            )
        return found

    def known_function(self) -> KnownFunction:
        """The known reward, with the prompts of all splits by the tokens that the model reads.

        Raises UserError for prompts with different right answers of which the model reads the same.
        """
        scores = self.scores_of("annotator")
        assert scores is not None
        asked, equal = self.cached("asked", self._asked)
        return KnownFunction(scores.scorer, scores.higher_is_better, asked, equal)

    def _asked(self) -> tuple[dict[tuple[int, ...], Asked], int]:
        model, found, equal = self.task.model, dict[tuple[int, ...], Asked](), 0
        tokenizer = loading.task_tokenizer(model)
        for split in prompts.SPLITS:
            chosen = prompts.load_split(self.task.prompts, split)
            encoded = encode_prompts(tokenizer, chosen, model)
            for prompt, ids, mask in zip(chosen, encoded.tokens, encoded.mask, strict=True):
                first = found.setdefault(tuple(ids[mask].tolist()), Asked(prompt.text, prompt.reference, prompt.turns))
                equal += first.text != prompt.text
                if first.reference != prompt.reference:
                    raise UserError(
                        f"two prompts with different right answers, {first.reference[:40]!r} and {prompt.reference[:40]!r}, "
                        f"are the same once cut to task.model.prompt_tokens={model.prompt_tokens}; raise it"
                    )
        return found, equal

    @property
    def judge_identity(self) -> dict[str, Any]:
        """Everything that the comparing judge's verdicts depend on."""
        principles = {"constitution": self.constitution.digest} if self.constitution else {}
        return judges.judge_identity(self.task.judge) | principles

    @property
    def server_answers(self) -> Path:
        """The folder in which answers of servers are stored."""
        return self.store.root / ".judge"

    @property
    def constitution(self) -> Constitution | None:
        """The task's constitution, if it has one."""
        file = self.task.constitution.file
        principles: Constitution | None = self.cached(
            "constitution", lambda: constitution.load_constitution(file) if file else None
        )
        return principles

    @property
    def critic_identity(self) -> dict[str, Any]:
        """Which model revises. The key of the answers, in the same recipe, covers the weights of the SFT base."""
        config = self.task.constitution
        if config.kind == "server":
            server = self._critic_server
            return {"kind": "server", "model": server.model, "base_url": server.base_url.rstrip("/")}
        return {"kind": "lm", "weights": loading.weights_identity(config.model) if config.model else "sft"}

    @property
    def critic_model(self) -> Any:
        """The model behind the critic, as `judge_model` has it; None for the SFT base."""
        config = self.task.constitution
        if config.kind == "server":
            return judge_model(self._critic_server)
        return ("lm", loading.weights_identity(config.model)) if config.model else None

    @property
    def _critic_server(self) -> JudgeConfig:
        judge, config = self.task.judge, self.task.constitution
        try:
            return replace(judge, kind="server", model=config.model or judge.model)
        except ValueError as error:
            raise UserError(f"task.constitution.kind=server uses the server of task.judge: {error}") from error

    def critic(self, base: LanguageModel) -> Writer:
        """The model that writes critiques and revisions; by default the SFT base."""
        config = self.task.constitution
        if config.kind == "server":
            return ServerWriter(self._critic_server, self.server_answers, config.tokens)
        if not config.model:
            return LMWriter("the SFT base", base, config.tokens)
        model, tokenizer = loading.load_model(config.model)
        return LMWriter(f"lm:{config.model}", LanguageModel(model.to(device()), tokenizer, ends=True), config.tokens)

    def cached(self, name: str, load: Callable[[], Any]) -> Any:
        """What ``load`` returned when it was first asked for under this name."""
        if name not in self._cache:
            self._cache[name] = load()
        return self._cache[name]
