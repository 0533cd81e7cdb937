"""One run: train -> sample -> score -> card, each a stage of the store."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench import metrics, registry
from bench.config import TaskConfig
from bench.errors import UserError
from bench.lab import Lab
from bench.machine import device
from bench.meter import Meter
from bench.models import language
from bench.models.language import LanguageModel
from bench.shared import Shared, Stage
from bench.stages import pairs, sample, score
from bench.stages.candidates import read_rows, write_rows
from bench.stages.sft import lora
from bench.store import digest
from bench.train import Trainer
from bench.types import Budget, Card

TRAIN_VERSION = 2
BASE = "sft"  # the row of the base itself
PACKAGES = ("torch", "transformers", "trl", "peft", "evaluate", "hydra-core", "numpy", "scipy")
CAVEAT = "Classifier scorers are weak on implicit hate and blind to threats; judge, annotator and scorers share Jigsaw data."

TUNING = "by hand, from a prototype's calibration; not yet the same number of trials for each method"


@dataclass(frozen=True)
class Run:
    """A method on a task under a budget with a seed."""

    name: str
    algorithm: Any
    budget: Budget
    seed: int
    shared: Shared

    @property
    def task(self) -> TaskConfig:
        """The task's configuration."""
        return self.shared.task

    def card(self, command: str) -> Card:
        """Make what is not made yet, and put the card together."""
        trained = self.shared.get(self.train) if self.trains else None
        record = json.loads((trained / "record.json").read_text()) if trained else {}
        used = record.get("reward", [])
        scored = self.scored(used)
        folder = self.shared.get(scored)
        return Card(
            key=digest({"score": scored.key, "algorithm": self.settings, "seed": self.seed, "budget": self.budget}),
            task=self.task.name,
            algorithm=self.name,
            config={"algorithm": self.settings, "task": asdict(self.task)},
            seed=self.seed,
            budget=asdict(self.budget),
            spent=record.get("spent") or Meter(self.budget).spent() | {"seconds": 0.0},
            metrics=score.metrics_of(folder),
            parents=self.parents(used),
            versions=versions(folder),
            command=command,
            flags=json.loads((folder / "flags.json").read_text()),
            training={key: record[key] for key in ("steps", "skipped") if key in record},
            notes=self.notes(),
        )

    @property
    def trains(self) -> bool:
        """The SFT row has no iteration: it is the base itself."""
        if not hasattr(self.algorithm, "iteration") and self.name != BASE:
            raise UserError(f"algorithm {self.name} has no method iteration(lab); see CONTRIBUTING.md")
        return self.name != BASE

    @property
    def settings(self) -> dict[str, Any]:
        """The algorithm's hyperparameters."""
        return registry.hyperparameters(self.algorithm)

    # -- stages ---------------------------------------------------------------------------------------------------

    @property
    def train(self) -> Stage:
        """The trained policy. Its key covers all that the lab could hand the algorithm, and the algorithm's source."""
        task, shared = self.task, self.shared
        recipe = {
            "version": TRAIN_VERSION, "sft": shared.sft.key, "model": task.model,
            "training": asdict(task.training) | {"checkpoint_seconds": None},
            "pairs": [shared.pairs(by).key for by in pairs.SOURCES],
            "reward": [shared.reward_model(by).key for by in pairs.SOURCES if self._may("reward")],
            "algorithm": self.name, "settings": self.settings, "source": registry.source(type(self.algorithm)),
            "budget": self.budget, "seed": self.seed,
        }  # fmt: skip
        return Stage("train", recipe, self._train)

    def _may(self, use: str) -> bool:
        """Whether the algorithm's source names a service of the lab: what it never names, its result can't depend on."""
        return registry.names_in(type(self.algorithm), use)

    def _train(self, work: Path) -> None:
        torch.manual_seed(self.seed)
        policy, reference = self._policy_to_train()
        meter = Meter(self.budget)
        lab = Lab(policy, reference, self.shared, meter, self.task.model.new_tokens, self.seed)
        trainer = Trainer(self.algorithm, lab, policy, meter, self.task.training, work)
        trainer.run(self.name)
        policy.model.save_pretrained(work / "policy")
        write_rows(work / "log.jsonl", trainer.log)
        record = {"spent": meter.spent(), "steps": meter.steps, "skipped": trainer.skipped, "reward": sorted(lab._paid)}
        (work / "record.json").write_text(json.dumps(record, indent=1))

    def _policy_to_train(self) -> tuple[LanguageModel, LanguageModel]:
        """Policy and frozen reference; with LoRA they are one model, adapter on and off."""
        config, base = self.task.model, self.shared.base_model(autocast=self.task.model.bf16)
        if config.lora:
            from peft import get_peft_model

            model = get_peft_model(base.inner, lora(config.lora, "CAUSAL_LM"))
            policy = LanguageModel(model.to(device()), base.tokenizer, base.ends, base.autocast)
            return policy, policy
        policy = self.shared.base_model(autocast=config.bf16)
        policy.model.requires_grad_(True)
        return policy, base

    def sampled(self, used: list[str]) -> Stage:
        """Evaluation completions; ``used`` names the reward model that the method trained on, if any."""
        task, shared = self.task, self.shared
        held_out = shared.pairs("annotator", task.evaluation.split)
        reward_model = shared.reward_model(used[0]).key if used else None
        recipe = {
            "version": sample.VERSION, "policy": self.train.key if self.trains else shared.sft.key,
            "sft": shared.sft.key, "pairs": held_out.key, "reward": reward_model,
            "prompts": shared.prompt_recipe(task.evaluation.split),
            "draws": task.evaluation.draws, "seed": task.evaluation.seed,
        }  # fmt: skip

        def make(work: Path) -> None:
            policy, base = self._policy_to_score()
            reward = shared.reward(used[0]) if used else None
            sample.make(work, policy, base, reward, shared.get(held_out), task.model, task.prompts, task.evaluation)

        return Stage("samples", recipe, make)

    def _policy_to_score(self) -> tuple[LanguageModel, LanguageModel]:
        """Policy and SFT base in fp32."""
        base = self.shared.base_model()
        if not self.trains:
            return base, base
        weights = self.shared.get(self.train) / "policy"
        if self.task.model.lora:
            from peft import PeftModel

            adapted = PeftModel.from_pretrained(self.shared.base_model().inner, str(weights))
            model: Any = adapted.merge_and_unload()  # decoding needs no adapter of its own
        else:
            model, _ = language.load(self.task.model.name, weights)
        return LanguageModel(model.eval().to(device()), base.tokenizer, base.ends), base

    def scored(self, used: list[str]) -> Stage:
        """Metrics of the samples, against the SFT row's."""
        samples = self.sampled(used)
        base = self._base_row.scored([]) if self.trains else None
        config = self.task.evaluation
        recipe = {
            "version": score.VERSION, "samples": samples.key, "base": base.key if base else None,
            "scorers": [config.scorer, config.second_scorer], "metrics": metrics.versions(),
        }  # fmt: skip

        def make(work: Path) -> None:
            folder = self.shared.get(base) if base else None
            vocabulary = self.shared.base_model().vocabulary
            score.make(work, self.shared.get(samples), folder, config, vocabulary)

        return Stage("scores", recipe, make)

    @property
    def _base_row(self) -> Run:
        return Run("sft", registry.algorithm(BASE)(), self.budget, self.seed, self.shared)

    # -- the card -------------------------------------------------------------------------------------------------

    def parents(self, used: list[str]) -> dict[str, str]:
        """The keys of every stage behind the card."""
        shared = self.shared
        keys = {"sft": shared.sft, "candidates": shared.candidates("train"), "raters": shared.raters}
        keys |= {"pairs": shared.pairs("annotator"), "held_out": shared.pairs("annotator", self.task.evaluation.split)}
        keys |= {"samples": self.sampled(used), "scores": self.scored(used)}
        keys |= {f"reward_{by}": shared.reward_model(by) for by in used}
        if self.trains:
            keys["train"] = self.train
        return {name: stage.key for name, stage in keys.items()}

    def notes(self) -> dict[str, Any]:
        """What a reader must know to read the figures."""
        config = self.task.evaluation
        return {
            "prompts": getattr(self.task.prompts, config.split), "split": config.split, "draws": config.draws,
            "scorer": config.scorer, "second_scorer": config.second_scorer, "noise": self.task.feedback.noise,
            "correlation": json.loads((self.shared.get(self.agreement) / "correlation.json").read_text()),
            "tuning": TUNING, "caveat": CAVEAT,
        }  # fmt: skip

    @property
    def agreement(self) -> Stage:
        """Rank correlation of judge and annotator with the evaluation scorers, on the SFT row's samples."""
        shared, base = self.shared, self._base_row
        recipe = {"version": 1, "raters": shared.raters.key, "scores": base.scored([]).key}

        def make(work: Path) -> None:
            from scipy.stats import spearmanr

            scores = json.loads((shared.get(base.scored([])) / "scores.json").read_text())
            texts = [str(row["completion"]) for row in read_rows(shared.get(base.sampled([])) / "samples.jsonl")]
            folder, columns = shared.get(shared.raters), dict(scores)
            columns |= {by: pairs.rater_of(folder, by)(texts).tolist() for by in pairs.SOURCES}
            rows = {
                f"{by} with {other}": round(float(spearmanr(columns[by], columns[other], nan_policy="omit")[0]), 3)
                for by, other in [*((by, name) for by in pairs.SOURCES for name in scores), ("judge", "annotator")]
            }
            (work / "correlation.json").write_text(json.dumps(rows))

        return Stage("agreement", recipe, make)

    def training_log(self) -> list[dict[str, Any]]:
        """Scalars of each step along the budget."""
        return list(read_rows(self.shared.get(self.train) / "log.jsonl")) if self.trains else []


def versions(scored: Path) -> dict[str, str]:
    """The packages that a figure may depend on, and the version of each metric family."""
    found = {name: importlib.metadata.version(name) for name in ("isoalign", *PACKAGES)}
    families = json.loads((scored / "versions.json").read_text())
    return {"python": platform.python_version(), **found} | {f"metric {k}": str(v) for k, v in families.items()}
