"""Metrics: functions of saved samples, one file a family, found by looking.

A module of this folder is a family when it has ``measure(evidence)``; it also has ``values(evidence)`` (what each
prompt adds, for pairing methods on a board) and ``VERSION`` (raised whenever a figure would change). Importing a
family imports ``evaluate``, which takes seconds, so nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from bench.types import Estimate

if TYPE_CHECKING:
    from bench.metrics.evidence import Evidence
    from bench.stats import Values

Item = TypeVar("Item")


@cache
def families() -> dict[str, ModuleType]:
    """Family name (its file's) to its module."""
    found = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    return {name: module for name, module in sorted(found.items()) if hasattr(module, "measure")}


def names() -> list[str]:
    """Names of the families."""
    return list(families())


def versions() -> dict[str, int]:
    """The version of each family, for the card."""
    return {name: module.VERSION for name, module in families().items()}


def measure_all(evidence: Evidence) -> dict[str, Estimate]:
    """Every figure of every family."""
    return _merged({name: module.measure(evidence) for name, module in families().items()})


def values_all(evidence: Evidence) -> dict[str, Values]:
    """Metric to prompt to values, for each metric that is a mean over prompts: what `stats.hierarchical` pools."""
    return _merged({name: module.values(evidence) for name, module in families().items()})


def _merged(parts: Mapping[str, Mapping[str, Item]]) -> dict[str, Item]:
    merged: dict[str, Item] = {}
    for family, part in parts.items():
        if clash := sorted(merged.keys() & part.keys()):
            raise RuntimeError(f"metric family {family} names a figure that another has: {', '.join(clash)}")
        merged.update(part)
    return merged
