"""Metrics: functions of saved samples, one file for each family, found in this package and among other packages' entry points.

A module is a family when it defines ``VERSION`` (raised whenever a value would change), ``measure(scored)`` (its metrics with
intervals) and ``values(scored)`` (what each prompt contributes, for pairing methods on a board). It may define ``METRICS``
(how its metrics are read and shown), ``flags(estimates, base)`` (gates and warnings) and ``data(scored)`` (plain JSON that a
plot needs). Toxicity has a family of its own and all other objectives share one: a run is measured by one of the two. Families
depend on numpy and scipy alone, so that no run imports more for them. For the interface of Hugging Face's ``evaluate``, see
isoalign.evaluation.evaluate_modules.
"""

from __future__ import annotations

import ast
import importlib
import math
import os
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard, TypeVar

from isoalign.core import plugins
from isoalign.core.complaint import say
from isoalign.core.errors import UserError, unforeseen, unknown
from isoalign.core.objective import TOXICITY, Objective
from isoalign.core.records import Estimate, Flag
from isoalign.evaluation.metrics.metric import Metric, value_of
from isoalign.evaluation.metrics.scored_samples import ScoredSamples
from isoalign.stats import Values

__all__ = ["Metric", "ScoredSamples"]

Item = TypeVar("Item")


def own_families() -> dict[str, ModuleType]:
    """Name to module of the families in this package."""
    modules = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    return {name: module for name, module in sorted(modules.items()) if hasattr(module, "measure")}


@cache
def families() -> dict[str, ModuleType]:
    """Name (of its file, or of its entry point) to module of every family."""
    return dict(sorted((own_families() | {name: plugins.load("metrics", name) for name in _plugin_names()}).items()))


def names() -> list[str]:
    """Names of the families."""
    return list(families())


def versions(objective: Objective = TOXICITY, judged: bool = False) -> dict[str, int]:
    """The version of each family that is measured for an objective, for keys and cards; read from the source files, so that
    no family is imported for it. ``judged``: whether there are verdicts for a win rate."""
    files = {module.name: Path(__path__[0]) / f"{module.name}.py" for module in pkgutil.iter_modules(__path__)}
    files |= {name: plugins.source_file("metrics", name) for name in _plugin_names()}
    numbers = {}
    for name, file in files.items():
        try:
            body = ast.parse(file.read_text(encoding="utf-8")).body
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"metric {name!r}: {file} can't be read as Python: {error}") from error
        measures = any(isinstance(node, ast.FunctionDef) and node.name == "measure" for node in body)
        version = next((int(ast.literal_eval(node.value)) for node in body if _is_version(node)), None)
        if measures and version is not None:
            numbers[name] = version
        elif name in _plugin_names():
            missing = "VERSION = 1" if measures else "measure(scored)"
            raise UserError(f"metric {name!r}: {file} does not define {missing}; see docs/extending.md")
    return {name: number for name, number in numbers.items() if name not in _unmeasured(objective, judged)}


def _unmeasured(objective: Objective, judged: bool) -> set[str]:
    """The family that is of other objectives, as toxicity has its own and all others share one, and that of the win rate
    where no judge was asked."""
    return {"objective" if objective.is_toxicity else "toxicity", *([] if judged else ["win_rate"])}


def _plugin_names() -> Collection[str]:
    """Names of the families of other packages. Raises UserError for a name that isoalign uses."""
    points = plugins.entry_points("metrics")
    if clash := sorted({module.name for module in pkgutil.iter_modules(__path__)} & points.keys()):
        raise UserError(f"{points[clash[0]].module}: isoalign has a metric {clash[0]!r} already; rename the entry point")
    return points.keys()


def _is_version(node: ast.stmt) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSION"


@cache
def declared() -> dict[str, Metric]:
    """Name to ``Metric`` of all that the families' ``METRICS`` declare; of two with one name the first counts.

    A board shows its tables even if a package that brings metrics can't be imported: that is reported on stderr once.
    """
    metrics: dict[str, Metric] = {}
    for name, module in own_families().items():
        _declare(name, module, metrics)
    for name in _plugin_names():
        try:
            _declare(name, plugins.load("metrics", name), metrics)
        except UserError as error:
            say(f"{error}; continuing without its METRICS")
    return metrics


def _declare(family: str, module: ModuleType, into: dict[str, Metric]) -> None:
    for metric in getattr(module, "METRICS", ()):
        if not isinstance(metric, Metric):
            raise UserError(
                f"metric {family}: METRICS must hold objects of isoalign.evaluation.metrics.Metric, not {metric!r}"
            )
        into.setdefault(metric.name, metric)


def check(wanted: Collection[str]) -> None:
    """Raise UserError for the name of an unknown family."""
    _selected(wanted)


