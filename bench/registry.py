"""Algorithms by name: file name = registry name = yaml name."""

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
    return _registered[name]


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The line for a name that nobody has: the nearest one, then all."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(known)}"


def source(cls: type) -> str:
    """A digest of the code of an algorithm: its file and those of the algorithms it builds on."""
    modules = [inspect.getmodule(base) for base in cls.__mro__ if base is not object]
    texts = [inspect.getsource(module) for module in modules if module is not None]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def hyperparameters(algorithm: Any) -> dict[str, Any]:
    """An algorithm's settings as a plain mapping."""
    return dataclasses.asdict(algorithm)
