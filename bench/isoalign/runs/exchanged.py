"""Configurations that people exchange: tasks, algorithms, tuned settings, those of plug-ins.

They are data: they set values, and can't run code, read the environment or files, or change how Hydra works. What is typed on
the command line may.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from isoalign.config.search_path import folders
from isoalign.core import plugins
from isoalign.core.errors import UserError
from isoalign.core.outside_json import DEEPEST

LONGEST = 200_000  # characters of a file
PARTS = 20_000  # values in a file
OF_A_RUN = ("runtime", "overrides", "job")  # entries of Hydra's part that differ between runs
RESOLVER = re.compile(r"\$\{[^${}]*:")


def composed(choices: list[str]) -> DictConfig:
    """The configuration of some choices. Raises UserError for one that is more than data."""
    where = " ".join(choices)
    _check_size(choices)
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        try:
            config = compose("config", overrides=choices, return_hydra_config=True)
        except (ValueError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{where}: its yaml is no configuration: {reason}") from error
        own = _hydra_itself()
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


def _check_size(choices: list[str]) -> None:
    """Refuse yaml that is too much to read: the files of the choices, and all of plug-ins, which may include one another."""
    chosen = [f"{group}/{name}.yaml" for group, _, name in (choice.partition("=") for choice in choices)]
    files = [folder / name for folder in folders() for name in chosen]
    files += [file for folder in plugins.configurations().values() for file in sorted(folder.rglob("*.yaml"))]
    for file in dict.fromkeys(file for file in files if file.is_file()):
        text = file.read_text(encoding="utf-8", errors="replace")
        with suppress(yaml.YAMLError):  # which composing says
            if len(text) > LONGEST or _is_large(text):
                raise UserError(
                    f"{file} is too much for a configuration: at most {LONGEST:,} characters, {DEEPEST} levels, and {PARTS:,} "
                    "values, references written out"
                )


def _is_large(text: str) -> bool:
    """Whether yaml is too deep, or has too many values once each reference (``*name``) is what it stands for."""
    sizes: dict[str | None, float] = {}
    open_parts: list[list[Any]] = [[None, 0.0]]  # of each level, its name and how many values are in it
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_parts.append([event.anchor, 1.0])
        elif isinstance(event, yaml.AliasEvent | yaml.ScalarEvent | yaml.CollectionEndEvent):
            name, size = open_parts.pop() if isinstance(event, yaml.CollectionEndEvent) else (event.anchor, 1.0)
            if isinstance(event, yaml.AliasEvent):
                size = sizes.get(name, math.inf)  # unknown as yet: a part within itself
            sizes[name] = size
            open_parts[-1][1] += size
        if len(open_parts) > DEEPEST or open_parts[-1][1] > PARTS:
            return True
    return False


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