def measure_all(scored: ScoredSamples, wanted: Collection[str] | None = None) -> dict[str, dict[str, Estimate]]:
    """Family to its metrics with intervals, of every family or of those wanted."""
    by_family = {name: _call(name, module.measure, scored) for name, module in _measured(scored, wanted).items()}
    merged(by_family)  # no metric belongs to two families
    for family in by_family.keys() & _plugin_names():
        _check_bounds(family, by_family[family])
        for name, found in by_family[family].items():
            _check_finite(family, name, (found.value, found.low, found.high))
    return by_family


def _check_bounds(family: str, estimates: Mapping[str, Estimate]) -> None:
    """Values must lie within the bounds that a metric declares, by which boards clip intervals."""
    for name, metric in declared().items():
        value, (low, high) = value_of(estimates, name), metric.bounds
        if value is not None and not low - 1e-9 <= value <= high + 1e-9:
            raise UserError(
                f"metric {family}: {name} is {value:g}, outside its bounds {list(metric.bounds)}; declare those that it has: "
                "Metric(..., bounds=(0.0, math.inf))"
            )


def _check_finite(family: str, name: str, values: Iterable[float | None], where: str = "") -> None:
    """Cards hold no nan and no infinity; of what has no value they hold None."""
    for value in values:
        if value is not None and not math.isfinite(value):
            raise UserError(f"metric {family}: {name} is {value:g}{where}; give None where there is no value")


def values_all(scored: ScoredSamples, wanted: Collection[str] | None = None) -> dict[str, Values]:
    """Metric to prompt to values, for each metric that is a mean over prompts: what pairs methods prompt by prompt."""
    by_family = {name: _call(name, module.values, scored) for name, module in _measured(scored, wanted).items()}
    for family in by_family.keys() & _plugin_names():
        for name, by_prompt in by_family[family].items():
            for prompt, values in by_prompt.items():
                _check_finite(family, name, values, f" for prompt {prompt}")
    return merged(by_family)


def data_all(scored: ScoredSamples, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """Family to the data of its plots, of those that have any."""
    by_family = {
        name: _call(name, module.data, scored) for name, module in _measured(scored, wanted).items() if hasattr(module, "data")
    }
    return {name: data for name, data in by_family.items() if data}


def flags_all(estimates: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[Flag]:
    """The flags that the families raise on a row; ``base``: the SFT row's metrics (None on that row itself)."""
    flags: list[Flag] = []
    for name, module in families().items():
        raised = _call(name, module.flags, estimates, base) if hasattr(module, "flags") else []
        if wrong := [flag for flag in raised if not isinstance(flag, Flag)]:
            raise UserError(f"metric {name}: flags() returned {wrong[0]!r}; it must return isoalign.core.records.Flag objects")
        flags += raised
    return flags


def _call(name: str, function: Callable[..., Item], *arguments: Any) -> Item:
    """What a family's function returns. Raises UserError that names the family where it fails."""
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:
        if os.environ.get("ISOALIGN_DEBUG"):
            raise
        raise UserError(f"metric {name}: {unforeseen(error)}") from error


COLUMNS = frozenset({
    "section", "budget_flops", "base", "rank", "rank_last", "method", "algorithm", "part", "gated", "outdated", "pareto",
    "pareto_share", "seeds", "prompts", "tuning", "packages", "flags",
})  # fmt: skip
BEGINNINGS = ("gain_at_kl_", "gain_mean_over_kl", "drift_", "above_drift", "spent_", "flops_")
"""Columns of a board's table that are of no metric, and how the others' names begin."""


def merged(parts: Mapping[str, Mapping[str, Item]]) -> dict[str, Item]:
    """The metrics of several families in one mapping. Raises UserError where two families give the same metric, or one the
    name of a column that a board has of another."""
    together: dict[str, Item] = {}
    for family, part in parts.items():
        if clash := sorted(together.keys() & part.keys()):
            raise UserError(f"metric family {family}: another family already has {', '.join(clash)}; rename them")
        together.update(part)
    bounds = {f"{name}{end}" for name in together for end in ("_low", "_high")} | COLUMNS
    if taken := sorted(name for name in together if name in bounds or name.startswith(BEGINNINGS)):
        owner = next(family for family, part in parts.items() if taken[0] in part)
        raise UserError(f"metric family {owner}: a board has a column of the name {taken[0]}; rename it")
    return together


def _measured(scored: ScoredSamples, wanted: Collection[str] | None) -> dict[str, ModuleType]:
    """The families, or those wanted, that are measured for the objective of a run."""
    left_out = _unmeasured(scored.objective, bool(scored.contests))
    return {name: module for name, module in _selected(wanted).items() if name not in left_out}


def _selected(wanted: Collection[str] | None) -> dict[str, ModuleType]:
    known = families()
    for name in wanted or ():
        if name not in known:
            raise UserError(unknown("metric", name, list(known)))
    return {name: module for name, module in known.items() if wanted is None or name in wanted}
