"""Settings that tuning chose belong to the base on which it chose them: on another one a run has the algorithm's defaults."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from isoalign.config.search_path import folders, options
from isoalign.config.task import ModelConfig
from isoalign.core.errors import UserError
from isoalign.evaluation.card import BY_HAND, DEFAULT, OTHER_BASE
from isoalign.models import loading


def base_of(model: ModelConfig) -> dict[str, Any]:
    """What makes a base for tuning: its weights, by digest or commit, the rank of the task's adapters, and the dtype."""
    return {"weights": loading.weights_identity(model.name), "lora": model.lora, "dtype": model.dtype}


def tuned_settings(task: str, algorithm: str, model: ModelConfig) -> dict[str, Any]:
    """The settings that tuning chose for an algorithm on a task; empty without any, or where they are of another base."""
    files = (folder / "tuned" / f"{task}_{algorithm}.yaml" for folder in folders())
    found: dict[str, Any] = next((yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.exists()), {})
    return found.get("algorithm", {}) if found and found.get("tuned_on") == base_of(model) else {}


def settings_and_tuning(config: DictConfig, model: ModelConfig) -> tuple[dict[str, Any], str]:
    """The algorithm's settings on a base, and how they were found, for the card.

    What is typed holds in any case, and a setting that is typed makes all of them settings by hand. Raises UserError for
    ``tuned=`` another method's settings, or those of another base.
    """
    words = list(HydraConfig.get().overrides.task)
    typed = any(word.lstrip("+~").startswith("algorithm.") for word in words)
    tuning, name, choice = str(config.tuning), config.algorithm.get("name", ""), HydraConfig.get().runtime.choices.get("tuned")
    if choice in options("tuned") and choice != DEFAULT:
        named = any(word.startswith("tuned=") for word in words)
        if re.sub(r"-\d+$", "", choice) not in [f"{task}_{name}" for task in options("task")]:
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
    settings: Any = OmegaConf.to_container(config.algorithm, resolve=True)
    return {key: value for key, value in settings.items() if key not in ("name", "of")}, BY_HAND if typed else tuning
