"""The training of one run: from the shared stages to a policy, its log and its record, as a stage of the store."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model

from isoalign.config.task import TaskConfig
from isoalign.config.training import TrainConfig
from isoalign.core.errors import TrainingFailed, UserError, unforeseen
from isoalign.core.records import Budget
from isoalign.core.runtime import device
from isoalign.core.store import plain
from isoalign.data import assets, prompts
from isoalign.evaluation import selection
from isoalign.evaluation.metrics.kl import best_of_n_bound
from isoalign.models import language
from isoalign.models.language import LanguageModel
from isoalign.stages import pairs
from isoalign.stages.candidates import read_rows, write_rows
from isoalign.stages.rounds import FeedbackRounds
from isoalign.stages.sft import lora
from isoalign.stages.shared import SharedStages
from isoalign.stages.stage import Stage
from isoalign.training import registry, trl
from isoalign.training.guard import Guard
from isoalign.training.meter import Meter
from isoalign.training.process_state import preserved
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer

VERSION = 4
ROUNDS = "rounds"  # folder of a train stage: what later feedback rounds made
BASE = "sft"  # the row of the base itself
LOGGED = 0.9  # of what is spent: a log that ends before says nothing of the end
IDLE = TrainConfig().idle_seconds


@dataclass(frozen=True)
class Training:
    """A method on a task under a budget with a seed, up to the trained policy."""

    name: str
    algorithm: Any
    budget: Budget
    seed: int
    shared: SharedStages

    @property
    def task(self) -> TaskConfig:
        """The task's configuration."""
        return self.shared.task

    @property
    def trains(self) -> bool:
        """The SFT row has no iteration: it is the base itself."""
        if not any(hasattr(self.algorithm, method) for method in ("iteration", "train", "select")) and self.name != BASE:
            raise UserError(f"algorithm {self.name} has no method iteration(lab), train(lab) or select(lab, answers)")
        return self.name != BASE

    @property
    def settings(self) -> dict[str, Any]:
        """The algorithm's hyperparameters."""
        return registry.hyperparameters(self.algorithm)

    @property
    def train(self) -> Stage:
        """The trained policy. Its key covers all that the lab could hand the algorithm, and the algorithm's source."""
        task, shared = self.task, self.shared
        recipe = {
            "version": VERSION, "sft": shared.sft.key, "model": task.model,
            "training": plain(replace(task.training, idle_seconds=IDLE)) | {"checkpoint_seconds": None},
            "pairs": [shared.pairs(by).key for by in pairs.SOURCES],
            "reward": [m.key for by in pairs.SOURCES for m in shared.reward_models(by).values() if self.may("reward")],
            "algorithm": self.name, "settings": self.settings, "source": registry.source(type(self.algorithm)),
            "budget": self.budget, "seed": self.seed,
        }  # fmt: skip
        recipe |= self.shaping_recipe if self.may("reward") else {}
        recipe |= {"unpaired": shared.unpaired_stage.key} if shared.unpaired_stage and self.may("labels") else {}
        recipe |= {"revisions": shared.revisions_stage.key} if self.may("revisions") else {}
        recipe |= {"rounds": rounds} if (rounds := plain(task.rounds)) else {}
        recipe |= {"loop": trl.identity()} if hasattr(self.algorithm, "train") else {}
        recipe |= {"answers": self.prompt_recipe | {"draws": self.task.evaluation.draws}} if self.selects else {}
        return Stage("train", recipe, self._select if self.selects else self._train)

    @property
    def shaping_recipe(self) -> dict[str, Any]:
        """What becomes of the reward models' rewards, for recipes; nothing where they are left as they are."""
        shaping = plain(self.task.shaping)
        return {"shaping": shaping} if shaping else {}

    def may(self, use: str) -> bool:
        """Whether the algorithm's source names a service of the lab: what it never names, its result can't depend on."""
        return registry.names_in(type(self.algorithm), use)

    def _train(self, work: Path) -> None:
        torch.manual_seed(self.seed)
        policy, reference = self._policy_to_train()
        meter = Meter(self.budget)
        source = FeedbackRounds(self.shared, work / ROUNDS)
        session = Session(policy, reference, source, meter, self.task.model.new_tokens, self.seed)
        trainer = Trainer(self.algorithm, session, self.task.training, work, self._forbidden)
        with _blamed(), preserved():
            trainer.run(self.name)
        policy.model.save_pretrained(work / "policy")
        log = [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in trainer.log]
        write_rows(work / "log.jsonl", log)
        record = {
            "spent": meter.spent(), "steps": meter.steps, "skipped": trainer.skipped, "reward": sorted(session.reward_models),
            "fraction": meter.fraction, "snapshots": trainer.snapshots, "reported": reported(log),
            "reported_error": reported_error(log),
        }  # fmt: skip
        record |= {"rounds": trainer.rounds} if trainer.rounds else {}
        record |= {"unmetered": trainer.guard.models} if trainer.guard.models else {}
        record |= {"loop": trainer.loop} if trainer.loop else {}
        (work / "record.json").write_text(json.dumps(record, indent=1))

    @property
    def selects(self) -> bool:
        """Whether the method trains nothing, and chooses among the base's answers."""
        return hasattr(self.algorithm, "select")

    def _select(self, work: Path) -> None:
        """In the place of training: choose the answers to the evaluation prompts, and pay for it."""
        base, meter, config = self.shared.base_model(), Meter(self.budget), self.task.evaluation
        source = FeedbackRounds(self.shared, work / ROUNDS)
        session = Session(base, base, source, meter, self.task.model.new_tokens, self.seed)
        session.guard = Guard(meter, tuple, self._forbidden, self.task.training.idle_seconds)
        with _blamed(), preserved():
            selection.make(work, self.algorithm, session, base, self.task.model, self.evaluation_prompts(), config.draws)
        write_rows(work / "log.jsonl", [])
        record = {
            "spent": meter.spent(), "steps": 0, "skipped": 0, "reward": sorted(session.reward_models),
            "fraction": meter.fraction, "snapshots": [], "reported": {}, "kl_bound": best_of_n_bound(self.algorithm.draws),
        }  # fmt: skip
        record |= {"unmetered": session.guard.models} if session.guard.models else {}
        (work / "record.json").write_text(json.dumps(record, indent=1))

    @property
    def _forbidden(self) -> tuple[Path, Path]:
        """Folders that an algorithm's code must not read."""
        return self.shared.store.root, assets.cache_dir()

    def read_record(self) -> dict[str, Any]:
        """What training left on record, empty for the base. Trains first where that is not done."""
        return json.loads((self.shared.get(self.train) / "record.json").read_text()) if self.trains else {}

    def read_log(self) -> list[dict[str, Any]]:
        """Scalars of each step along the budget. Trains first where that is not done."""
        return list(read_rows(self.shared.get(self.train) / "log.jsonl")) if self.trains else []

    @property
    def _rank(self) -> int:
        """Of the policy's adapter, 0 where all weights are trained: the algorithm's own, or that of the task."""
        return int(getattr(self.algorithm, "lora", 0) or self.task.model.lora)

    def _policy_to_train(self) -> tuple[LanguageModel, LanguageModel]:
        """Policy and frozen reference; with LoRA they are one model, adapter on and off."""
        config, base = self.task.model, self.shared.base_model(autocast=self.task.model.bf16)
        if self._rank:
            model = get_peft_model(base.inner, lora(self._rank, "CAUSAL_LM"))
            policy = LanguageModel(model.to(device()), base.tokenizer, base.ends, base.autocast)
            return policy, policy
        policy = self.shared.base_model(autocast=config.bf16)
        policy.model.requires_grad_(True)
        return policy, base

    @property
    def prompt_recipe(self) -> dict[str, Any]:
        """Which prompts are evaluated."""
        split = self.task.evaluation.split
        return {"prompts": self.shared.prompt_recipe(split), "split": split}

    def evaluation_prompts(self) -> list[prompts.Prompt]:
        """The prompts that are evaluated."""
        return prompts.load_split(self.task.prompts, self.task.evaluation.split)

    def load_policy(self, weights: str = "policy") -> tuple[LanguageModel, LanguageModel]:
        """Policy and SFT base in fp32."""
        base = self.shared.base_model()
        if not self.trains or self.selects:
            return base, base
        folder = self.shared.get(self.train) / weights
        if self._rank:
            adapted = PeftModel.from_pretrained(self.shared.base_model().inner, str(folder))
            model: Any = adapted.merge_and_unload()  # decoding needs no adapter of its own
        else:
            model, _ = language.load_model(self.task.model.name, folder)
        return LanguageModel(model.eval().to(device()), base.tokenizer, base.ends), base


