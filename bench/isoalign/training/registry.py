"""Algorithms by name: those of baselines/, where file name = registry name = yaml name, and those of plug-ins."""

import dataclasses
import importlib
import importlib.util
import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, dataclass_transform

from isoalign.core import plugins
from isoalign.core import source as code
from isoalign.core.errors import UserError, unforeseen, unknown
from isoalign.data import assets
from isoalign.training import guard

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
    return plugins.algorithms()


def algorithm(name: str) -> type:
    """The class registered under a name.

    Raises UserError listing the known ones, where a plug-in takes the name of a baseline, and for one that is not whole.
    """
    if name not in names():
        raise UserError(unknown("algorithm", name, names()))
    brought = plugins.entry_points("algorithms")
    if name in brought and name in plugins.baselines():
        raise UserError(f"{brought[name].module} brings an algorithm {name!r}, and there is one; rename its entry point")
    if name in brought:
        with sandboxed(name):
            module = plugins.load("algorithms", name)
    else:
        module = importlib.import_module(f"isoalign.baselines.{name}")
    if module.__name__ not in _registered:
        raise UserError(f"{module.__file__} registers no algorithm; put @register before its class")
    cls = _registered[module.__name__]
    if hasattr(cls, "iteration") and "lr" not in {field.name for field in dataclasses.fields(cls)}:
        raise UserError(f"{module.__file__}: {cls.__name__} has no learning rate; give it a field: lr: float = 1e-4")
    return cls


def default(name: str) -> Any:
    """An algorithm with its own settings. Raises UserError where it can't be had."""
    cls = algorithm(name)
    with sandboxed(name):
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
def sandboxed(name: str) -> Iterator[None]:
    """Inside, an algorithm's code runs before there is a lab. Raises UserError, whatever it raises or tries."""
    try:
        with guard.without_lab([assets.cache_dir()]):
            yield
    except guard.Violation as error:
        raise UserError(f"algorithm {name}: {error}") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"algorithm {name}: {unforeseen(error)}") from error


def _modules(cls: type) -> list[str]:
    """The modules that an algorithm and its parents are defined in."""
    return [base.__module__ for base in cls.__mro__ if base is not object]


def source(cls: type) -> str:
    """A digest of what the code of an algorithm means."""
    return code.digest(_modules(cls))


def names_in(cls: type, attribute: str) -> bool:
    """Whether the code of an algorithm names an attribute anywhere."""
    return code.names_attribute(_modules(cls), attribute)


def hyperparameters(algorithm: Any) -> dict[str, Any]:
    """An algorithm's settings as a plain mapping."""
    return dataclasses.asdict(algorithm)
