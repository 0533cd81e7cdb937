"""Algorithms by name: file name = registry name = yaml name."""

import ast
import dataclasses
import difflib
import hashlib
import importlib
import inspect
import pkgutil
from typing import Any, dataclass_transform

from bench.errors import UserError

_registered: dict[str, type] = {}


@dataclass_transform(frozen_default=True)
def register(cls: type) -> type:
    """Make a class a frozen dataclass of hyperparameters and enter it under the name of its file."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    _registered[cls.__module__.rpartition(".")[2]] = cls
    return cls


def names() -> list[str]:
    """Every algorithm there is, without importing any."""
    import baselines

    return sorted(module.name for module in pkgutil.iter_modules(baselines.__path__))


def algorithm(name: str) -> type:
    """The class registered under a name.

    Raises UserError listing the known ones.
    """
    if name not in _registered:
        if name not in names():
            raise UserError(unknown("algorithm", name, names()))
        importlib.import_module(f"baselines.{name}")
    if name not in _registered:
        raise UserError(f"baselines/{name}.py registers no algorithm; put @register before its class")
    return _registered[name]


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The line for a name that nobody has: the nearest one, then all."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(known)}"


def _files(cls: type) -> dict[str, str]:
    """The source of every file of baselines/ that an algorithm is made of: its own, its parents', and what they import."""
    waiting = [base.__module__ for base in cls.__mro__ if base is not object]
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = inspect.getsource(importlib.import_module(name))
            for node in ast.walk(ast.parse(found[name])):
                imported = [node.module] if isinstance(node, ast.ImportFrom) else []
                imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                waiting += [str(module) for module in imported if str(module).startswith("baselines.")]
    return found


def source(cls: type) -> str:
    """A digest of the code of an algorithm."""
    texts = [text for _, text in sorted(_files(cls).items())]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def names_in(cls: type, attribute: str) -> bool:
    """Whether the code of an algorithm names an attribute anywhere."""
    trees = [ast.parse(text) for text in _files(cls).values()]
    return any(isinstance(node, ast.Attribute) and node.attr == attribute for tree in trees for node in ast.walk(tree))


def hyperparameters(algorithm: Any) -> dict[str, Any]:
    """An algorithm's settings as a plain mapping."""
    return dataclasses.asdict(algorithm)
