"""Metrics: functions of saved samples, one file a family, found by looking here and among other packages' entry points.

A module is a family when it has ``measure(evidence)``; it also has ``values(evidence)`` (what each
prompt adds, for pairing methods on a board) and ``VERSION`` (raised whenever a figure would change). It may have
``flags(figures, base)``: what speaks against a row, in words ("gate: ..." keeps it out of the ranking), and
``data(evidence)``: plain JSON that a plot needs. Importing a
family imports ``evaluate``, which takes seconds, so nothing is imported before it is asked for.
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from isoalign.core import plugins
from isoalign.core.errors import UserError, unforeseen, unknown
from isoalign.core.records import Estimate

if TYPE_CHECKING:
    from isoalign.evaluation.metrics.evidence import Evidence
    from isoalign.stats import Values

Item = TypeVar("Item")


@cache
def families() -> dict[str, ModuleType]:
    """Family name (its file's, or of its entry point) to its module."""
    found = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    own = {name: module for name, module in found.items() if hasattr(module, "measure")}
    return dict(sorted((own | {name: plugins.load("metrics", name) for name in _brought()}).items()))


def names() -> list[str]:
    """Names of the families."""
    return list(families())


def versions() -> dict[str, int]:
    """The version of each family, for keys and cards; read from the files, so that no family is imported for it."""
    files = {module.name: Path(__path__[0]) / f"{module.name}.py" for module in pkgutil.iter_modules(__path__)}
    files |= {name: plugins.source("metrics", name) for name in _brought()}
    found = {}
    for name, file in files.items():
        try:
            body = ast.parse(file.read_text(encoding="utf-8")).body
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"metric {name!r}: {file} can't be read as Python: {error}") from error
        measures = any(isinstance(node, ast.FunctionDef) and node.name == "measure" for node in body)
        version = next((int(ast.literal_eval(node.value)) for node in body if _is_version(node)), None)
        if measures and version is not None:
            found[name] = version
        elif name in _brought():
            raise UserError(
                f"metric {name!r}: {file} lacks {'VERSION = 1' if measures else 'measure(evidence)'}; see docs/extending.md"
            )
    return found


def _brought() -> Collection[str]:
    """Names of the families of other packages. Raises UserError for a name that is taken."""
    brought = plugins.entry_points("metrics")
    if clash := sorted({module.name for module in pkgutil.iter_modules(__path__)} & brought.keys()):
        raise UserError(f"{brought[clash[0]].module} brings a metric {clash[0]!r}, and there is one; rename its entry point")
    return brought.keys()


def _is_version(node: ast.stmt) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSION"


def check(wanted: Collection[str]) -> None:
    """Raise UserError for a family that there is not."""
    _chosen(wanted)


def measure_all(evidence: Evidence, wanted: Collection[str] | None = None) -> dict[str, dict[str, Estimate]]:
    """Family to its figures, of every family or of those wanted."""
    found = {name: _asked(name, module.measure, evidence) for name, module in _chosen(wanted).items()}
    merged(found)  # no figure has two families
    return found


def values_all(evidence: Evidence, wanted: Collection[str] | None = None) -> dict[str, Values]:
    """Metric to prompt to values, for each metric that is a mean over prompts: what pairs methods prompt by prompt."""
    return merged({name: _asked(name, module.values, evidence) for name, module in _chosen(wanted).items()})


def data_all(evidence: Evidence, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """Family to what its plots need, of those that have any."""
    found = {name: _asked(name, module.data, evidence) for name, module in _chosen(wanted).items() if hasattr(module, "data")}
    return {name: data for name, data in found.items() if data}


def flags_all(figures: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[str]:
    """What the families have to say against a row in words, ``base`` being the SFT row's figures (None on that row)."""
    judges = {name: module.flags for name, module in families().items() if hasattr(module, "flags")}
    return [line for name, judge in judges.items() for line in _asked(name, judge, figures, base)]


def _asked(name: str, work: Callable[..., Item], *arguments: Any) -> Item:
    """What a family says. Raises UserError naming it where it breaks."""
    try:
        return work(*arguments)
    except UserError:
        raise
    except Exception as error:
        if os.environ.get("ISOALIGN_DEBUG"):
            raise
        raise UserError(f"metric {name}: {unforeseen(error)}") from error


def merged(parts: Mapping[str, Mapping[str, Item]]) -> dict[str, Item]:
    """All figures of several families in one mapping. Raises RuntimeError where two families name the same."""
    found: dict[str, Item] = {}
    for family, part in parts.items():
        if clash := sorted(found.keys() & part.keys()):
            raise RuntimeError(f"metric family {family} names a figure that another has: {', '.join(clash)}")
        found.update(part)
    return found


def _chosen(wanted: Collection[str] | None) -> dict[str, ModuleType]:
    known = families()
    for name in wanted or ():
        if name not in known:
            raise UserError(unknown("metric", name, list(known)))
    return {name: module for name, module in known.items() if wanted is None or name in wanted}
