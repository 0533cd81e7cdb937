"""The training of one run: from the shared stages to a policy, its log and its record, as a stage of the store."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from isoalign.config.task import OWN, TaskConfig
from isoalign.config.training import TrainConfig
from isoalign.core import devices, world
from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.core.lazy import peft
from isoalign.core.records import Budget
from isoalign.core.store import recipe_fields
from isoalign.data import assets, prompts
from isoalign.evaluation import selection
from isoalign.evaluation.metrics.kl import best_of_n_bound
from isoalign.models import loading
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.language import LanguageModel
from isoalign.models.samplers.engine import make_sampler, sampler_identity
from isoalign.runs.blame import as_training_failure
from isoalign.runs.needs import after_reads, check_needs, check_reads
from isoalign.runs.reported import reported_kl, reported_kl_error
from isoalign.stages import pairs
from isoalign.stages.rounds import FeedbackRounds
from isoalign.stages.sft import with_adapter
from isoalign.stages.shared import SharedStages
from isoalign.stages.stage import Stage
from isoalign.training import registry, trl
from isoalign.training.guard import Guard
from isoalign.training.meter import Meter
from isoalign.training.needs import names, needs_of
from isoalign.training.process_state import preserved
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer

VERSION = 5
ROUNDS = "rounds"  # folder of a train stage with the outputs of later feedback rounds
BASE = "sft"  # the row of the SFT base
DEFAULT_IDLE_SECONDS = TrainConfig().idle_seconds


@dataclass(frozen=True)
class Training:
    """A method on a task under a budget with a seed, up to the trained policy. ``follow`` gets the log after each step."""

    name: str
    algorithm: Any
    budget: Budget
    seed: int
    shared: SharedStages
    follow: Callable[[Sequence[dict[str, Any]]], None] = field(default=lambda log: None, kw_only=True, compare=False)

    @property
    def task(self) -> TaskConfig:
        """The task's configuration."""
        return self.shared.task

    @property
    def trains(self) -> bool:
        """Whether there is a train stage: for every algorithm but the SFT base."""
        if not any(hasattr(self.algorithm, method) for method in ("iteration", "train", "select")) and self.name != BASE:
            raise UserError(f"algorithm {self.name} has no method iteration(lab), train(lab) or select(lab, answers)")
        return self.name != BASE

    @property
    def settings(self) -> dict[str, Any]:
        """The algorithm's hyperparameters."""
        return registry.hyperparameters(self.algorithm)

    @property
    def train(self) -> Stage:
        """The trained policy. Its key covers everything that the lab can give the algorithm, and the algorithm's code."""
        task, shared = self.task, self.shared
        training = replace(task.training, idle_seconds=DEFAULT_IDLE_SECONDS)
        recipe = {
            "version": VERSION, "sft": shared.sft.key, "model": task.model,
            "training": recipe_fields(replace(training, gradient_checkpointing=False)) | {"checkpoint_seconds": None},
            "pairs": [shared.pairs(by).key for by in pairs.SOURCES],
            "reward": [m.key for by in pairs.SOURCES for m in shared.reward_models(by).values() if self._rewarded],
            "algorithm": self.name, "settings": self.settings, "source": registry.source_digest(type(self.algorithm)),
            "budget": self.budget, "seed": self.seed,
        }  # fmt: skip
        recipe |= self.shaping_recipe if self._rewarded else {}
        recipe |= {"unpaired": shared.unpaired_stage.key} if shared.unpaired_stage and self.uses("labels") else {}
        recipe |= {"revisions": shared.revisions_stage.key} if self.uses("revisions") else {}
        recipe |= {"teacher": self.teacher} if self.teacher else {}
        recipe |= {"rounds": rounds} if (rounds := recipe_fields(task.rounds)) else {}
        recipe |= {"loop": trl.loop_versions(bool(rounds))} if hasattr(self.algorithm, "train") else {}
        recipe |= {"answers": self.prompt_recipe | {"draws": self.task.evaluation.draws}} if self.selects else {}
        recipe |= {"sampler": sampler_identity(self.sampler)} if self.sampler else {}
        return Stage("train", recipe, self._select if self.selects else self._train, together=True)

    @property
    def shaping_recipe(self) -> dict[str, Any]:
        """The shaping of the reward models' rewards, for recipes; empty without shaping."""
        shaping = recipe_fields(self.task.shaping)
        return {"shaping": shaping} if shaping else {}

    @property
    def sampler(self) -> str:
        """The engine that samples the method's rollouts; empty for own decoding, and for a method that has none."""
        name = self.task.model.sampler
        return name if name != OWN and self.trains and self.uses("generate") | self.selects else ""

    @contextmanager
    def _engine(self, session: Session) -> Iterator[None]:
        """Context in which an engine samples a session's rollouts, if the task says so."""
        if not self.sampler:
            yield
            return
        session.engine = make_sampler(self.sampler, session.policy, self.task.model.prompt_tokens + self.task.model.new_tokens)
        try:
            yield
        finally:
            session.engine.close()

    def uses(self, service: str) -> bool:
        """Whether the algorithm's code names a service of the lab; its result cannot depend on one that it never names."""
        return registry.uses_attribute(type(self.algorithm), service)

    @property
    def teacher(self) -> str:
        """The identity of the weights of the task's teacher; empty for a method that asks for none, whatever it declares."""
        asks = "teacher" in needs_of(self.algorithm) or (self.task.teacher and names(type(self.algorithm), "teacher"))
        return loading.weights_identity(self.task.teacher) if asks else ""

    @property
    def _rewarded(self) -> bool:
        """Whether its result may depend on a reward model: as a reward, or as what a critic starts from."""
        return self.uses("reward") or (self.uses("critic") and registry.names_constant(type(self.algorithm), "reward"))

    def _train(self, work: Path) -> list[str]:
        torch.manual_seed(self.seed)
        self.follow([])  # before the meter's clock, and before what may be laid to the algorithm
        self._make_feedback()
        policy, reference = self._policy_to_train()
        meter, source = Meter(self.budget), FeedbackRounds(self.shared, work / ROUNDS)
        session = Session(policy, reference, source, meter, self.task.model.new_tokens, self.seed)
        follow = after_reads(self.follow, self.name, session, self.uses, self._rewarded, bool(self.teacher))
        trainer = Trainer(self.algorithm, session, self.task.training, work, self._forbidden, follow)
        with self._engine(session), as_training_failure(), preserved():
            trainer.run(self.name)
        policy.save(work / "policy")
        if world.rank():
            return []
        log = [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in trainer.log]
        write_rows(work / "log.jsonl", log)
        record = {
            "spent": meter.spent(), "steps": meter.steps, "skipped": trainer.skipped, "reward": sorted(session.reward_models),
            "fraction": session.fraction, "snapshots": trainer.snapshots, "reported": reported_kl(log),
            "reported_error": reported_kl_error(log), "device": devices.count_label(), "dtype": _dtypes(policy),
        }  # fmt: skip
        more = {"rounds": trainer.rounds, "loop": trainer.loop} | trainer.guard.record(registry.files_of(self.name))
        more |= {"sampler": session.engine and session.engine.record(), "sharded": self.task.model.shard}
        record |= {name: value for name, value in more.items() if value}
        (work / "record.json").write_text(json.dumps(record, indent=1))
        return self.shared.unread([*session.cursors, *session.reward_models])

    def _make_feedback(self) -> None:
        """Make the shared stages that the algorithm needs before policy and reference need memory; others when it asks."""
        shared, needs = self.shared, needs_of(self.algorithm)
        check_needs(self.algorithm, shared)
        shared.get(shared.sft)
        if self.task.known_reward:
            shared.known_function()
        if self.task.scored_by("annotator"):  # a split in which no two answers differ must not end the run after training
            for split in dict.fromkeys(("train", "validation", self.task.evaluation.split)):
                shared.get(shared.pairs("annotator", split))
        if shared.unpaired_stage:
            shared.get(shared.unpaired_stage)
        elif "reward" in needs:
            for stage in shared.reward_models("annotator").values():
                shared.get(stage)
        elif needs & {"pairs", "labels"}:
            shared.get(shared.pairs("annotator"))

    @property
    def selects(self) -> bool:
        """Whether the method does not train but selects among answers of the SFT base."""
        return hasattr(self.algorithm, "select")

    def _select(self, work: Path) -> list[str]:
        """Instead of training, select the answers to the evaluation prompts, and charge it."""
        base, meter, config = self.shared.base_model(), Meter(self.budget), self.task.evaluation
        session = Session(base, base, FeedbackRounds(self.shared, work / ROUNDS), meter, self.task.model.new_tokens, self.seed)
        session.guard = guard = Guard(meter, tuple, self._forbidden, self.task.training.idle_seconds)
        with self._engine(session), as_training_failure(), preserved():
            selection.make_selection(
                work, self.algorithm, session, base, self.task.model, self.evaluation_prompts(), config.draws
            )
        check_reads(self.name, session, self.uses, self._rewarded, bool(self.teacher))
        if world.rank():
            return []
        write_rows(work / "log.jsonl", [])
        record = {
            "spent": meter.spent(), "steps": 0, "skipped": 0, "reward": sorted(session.reward_models),
            "fraction": meter.fraction, "snapshots": [], "reported": {}, "kl_bound": best_of_n_bound(self.algorithm.draws),
            "device": devices.count_label(), "dtype": _dtypes(base),
        }  # fmt: skip
        record |= {name: value for name, value in guard.record(registry.files_of(self.name)).items() if value}
        record |= {"sampler": session.engine.record()} if session.engine else {}
        (work / "record.json").write_text(json.dumps(record, indent=1))
        return self.shared.unread([*session.cursors, *session.reward_models])

    @property
    def _forbidden(self) -> tuple[Path, Path]:
        """Folders that an algorithm's code must not read."""
        return self.shared.store.root, assets.cache_dir()

    def read_record(self) -> dict[str, Any]:
        """The record of training, empty for the SFT base. Trains first if needed."""
        return json.loads((self.shared.get(self.train) / "record.json").read_text()) if self.trains else {}

    def read_log(self) -> list[dict[str, Any]]:
        """The scalars of each training step. Trains first if needed."""
        return list(read_rows(self.shared.get(self.train) / "log.jsonl")) if self.trains else []

    @property
    def preflight(self) -> Stage:
        """The check of everything that the run loads; whoever makes stages gets it first."""
        lora = self._lora_rank if self.trains else self.task.model.lora
        return self.shared.preflight(lora, trl_loop=hasattr(self.algorithm, "train"), sampler=self.sampler)

    @property
    def _lora_rank(self) -> int:
        """Rank of the policy's adapter, the algorithm's or else the task's; 0 if all weights are trained."""
        return int(getattr(self.algorithm, "lora", 0) or self.task.model.lora)

    def _policy_to_train(self) -> tuple[LanguageModel, LanguageModel]:
        """Policy and frozen reference. With LoRA they are the same model, with the adapter on and off."""
        task, shared = self.task, self.shared
        shared.forget_base()
        precision = task.model.precision
        base = shared.base_model("float32" if self._lora_rank else precision)
        if self._lora_rank:
            adapted = with_adapter(base.inner, self._lora_rank)
            policy = reference = shared.language_model(adapted, base.tokenizer, precision)
        else:
            if task.model.shard:
                base.shard()  # before there is a second model
            model, _ = loading.load_model(task.model.name, shared.get(shared.sft), task.model.dtype, base.tokenizer)
            policy, reference = shared.language_model(model.requires_grad_(True), base.tokenizer, precision), base
        if task.training.gradient_checkpointing:
            checkpoint_layers(policy.inner)
        if task.model.shard:
            policy.shard()
        return policy, reference

    @property
    def prompt_recipe(self) -> dict[str, Any]:
        """Which prompts are evaluated."""
        split = self.task.evaluation.split
        return {"prompts": self.shared.prompt_recipe(split), "split": split}

    def evaluation_prompts(self) -> list[prompts.Prompt]:
        """The prompts that are evaluated."""
        return self.shared.chosen_prompts(self.task.evaluation.split)

    @property
    def policy_folder(self) -> str:
        """Where the policy lies in the store; empty for a method that trains none."""
        if self.selects:
            return ""
        stage = self.train if self.trains else self.shared.sft
        return f"{stage.name}-{stage.key}" + ("/policy" if self.trains else "")

    @property
    def merges(self) -> bool:
        """Whether an adapter is merged for evaluation: weights in bf16 would round most of a small update away."""
        return self.task.model.frozen == "float32"

    def load_policy(self, weights: str = "policy") -> tuple[LanguageModel, LanguageModel]:
        """Policy and SFT base, as they are evaluated."""
        base = self.shared.evaluated_base()
        if not self.trains or self.selects:
            return base, base
        folder = self.shared.get(self.train) / weights
        if self._lora_rank:
            adapted = peft.PeftModel.from_pretrained(self.shared.base_model().inner, str(folder))
            model: Any = adapted.merge_and_unload() if self.merges else adapted  # decoding needs no separate adapter
        else:
            model, _ = loading.load_model(self.task.model.name, folder, self.task.model.dtype, base.tokenizer)
        return self.shared.language_model(model.eval(), base.tokenizer, base.precision), base


def _dtypes(model: LanguageModel) -> str:
    """In what a model's weights are, and its passes if that differs: ``float32``, or ``float32, passes in bfloat16``."""
    weights = str(next(model.inner.parameters()).dtype).removeprefix("torch.")
    return f"{weights}, passes in bfloat16" if model.autocast and weights != "bfloat16" else weights
