"""Algorithms by name: those of baselines/, where file name = registry name = yaml name, and those of plug-ins."""

import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, dataclass_transform

from bench import assets, guard, plugins
from bench.errors import UserError, unforeseen

_registered: dict[str, type] = {}


@dataclass_transform(frozen_default=True)
def register(cls: type) -> type:
    """Make a class a frozen dataclass of hyperparameters and enter it as the algorithm of its file."""
    typed = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        if isinstance(value, bool | int | float | str) and name not in typed and not name.startswith("_"):
            typed_as = f"{name}: {type(value).__name__} = {value!r}"
            raise UserError(f"{cls.__module__}: {name} = {value!r} has no type, so it is no setting; write {typed_as}")
    cls = dataclasses.dataclass(frozen=True)(cls)
    _registered[cls.__module__] = cls
    return cls


def names() -> list[str]:
    """Every algorithm there is, without importing any."""
    return sorted(_own() | plugins.entry_points("algorithms").keys())


def _own() -> set[str]:
    import baselines

    return {module.name for module in pkgutil.iter_modules(baselines.__path__)}


def algorithm(name: str) -> type:
    """The class registered under a name.

    Raises UserError listing the known ones, where a plug-in takes the name of a baseline, and for one that is not whole.
    """
    if name not in names():
        raise UserError(unknown("algorithm", name, names()))
    brought = plugins.entry_points("algorithms")
    if name in brought and name in _own():
        raise UserError(f"{brought[name].module} brings an algorithm {name!r}, and there is one; rename its entry point")
    if name in brought:
        with watched(name):
            module = plugins.load("algorithms", name)
    else:
        module = importlib.import_module(f"baselines.{name}")
    if module.__name__ not in _registered:
        raise UserError(f"{module.__file__} registers no algorithm; put @register before its class")
    cls = _registered[module.__name__]
    if hasattr(cls, "iteration") and "lr" not in {field.name for field in dataclasses.fields(cls)}:
        raise UserError(f"{module.__file__}: {cls.__name__} has no learning rate; give it a field: lr: float = 1e-4")
    return cls


def default(name: str) -> Any:
    """An algorithm with its own settings. Raises UserError where it can't be had."""
    cls = algorithm(name)
    with watched(name):
        return sound(cls())


def sound(algorithm: Any) -> Any:
    """An algorithm whose settings a yaml can hold, its numbers finite. Raises UserError naming the one that is not so."""
    for name, value in hyperparameters(algorithm).items():
        if not isinstance(value, bool | int | float | str | tuple | list | None):
            raise UserError(
                f"algorithm.{name} is a {type(value).__name__}: a setting is a number, a text, true, false or a list"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"algorithm.{name} must be a finite number, not {value}")
        if name in ("lr", "lora") and isinstance(value, int | float) and value < 0:
            raise UserError(f"algorithm.{name} must be 0 or more, not {value}")
    return algorithm


@contextmanager
def watched(name: str) -> Iterator[None]:
    """Inside, an algorithm's code runs before there is a lab. Raises UserError, whatever it raises or tries."""
    try:
        with guard.outside([assets.cache_dir()]):
            yield
    except guard.Misdeed as error:
        raise UserError(f"algorithm {name}: {error}") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"algorithm {name}: {unforeseen(error)}") from error


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The line for a name that nobody has: the nearest one, then all."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    brought = "; one of a package is known once that is installed: pip install -e FOLDER" if kind == "algorithm" else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(known)}{brought}"


def _files(cls: type) -> dict[str, str]:
    """The source of every file that an algorithm is made of: its own, its parents', and what they import of their packages."""
    return _sources([base.__module__ for base in cls.__mro__ if base is not object])


def _sources(modules: list[str]) -> dict[str, str]:
    """The source of modules, and of what they import of their own packages."""
    waiting = list(modules)
    tops = {"baselines"} | {name.partition(".")[0] for name in waiting} - {"bench"}
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = inspect.getsource(importlib.import_module(name))
            imported = _imported(ast.parse(found[name]), name)
            waiting += [module for module in imported if module.partition(".")[0] in tops and "." in module]
    return found


def _imported(tree: ast.AST, of: str) -> Iterator[str]:
    """The modules that a module imports, relative imports spelt out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), of.rpartition(".")[0])
            yield base
            for alias in node.names:
                yield from (each for each in [f"{base}.{alias.name}"] if _is_module(each))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def source(cls: type) -> str:
    """A digest of the code of an algorithm."""
    return _digest(_files(cls))


def source_of(module: str) -> str:
    """A digest of the code of a module and of what it imports of its own package."""
    return _digest(_sources([module]))


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256("\0".join(text for _, text in sorted(files.items())).encode()).hexdigest()[:16]


def names_in(cls: type, attribute: str) -> bool:
    """Whether the code of an algorithm names an attribute anywhere."""
    trees = [ast.parse(text) for text in _files(cls).values()]
    return any(isinstance(node, ast.Attribute) and node.attr == attribute for tree in trees for node in ast.walk(tree))


def hyperparameters(algorithm: Any) -> dict[str, Any]:
    """An algorithm's settings as a plain mapping."""
    return dataclasses.asdict(algorithm)
