"""Metrics: functions of saved samples, one file a family, found by looking.

A module of this folder is a family when it has ``measure(evidence)``; it also has ``values(evidence)`` (what each
prompt adds, for pairing methods on a board) and ``VERSION`` (raised whenever a figure would change). Importing a
family imports ``evaluate``, which takes seconds, so nothing is imported before it is asked for.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard, TypeVar

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
    """The version of each family, for keys and cards; read from the files, so that no family is imported for it."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        body = ast.parse((Path(__path__[0]) / f"{module.name}.py").read_text(encoding="utf-8")).body
        if any(isinstance(node, ast.FunctionDef) and node.name == "measure" for node in body):
            found[module.name] = next(int(ast.literal_eval(node.value)) for node in body if _is_version(node))
    return found


def _is_version(node: ast.stmt) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSION"


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
