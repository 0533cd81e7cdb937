"""Where each setting of a run is from: its default, what tuning chose, or the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isoalign.core.places import CONF, is_plain
from isoalign.core.records import Card
from isoalign.evaluation.tracks import TUNED, track
from isoalign.report.board.rows import flatten

UNKNOWN = "not known to this version"


@dataclass(frozen=True)
class Setting:
    """One setting, with the ``default`` of this version, None where it knows none, and what it is from in a few words."""

    name: str
    value: Any
    default: Any
    origin: str


def algorithm_settings(card: Card) -> list[Setting]:
    """The settings of a run's algorithm, in the order of its card."""
    told = card.config.get("algorithm")
    own = flatten(told) if isinstance(told, dict) and told else {}
    defaults, typed = _defaults(card.algorithm), typed_settings(card.command)
    return [
        Setting(name, value, defaults.get(name), _origin(card, name, value, defaults, f"algorithm.{name}" in typed))
        for name, value in own.items()
        if name != "name"
    ]


def _origin(card: Card, name: str, value: Any, defaults: Mapping[str, Any], typed: bool) -> str:
    if typed:
        return "typed"
    if name in defaults and value == defaults[name]:
        return "default"
    if track(card) == TUNED:
        return "tuned"
    return "default of another version, or of a file of tuned settings" if name in defaults else UNKNOWN


def task_settings(card: Card) -> list[Setting]:
    """The settings of a run's task, those of the command line marked."""
    told = card.config.get("task")
    own = flatten(told) if isinstance(told, dict) and told else {}
    typed = [key.removeprefix("task.") for key in typed_settings(card.command) if key.startswith("task.")]

    def origin(name: str) -> str:
        return "typed" if any(name == key or name.startswith(f"{key}.") for key in typed) else "task"

    return [Setting(name, value, None, origin(name)) for name, value in own.items() if name != "name"]


def typed_settings(command: str) -> set[str]:
    """The keys that a command line sets."""
    try:
        words = shlex.split(command)
    except ValueError:  # of a card from elsewhere, whose command may be anything
        words = command.split()
    return {word.partition("=")[0].lstrip("+~") for word in words if "=" in word}


@cache
def _defaults(algorithm: str) -> dict[str, Any]:
    """The defaults of an algorithm of isoalign; empty for one of another package."""
    file = CONF / "algorithm" / f"{algorithm}.yaml"
    if not (is_plain(algorithm) and file.is_file()):
        return {}
    try:
        found = OmegaConf.to_container(OmegaConf.load(file))
    except (OmegaConfBaseException, OSError, ValueError):
        return {}
    return flatten(found) if isinstance(found, dict) else {}