@contextmanager
def _blamed() -> Iterator[None]:
    """Whatever goes wrong inside is the method's failure."""
    try:
        yield
    except UserError as error:
        raise TrainingFailed(str(error)) from error
    except Exception as error:
        if os.environ.get("ISOALIGN_DEBUG"):
            raise
        raise TrainingFailed(unforeseen(error)) from error


def reported(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """A method's own estimate of its KL: the mean over the last tenth of what it logged."""
    return {name: statistics.fmean(values[-max(1, len(values) // 10) :]) for name, values in _reports(log).items()}


def reported_error(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Standard errors of these means, from the spread of that tenth, five rows of it at least; none of a single row."""
    tenths = {name: (values, max(1, len(values) // 10)) for name, values in _reports(log).items() if len(values) > 1}
    return {name: statistics.stdev(values[-max(5, tenth) :]) / math.sqrt(tenth) for name, (values, tenth) in tenths.items()}


def _reports(log: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """What a method logged as its KL, if it logged it to the end (a hybrid's first half says nothing of the policy that it
    ended with)."""
    found = {name: [row for row in log if row.get(name) is not None] for name in ("kl", "kl_k1", "kl_k2", "kl_k3")}
    ended = {name: rows for name, rows in found.items() if rows and rows[-1]["flops_spent"] >= LOGGED * log[-1]["flops_spent"]}
    return {name: [row[name] for row in rows] for name, rows in ended.items()}
