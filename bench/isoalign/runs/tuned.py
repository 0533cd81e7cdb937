"""Settings that tuning chose belong to the base on which it chose them: on another one a run has the algorithm's defaults."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from isoalign.config.search_path import folders, options
from isoalign.config.task import ModelConfig
from isoalign.config.training import OF_THE_MACHINE
from isoalign.core.errors import UserError
from isoalign.evaluation.tracks import BY_HAND, DEFAULT, OTHER_BASE
from isoalign.models import loading

_SAME = (
    "bases", "seed", "evaluation.", "training.snapshots", "training.kl_snapshots", "training.micro_batch", "training.patience",
    "model.sampler", *OF_THE_MACHINE,
)  # fmt: skip
"""Settings of a task by which no other settings of a method would be chosen."""
BUDGET = "budget=small"  # what holds where none is typed
NAMES = ("name", "of")  # of an algorithm's yaml: no settings


def base_of(model: ModelConfig) -> dict[str, Any]:
    """What makes a base for tuning: its weights, by digest or commit, the rank of the task's adapters, and the dtype."""
    return {"weights": loading.weights_identity(model.name), "lora": model.lora, "dtype": model.dtype}


def check_named(task: str, algorithm: str) -> None:
    """Raise UserError where the file of settings that are tuned on a task, TASK_METHOD, has the name of another one: of a
    task with a shorter name and a method with a longer one."""
    name, methods = f"{task}_{algorithm}", set(options("algorithm"))
    for other in options("task"):
        method = name.removeprefix(f"{other}_")
        if len(other) < len(task) and method != name and method in methods:
            raise UserError(f"tuned/{name}.yaml is of {method} on {other}, not of {algorithm} on {task}: rename the task")


def settings_on(task: str, algorithm: str, model: ModelConfig) -> dict[str, Any]:
    """The settings of an algorithm on a task, as a run has them: of its yaml, and those that tuning chose on this base."""

    def read(file: str) -> dict[str, Any]:
        found = next((path for folder in folders() if (path := folder / file).exists()), None)
        return OmegaConf.to_container(OmegaConf.load(found)) if found else {}  # type: ignore[return-value]

    tuned = read(f"tuned/{task}_{algorithm}.yaml")
    chosen = tuned.get("algorithm", {}) if tuned and tuned.get("tuned_on") == base_of(model) else {}
    if chosen:
        check_named(task, algorithm)
    settings = read(f"algorithm/{algorithm}.yaml") | chosen
    return {key: value for key, value in settings.items() if key not in NAMES}


def choosing(words: Iterable[str]) -> set[str]:
    """Those of the words of a run or search by which other settings of a method might be chosen: of task and budget."""
    typed = {word.lstrip("+") for word in words} - {BUDGET}
    same = tuple(f"task.{name}" for name in _SAME)
    chosen = {word for word in typed if word.startswith(("task.", "budget")) and not word.startswith(same)}
    return chosen | {word for word in typed if word.startswith("task.evaluation.scorer")}


def settings_and_tuning(config: DictConfig, model: ModelConfig) -> tuple[dict[str, Any], str]:
    """The algorithm's settings on a base, and how they were found, for the card.

    What is typed holds in any case, and a setting that is typed makes all of them settings by hand. Raises UserError for
    ``tuned=`` another method's settings, or those of another base, and where the name of the task's file is another one's.
    """
    words = list(HydraConfig.get().overrides.task)
    typed = any(word.lstrip("+~").startswith("algorithm.") for word in words)
    tuning, name, choice = str(config.tuning), config.algorithm.get("name", ""), HydraConfig.get().runtime.choices.get("tuned")
    if choice in options("tuned") and choice != DEFAULT:
        named = any(word.startswith("tuned=") for word in words)
        study = re.sub(r"-\d+$", "", choice)
        if study not in [f"{task}_{name}" for task in options("task")]:
            raise UserError(f"tuned={choice} holds no settings of {name}; choose one TASK_{name}, or default")
        if config.tuned_on != base_of(model):
            if named:
                raise UserError(
                    f"tuned={choice} was tuned on another base than this run's; leave it out, or set tuned=default"
                )
            config = compose("config", overrides=[*words, "~tuned"])  # by the Hydra that runs this job
            tuning = OTHER_BASE
        elif choice != f"{config.task.name}_{name}":
            tuning = f"{tuning}, as {choice}"
        if tuning != OTHER_BASE:
            check_named(study.removesuffix(f"_{name}"), name)
            search, run = choosing(config.tuned_with), choosing(words)
            tuning += f", with {' '.join(sorted(search - run))}" if search - run else ""
            tuning += f", but not with {' '.join(sorted(run - search))}" if run - search else ""
    settings: Any = OmegaConf.to_container(config.algorithm, resolve=True)
    return {key: value for key, value in settings.items() if key not in NAMES}, BY_HAND if typed else tuning
