"""Configurations that people exchange: tasks, algorithms, tuned settings, those of plug-ins.

They are data: they set values, and can't run code, read the environment or files, or change how Hydra works. What is typed on
the command line may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from isoalign.core.errors import UserError

OF_A_RUN = ("runtime", "overrides", "job")  # entries of Hydra's part that differ between runs
RESOLVER = re.compile(r"\$\{[^${}]*:")


def composed(choices: list[str]) -> DictConfig:
    """The configuration of some choices. Raises UserError for one that is more than data."""
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        config = compose("config", overrides=choices, return_hydra_config=True)
        own = _hydra_itself()
    where = " ".join(choices)
    for key, value in _of_hydra(config).items():
        if value != own.get(key):
            raise UserError(f"{where}: its yaml sets hydra.{key}; only the command line may")
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    for key, value in _leaves(OmegaConf.to_container(config, resolve=False)):
        if "_target_" in key.split("."):
            raise UserError(f"{where}: its yaml sets {key}; a configuration names no code")
        if isinstance(value, str) and RESOLVER.search(value):
            raise UserError(f"{where}: {key} is {value!r}; a configuration reads neither the environment nor files")
    OmegaConf.set_struct(config, True)
    return config


@cache
def _hydra_itself() -> dict[str, Any]:
    """Hydra's part with no exchanged configuration but the embedded defaults."""
    return _of_hydra(compose("config", overrides=["task=nano", "algorithm=dpo", "~tuned"], return_hydra_config=True))


def _of_hydra(config: DictConfig) -> dict[str, Any]:
    whole: Any = OmegaConf.to_container(config.hydra, resolve=False)
    job = {key: value for key, value in whole["job"].items() if key in ("chdir", "env_set", "env_copy", "config")}
    return {key: value for key, value in whole.items() if key not in OF_A_RUN} | {"job": job}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list):
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in entries:
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
            if isinstance(key, str):
                yield f"{prefix}.{key}" if prefix else key, key  # a key may be an interpolation, too
    else:
        yield prefix, node
