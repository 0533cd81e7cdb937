"""One run: train -> samples -> readings -> figures and curve -> card, each a stage of the store."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from isoalign import stats
from isoalign.config.task import TaskConfig
from isoalign.config.training import TrainConfig
from isoalign.core import plugins
from isoalign.core.errors import TrainingFailed, UserError, unforeseen
from isoalign.core.records import Budget, Card
from isoalign.core.runtime import device
from isoalign.core.store import content, plain
from isoalign.data import assets, prompts
from isoalign.data.preferences import Feedback
from isoalign.evaluation import curve, judge_check, metric_values, metrics, selection
from isoalign.evaluation import samples as sample
from isoalign.evaluation import scores as readings
from isoalign.evaluation.card import key_of
from isoalign.evaluation.scoring import scored
from isoalign.models import language
from isoalign.models.language import LanguageModel
from isoalign.models.reward import Rewarder
from isoalign.runs import notes
from isoalign.stages import pairs
from isoalign.stages.candidates import read_rows, write_rows
from isoalign.stages.rounds import Rounds
from isoalign.stages.sft import lora
from isoalign.stages.shared import Shared, Stage
from isoalign.training import registry, trl
from isoalign.training.guard import Guard
from isoalign.training.lab import Lab
from isoalign.training.meter import Meter
from isoalign.training.process_state import kept
from isoalign.training.trainer import Trainer

TRAIN_VERSION = 3
ROUNDS = "rounds"  # of a train stage: what later rounds of feedback made
BASE = "sft"  # the row of the base itself
PACKAGES = ("torch", "transformers", "trl", "peft", "evaluate", "hydra-core", "numpy", "scipy")
TOLD = ("steps", "skipped", "reported", "reported_error", "rounds", "loop")  # of a training's record, on the card
LOGGED = 0.9  # of what is spent: a log that ends before says nothing of the end
IDLE = TrainConfig().idle_seconds


@dataclass(frozen=True)
class RewardSource:
    """Whose verdicts a reward model learned, what a recipe says of it, and how to get it."""

    by: str
    key: Any
    load: Callable[[], Rewarder]

    @classmethod
    def shared(cls, shared: Shared, by: str) -> RewardSource:
        """That of a task, or its ensemble, which all methods share."""
        first, *others = [stage.key for stage in shared.reward_models(by).values()]
        return cls(by, [first, *others] if others else first, lambda: shared.reward(by))


@dataclass(frozen=True)
class Run:
    """A method on a task under a budget with a seed. ``tuning``: how its settings were found."""

    name: str
    algorithm: Any
    budget: Budget
    seed: int
    shared: Shared
    tuning: str = ""

    @property
    def task(self) -> TaskConfig:
        """The task's configuration."""
        return self.shared.task

    def card(self, command: str) -> Card:
        """Make what is not made yet, and put the card together."""
        parents, record = self.parents, self.record
        card = Card(
            key="",
            task=self.task.name,
            algorithm=self.name,
            config={"algorithm": self.settings, "task": asdict(self.task)},
            seed=self.seed,
            budget=asdict(self.budget),
            spent=record.get("spent") or Meter(self.budget).spent() | {"seconds": 0.0},
            metrics={},
            parents={name: stage.key for name, stage in parents.items()},
            versions=packages() | self._package,
            command=command,
            training={key: record[key] for key in TOLD if key in record},
            notes=notes.of(self),
            contents={name: content(self.shared.get(stage)) for name, stage in parents.items()},
        )
        own, base = (metric_values.read(self.shared.get(row.figures)) for row in (self, self._base_row))
        points = curve.read(self.shared.get(self.curve)) if self.trains else []
        return scored(replace(card, key=key_of(card)), own, base if self.trains else None, points)

    @property
    def _package(self) -> dict[str, str]:
        """The package that brought the algorithm, where it is a plug-in."""
        found = plugins.distribution(type(self.algorithm))
        return dict([found]) if found else {}

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

    # -- stages ---------------------------------------------------------------------------------------------------

    @property
    def train(self) -> Stage:
        """The trained policy. Its key covers all that the lab could hand the algorithm, and the algorithm's source."""
        task, shared = self.task, self.shared
        recipe = {
            "version": TRAIN_VERSION, "sft": shared.sft.key, "model": task.model,
            "training": plain(replace(task.training, idle_seconds=IDLE)) | {"checkpoint_seconds": None},
            "pairs": [shared.pairs(by).key for by in pairs.SOURCES],
            "reward": [m.key for by in pairs.SOURCES for m in shared.reward_models(by).values() if self.may("reward")],
            "algorithm": self.name, "settings": self.settings, "source": registry.source(type(self.algorithm)),
            "budget": self.budget, "seed": self.seed,
        }  # fmt: skip
        recipe |= self._shaping if self.may("reward") else {}
        recipe |= {"thumbs": shared.thumbs_stage.key} if shared.thumbs_stage and self.may("labels") else {}
        recipe |= {"revisions": shared.revisions_stage.key} if self.may("revisions") else {}
        recipe |= {"rounds": rounds} if (rounds := plain(task.rounds)) else {}
        recipe |= {"loop": trl.identity()} if hasattr(self.algorithm, "train") else {}
        recipe |= {"answers": self._questions | {"draws": self.task.evaluation.draws}} if self._selects else {}
        return Stage("train", recipe, self._select if self._selects else self._train)

    @property
    def _shaping(self) -> dict[str, Any]:
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
        rounds = Rounds(self.shared, work / ROUNDS)
        lab = Lab(policy, reference, rounds, meter, self.task.model.new_tokens, self.seed)
        trainer = Trainer(self.algorithm, lab, policy, meter, self.task.training, work, self._shut)
        with _blamed(), kept():
            trainer.run(self.name)
        policy.model.save_pretrained(work / "policy")
        log = [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in trainer.log]
        write_rows(work / "log.jsonl", log)
        record = {
            "spent": meter.spent(), "steps": meter.steps, "skipped": trainer.skipped, "reward": sorted(lab._paid),
            "fraction": meter.fraction, "snapshots": trainer.snapshots, "reported": reported(log),
            "reported_error": reported_error(log),
        }  # fmt: skip
        record |= {"rounds": trainer.rounds} if trainer.rounds else {}
        record |= {"unmetered": trainer.guard.models} if trainer.guard.models else {}
        record |= {"loop": trainer.loop} if trainer.loop else {}
        (work / "record.json").write_text(json.dumps(record, indent=1))

    @property
    def _selects(self) -> bool:
        """Whether the method trains nothing, and chooses among the base's answers."""
        return hasattr(self.algorithm, "select")

    def _select(self, work: Path) -> None:
        """In the place of training: choose the answers to the evaluation prompts, and pay for it."""
        from isoalign.evaluation.metrics.kl import best_of_n_bound

        base, meter, config = self.shared.base_model(), Meter(self.budget), self.task.evaluation
        lab = Lab(base, base, Rounds(self.shared, work / ROUNDS), meter, self.task.model.new_tokens, self.seed)
        lab._guard = Guard(meter, tuple, self._shut, self.task.training.idle_seconds)
        with _blamed(), kept():
            selection.make(work, self.algorithm, lab, base, self.task.model, self._prompts, config.draws)
        write_rows(work / "log.jsonl", [])
        record = {
            "spent": meter.spent(), "steps": 0, "skipped": 0, "reward": sorted(lab._paid), "fraction": meter.fraction,
            "snapshots": [], "reported": {}, "kl_bound": best_of_n_bound(self.algorithm.draws),
        }  # fmt: skip
        record |= {"unmetered": lab._guard.models} if lab._guard.models else {}
        (work / "record.json").write_text(json.dumps(record, indent=1))

    @property
    def _shut(self) -> tuple[Path, Path]:
        """Folders that an algorithm's code must not read."""
        return self.shared.store.root, assets.cache_dir()

    @property
    def record(self) -> dict[str, Any]:
        """What training left on record; nothing for the base."""
        return json.loads((self.shared.get(self.train) / "record.json").read_text()) if self.trains else {}

    @property
    def _rank(self) -> int:
        """Of the policy's adapter, 0 where all weights are trained: the algorithm's own, or that of the task."""
        return int(getattr(self.algorithm, "lora", 0) or self.task.model.lora)

    def _policy_to_train(self) -> tuple[LanguageModel, LanguageModel]:
        """Policy and frozen reference; with LoRA they are one model, adapter on and off."""
        config, base = self.task.model, self.shared.base_model(autocast=self.task.model.bf16)
        if self._rank:
            from peft import get_peft_model

            model = get_peft_model(base.inner, lora(self._rank, "CAUSAL_LM"))
            policy = LanguageModel(model.to(device()), base.tokenizer, base.ends, base.autocast)
            return policy, policy
        policy = self.shared.base_model(autocast=config.bf16)
        policy.model.requires_grad_(True)
        return policy, base

    @property
    def samples(self) -> Stage:
        """Evaluation completions, and the held-out pairs and the base's own completions as the policy sees them."""
        config, shared = self.task.evaluation, self.shared
        held_out, base = shared.pairs("annotator", config.split), self._base_row.samples if self.trains else None
        recipe = self._sampling | {"pairs": held_out.key, "base": base.key if base else None, "draws": config.draws}

        def make(work: Path) -> None:
            policy, reference = self._policy_to_score()
            theirs = sample.read_samples(shared.get(base)) if base and not self._selects else []
            if self._selects:
                folder, bound = shared.get(self.train), self.record["kl_bound"]
                selection.samples(work, folder, reference, self.task.model, self._prompts, config.draws, bound)
            else:
                sample.make(work, policy, reference, self.task.model, self._prompts, config.draws, config.seed)
            firsts = [s for s in theirs if s.draw == 0]
            feedback = Feedback.read(shared.get(held_out))
            sample.pairs_and_reverse(work, policy, reference, self.task.model, feedback, firsts)

        return Stage("samples", recipe, make)

    def snapshot(self, steps: int) -> Stage:
        """Completions of the policy as it was after some steps: fewer prompts and draws, those of the full samples."""
        config = self.task.evaluation
        recipe = self._sampling | {"steps": steps, "curve_prompts": config.curve_prompts, "draws": config.curve_draws}

        def make(work: Path) -> None:
            policy, reference = self._policy_to_score(f"snapshots/{steps}")
            chosen = self.curve_prompts
            sample.make(work, policy, reference, self.task.model, chosen, config.curve_draws, config.seed)

        return Stage("samples", recipe, make)

    @property
    def _sampling(self) -> dict[str, Any]:
        config = self.task.evaluation
        return {
            "version": sample.VERSION, "policy": self.train.key if self.trains else self.shared.sft.key,
            "sft": self.shared.sft.key, "seed": config.seed,
        } | self._questions  # fmt: skip

    @property
    def _questions(self) -> dict[str, Any]:
        """Which prompts are evaluated."""
        split = self.task.evaluation.split
        return {"prompts": self.shared.prompt_recipe(split), "split": split}

    @property
    def _prompts(self) -> list[prompts.Prompt]:
        return prompts.of(self.task.prompts, self.task.evaluation.split)

    @property
    def curve_prompts(self) -> list[prompts.Prompt]:
        """Evenly spaced in the list of prompts, so that every stratum keeps its share."""
        every, count = self._prompts, min(self.task.evaluation.curve_prompts, len(self._prompts))
        return [every[place * len(every) // count] for place in range(count)]

    def _policy_to_score(self, weights: str = "policy") -> tuple[LanguageModel, LanguageModel]:
        """Policy and SFT base in fp32."""
        base = self.shared.base_model()
        if not self.trains or self._selects:
            return base, base
        folder = self.shared.get(self.train) / weights
        if self._rank:
            from peft import PeftModel

            adapted = PeftModel.from_pretrained(self.shared.base_model().inner, str(folder))
            model: Any = adapted.merge_and_unload()  # decoding needs no adapter of its own
        else:
            model, _ = language.load(self.task.model.name, folder)
        return LanguageModel(model.eval().to(device()), base.tokenizer, base.ends), base

    def readings(self, samples: Stage, source: RewardSource | None = None) -> Stage:
        """What scorers, sentence encoder and reward model say of some samples; ``source``: a reward model that is not this
        run's, but that of the run, or the card, that these samples are compared for."""
        config, shared = self.task.evaluation, self.shared
        source, optimised = source or self.reward_source, not source and bool(self.rewards_asked)
        held_out = shared.pairs("annotator", config.split)
        # no temperature is fitted on the pairs that it is judged on
        validation = shared.pairs("annotator", "validation") if config.split != "validation" else None
        recipe = {
            "version": readings.VERSION, "samples": samples.key, "scorers": [config.scorer, config.second_scorer],
            "assets": readings.assets_of(config), "reward": source.key,
            "optimised": optimised, "held_out": held_out.key, "validation": validation.key if validation else None,
        }  # fmt: skip
        recipe |= self._shaping

        def make(work: Path) -> None:
            judged = Feedback.read(shared.get(held_out))
            fitted = Feedback.read(shared.get(validation)) if validation else None
            rewarder = readings.Rewarder(source.by, optimised, source.load(), judged, fitted)
            readings.make(work, shared.get(samples), config, shared.base_model(), self.task.model, rewarder)

        return Stage("readings", recipe, make)

    @property
    def rewarded_by(self) -> str:
        """Whose reward model looks at the samples: that which the method trained on, or the annotator's."""
        return next(iter(self.rewards_asked), "annotator")

    @property
    def rewards_asked(self) -> dict[str, int]:
        """By whose verdicts it learned, the last round whose reward model the method asked."""
        asked = [name.partition("@") for name in self.record.get("reward", [])]
        return {by: max(int(n or 0) for other, _, n in asked if other == by) for by, _, _ in asked}

    @property
    def reward_source(self) -> RewardSource:
        """The reward model that the method trained on, of its last round; or the annotator's."""
        by = self.rewarded_by
        number = self.rewards_asked.get(by, 0)
        if not number:
            return RewardSource.shared(self.shared, by)

        def load() -> Rewarder:
            rounds = Rounds(self.shared, self.shared.get(self.train) / ROUNDS)
            rounds.number = number
            return rounds.reward(by)

        return RewardSource(by, {"train": self.train.key, "round": number}, load)

    @property
    def figures(self) -> Stage:
        """Metrics of the samples, against the SFT row's."""
        own, base = self.readings(self.samples), self._base_readings if self.trains else None
        recipe = {
            "version": metric_values.VERSION, "readings": own.key, "base": base.key if base else None,
            "metrics": metrics.versions(), "statistics": stats.VERSION,
        }  # fmt: skip

        def make(work: Path) -> None:
            metric_values.make(work, readings.scored_samples(self.shared.get(own), self.shared.get(base) if base else None))

        return Stage("figures", recipe, make)

    @property
    def curve(self) -> Stage:
        """Figures of the snapshots, between the SFT base and the trained policy on the same prompts and draws."""
        stages = [stage for _, stage in self._snapshots]
        end, base = self.readings(self.samples), self._base_readings
        config = self.task.evaluation
        recipe = {
            "version": curve.VERSION, "snapshots": [stage.key for stage in stages], "end": end.key, "base": base.key,
            "metrics": metrics.versions(), "statistics": stats.VERSION,
            "curve_prompts": config.curve_prompts, "curve_draws": config.curve_draws,
        }  # fmt: skip

        def make(work: Path) -> None:
            folders = [self.shared.get(stage) for stage in (*stages, end)]
            chosen = [prompt.id for prompt in self.curve_prompts]
            curve.make(work, curve.places(self.record), folders, self.shared.get(base), chosen, config.curve_draws)

        return Stage("curve", recipe, make)

    @property
    def _snapshots(self) -> list[tuple[dict[str, Any], Stage]]:
        """Where along the budget the policy was kept, and what was read of it there."""
        return [(place, self.readings(self.snapshot(place["steps"]))) for place in self.record["snapshots"]]

    @property
    def _base_row(self) -> Run:
        return Run(BASE, registry.algorithm(BASE)(), self.budget, self.seed, self.shared)

    @property
    def _base_readings(self) -> Stage:
        """Of the SFT row's samples, by the same reward model as the method's own, or its curve would not start at 0."""
        return self._base_row.readings(self._base_row.samples, self.reward_source)

    # -- the card -------------------------------------------------------------------------------------------------

    @property
    def parents(self) -> dict[str, Stage]:
        """Every stage behind the card."""
        shared, split = self.shared, self.task.evaluation.split
        stages = {"sft": shared.sft, "raters": shared.raters, "agreement": self.agreement}
        stages |= {"thumbs": shared.thumbs_stage} if shared.thumbs_stage else {}
        stages |= {"candidates": shared.candidates("train")} if not self.task.feedback.file else {}
        stages |= {"revisions": shared.revisions_stage} if self.may("revisions") else {}
        stages |= {"pairs": shared.pairs("annotator"), "held_out": shared.pairs("annotator", split)}
        stages |= shared.reward_models(self.rewarded_by)
        if self.trains:
            stages |= {"train": self.train, "base_samples": self._base_row.samples, "base_readings": self._base_readings}
            stages |= {f"readings@{place['steps']}": stage for place, stage in self._snapshots}
        stages |= {"judge": self.judge_check} if self.judge_check else {}
        return stages | {"samples": self.samples, "readings": self.readings(self.samples)}

    @property
    def agreement(self) -> Stage:
        """Rank correlation of judge and annotator with the evaluation scorers, on the SFT row's samples."""
        shared, base = self.shared, self._base_row
        read = base.readings(base.samples)
        recipe = {"version": 2, "raters": shared.raters.key, "readings": read.key}

        def make(work: Path) -> None:
            from scipy.stats import spearmanr

            scores = json.loads((shared.get(read) / "scores.json").read_text())
            texts = [row.completion for row in sample.read_samples(shared.get(base.samples))]
            folder, columns = shared.get(shared.raters), dict(scores)
            columns |= {by: pairs.rater_of(folder, by)(texts).tolist() for by in pairs.SOURCES}
            rows = {
                f"{by} with {other}": round(float(spearmanr(columns[by], columns[other], nan_policy="omit")[0]), 3)
                for by, other in [*((by, name) for by in pairs.SOURCES for name in scores), ("judge", "annotator")]
            }
            (work / "correlation.json").write_text(json.dumps(rows))

        return Stage("agreement", recipe, make)

    @property
    def judge_check(self) -> Stage | None:
        """What a judge that is asked says of held-out pairs, if the method learned from one: how often it agrees with the
        annotator, with what the annotator would have said without noise, and with the evaluation scorers."""
        judge = self.task.judge
        if judge.kind == "classifier" or self.rewarded_by != "judge":
            return None
        shared, held_out = self.shared, self.shared.pairs("annotator", self.task.evaluation.split)
        recipe = {"version": 1, "judge": shared.judge_identity, "held_out": held_out.key, "readings": self._base_readings.key}

        def make(work: Path) -> None:
            asked, scores = shared.asked_judge(), self.shared.get(self._base_readings) / "pair_scores.json"
            assert asked is not None
            told = judge_check.check(
                asked, Feedback.read(shared.get(held_out)), shared.base_model(), json.loads(scores.read_text())
            )
            (work / "judge.json").write_text(json.dumps(told, indent=1))

        return Stage("judge", recipe, make)

    def training_log(self) -> list[dict[str, Any]]:
        """Scalars of each step along the budget."""
        return list(read_rows(self.shared.get(self.train) / "log.jsonl")) if self.trains else []


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


def packages() -> dict[str, str]:
    """The packages that a figure may depend on."""
    found = {name: importlib.metadata.version(name) for name in ("isoalign", *PACKAGES)}
    return {"python": platform.python_version()} | found
