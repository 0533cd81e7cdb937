"""Plug-ins: algorithms, metrics, judges, scorers and tasks of other packages, found by their entry points.

In the package's ``pyproject.toml``:

    [project.entry-points."isoalign.algorithms"]
    mine = "my_package.mine"            # a module that registers an algorithm under its own name, as baselines/ do
    [project.entry-points."isoalign.metrics"]
    shouting = "my_package.shouting"    # a module with VERSION, measure and values; METRICS if it has a table
    [project.entry-points."isoalign.judges"]
    oracle = "my_package.oracle"        # a module with load(config, cache) and identity(config)
    [project.entry-points."isoalign.scorers"]
    kind = "my_package.kind"            # a module with VERSION, HIGHER_IS_BETTER, BOUNDS and load(device)
    [project.entry-points."isoalign.conf"]
    mine = "my_package.conf"            # a package of yaml in folders like those of conf/: task/chat.yaml and so on

An algorithm's configuration is its fields with their defaults, unless one of those packages has a yaml of its name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from isoalign.core.errors import UserError
from isoalign.core.places import BASELINES, CONF


@cache
def entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Name to entry point of ``isoalign.<kind>``. Raises UserError where two packages claim one name."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=f"isoalign.{kind}"):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"{_package(other)} and {_package(point)} both provide {kind} {point.name!r}; uninstall one of them"
            )
    return dict(sorted(found.items()))


def baselines() -> set[str]:
    """Names of isoalign's own algorithms: the files of baselines/. Its folder has what several of them share."""
    return {module.name for module in pkgutil.iter_modules([str(BASELINES)]) if not module.ispkg}


def rows() -> dict[str, Path]:
    """Algorithms that are another one's class with settings of their own: name to the yaml that says so."""
    own = baselines() | entry_points("algorithms").keys()
    folders = [*configurations().values(), CONF]
    files = (file for folder in folders for file in sorted((folder / "algorithm").glob("*.yaml")))
    return {file.stem: file for file in files if file.stem not in own}


def families() -> dict[str, str]:
    """What each of isoalign's own algorithms learns from (`isoalign.training.provenance.FAMILIES`), without importing any."""
    texts = {name: (BASELINES / f"{name}.py").read_text(encoding="utf-8") for name in baselines()}
    texts |= {name: texts.get(_class_of(file), "") for name, file in rows().items()}
    found = {name: re.search(r'family="(\w+)"', text) for name, text in texts.items()}
    return {name: match[1] for name, match in sorted(found.items()) if match}


def _class_of(row: Path) -> str:
    """The algorithm whose class a yaml takes."""
    match = re.search(r"^of: *(\w+)", row.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else ""


def algorithms() -> list[str]:
    """Every algorithm there is, without importing any."""
    return sorted(baselines() | entry_points("algorithms").keys() | rows().keys())


def load(kind: str, name: str) -> ModuleType:
    """The module behind an entry point. Raises UserError naming its package where it can't be imported."""
    point = entry_points(kind)[name]
    try:
        return importlib.import_module(point.module)
    except UserError:
        raise
    except Exception as error:
        raise _import_error(kind, point, error) from error


def source_file(kind: str, name: str) -> Path:
    """The file of the module behind an entry point, which is not imported (its package is).

    Raises UserError as `load` does.
    """
    point = entry_points(kind)[name]
    try:
        spec = importlib.util.find_spec(point.module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"No module named {point.module!r}")
        return Path(spec.origin)
    except Exception as error:
        raise _import_error(kind, point, error) from error


def _import_error(kind: str, point: importlib.metadata.EntryPoint, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    return UserError(f"{kind} {point.name!r} of {_package(point)}: {point.module} can't be imported: {reason}")


def configurations() -> dict[str, Path]:
    """Package name to folder of the yaml that other packages provide: tasks, settings of algorithms, search spaces.

    One that cannot be loaded is reported once on stderr and left out.
    """
    found = {}
    for name, point in entry_points("conf").items():
        try:
            module = load("conf", name)
            if not hasattr(module, "__path__"):
                raise UserError(
                    f"conf {name!r} of {_package(point)}: {point.module} is a module; it must be a package with yaml files"
                )
            found[point.module] = Path(next(iter(module.__path__)))
        except UserError as error:
            _warn_once(f"isoalign: {error}; continuing without its configuration")
    return found


def without_yaml(package: str) -> Path | None:
    """The configuration folder of a package if it has no yaml: it was installed without its package data."""
    own = {point.module for point in entry_points("conf").values() if _package(point) == package}
    folders = (folder for module, folder in configurations().items() if module in own)
    return next((folder for folder in folders if not any(folder.rglob("*.yaml"))), None)


@cache
def _warn_once(line: str) -> None:
    print(line, file=sys.stderr)


def distribution(cls: type) -> tuple[str, str] | None:
    """Name and version of the package that provides an algorithm; None if it is isoalign's."""
    for point in entry_points("algorithms").values():
        if point.module == cls.__module__ and point.dist:
            return point.dist.name, point.dist.version
    return None


def package_of(kind: str, name: str) -> str | None:
    """The package, with its version, that provides an algorithm, a judge or a task; None if it is isoalign's."""
    if kind == "task":
        file = Path("task") / f"{name}.yaml"
        ours = (CONF / file).exists()
        homes = [] if ours else [module for module, folder in configurations().items() if (folder / file).exists()]
        points = [point for point in entry_points("conf").values() if point.module in homes]
    else:
        points = [point for own, point in entry_points(f"{kind}s").items() if own == name]
    return f"{points[0].dist.name} {points[0].dist.version}" if points and points[0].dist else None


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.module
