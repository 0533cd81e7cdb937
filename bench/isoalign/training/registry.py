"""Algorithms by name: those of baselines/, where file name = registry name = yaml name, those of plug-ins, and rows: yaml
files without a class of their own, which name another algorithm's (``of: dpo``) and have settings of their own."""

import dataclasses
import importlib
import importlib.util
import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, dataclass_transform

from omegaconf import OmegaConf

from isoalign.core import plugins
from isoalign.core import source as code
from isoalign.core.errors import UserError, unforeseen, unknown
from isoalign.data import assets
from isoalign.training import guard

NEVER_NEGATIVE = frozenset({
    "alpha", "beta", "clip", "clip_high", "cpo_alpha", "delta", "desirable_weight", "epsilon", "epsilon_high", "kl",
    "odds_weight", "penalty", "reward_clip", "sft_weight", "target_kl", "undesirable_weight", "value_clip", "value_weight",
})  # fmt: skip
"""Settings of baselines that scale a part of a loss or bound it."""

_registered: dict[str, type] = {}
_files: dict[str, set[str]] = {}


@dataclass_transform(frozen_default=True)
def register(cls: type) -> type:
    """Class decorator: make the class a frozen dataclass of hyperparameters and register it as its file's algorithm."""
    typed = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        if isinstance(value, bool | int | float | str) and name not in typed and not name.startswith("_"):
            typed_as = f"{name}: {type(value).__name__} = {value!r}"
            raise UserError(
                f"{cls.__module__}: {name} = {value!r} has no type annotation, so it is not a setting; write {typed_as}"
            )
    cls = dataclasses.dataclass(frozen=True)(cls)
    _registered[cls.__module__] = cls
    return cls


def algorithm_names() -> list[str]:
    """The names of all algorithms, without importing any."""
    return plugins.algorithms()


def algorithm(name: str) -> type:
    """The class registered under a name.

    Raises UserError for an unknown name, for a plug-in with the name of a baseline, and for an incomplete algorithm.
    """
    if name not in algorithm_names():
        raise UserError(unknown("algorithm", name, algorithm_names()))
    if name in (rows := plugins.rows()):
        return _row(name, rows[name])
    entry_points = plugins.entry_points("algorithms")
    if name in entry_points and name in plugins.baselines():
        raise UserError(
            f"{entry_points[name].module} provides an algorithm {name!r}, which is the name of a baseline; "
            "rename its entry point"
        )
    if name in entry_points:
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


@cache
def _row(name: str, file: Path) -> type:
    """The class of an algorithm that is a yaml over another one's: a subclass with the yaml's settings as defaults and the
    attributes that the class has for it in ``rows``."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(file))
    of = settings.pop("of", None) if isinstance(settings, dict) else None
    others = sorted(set(plugins.algorithms()) - plugins.rows().keys())
    if of not in others:
        wanted = "without a class of this name it must say whose class it takes, as in of: dpo; or install its package again"
        raise UserError(f"{file}: {wanted}" if of is None else f"{file}: {unknown('algorithm', str(of), others)}")
    base: Any = algorithm(of)
    _files[name] = _files.setdefault(of, set())
    fields = {field.name: field for field in dataclasses.fields(base)}
    if settings.pop("name", None) != name:
        raise UserError(f"{file}: name must be {name}, the name of the file")
    if strange := [key for key in settings if key not in fields]:
        raise UserError(f"{file}: {unknown(f'setting of {of}', strange[0], list(fields))}")
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    body = own | getattr(base, "rows", {}).get(name, {}) | {"__module__": base.__module__, "__doc__": base.__doc__}
    types = {key: fields[key].type for key in own}
    return dataclasses.dataclass(frozen=True)(type(base.__name__, (base,), body | {"__annotations__": types}))


def default_algorithm(name: str) -> Any:
    """An algorithm with its default settings. Raises UserError if it cannot be created."""
    cls = algorithm(name)
    with sandboxed(name):
        return with_checked_settings(cls())


def default_settings(name: str) -> dict[str, Any]:
    """An algorithm's settings as its class states them. Raises UserError if it cannot be created with them."""
    return stated_settings(type(default_algorithm(name)))


def stated_settings(cls: type) -> dict[str, Any]:
    """The settings that a class states, before it derives some from others."""
    stated = [field for field in dataclasses.fields(cls) if field.init]
    return {f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory() for f in stated}


def with_checked_settings(algorithm: Any) -> Any:
    """The algorithm itself. Raises UserError for a setting that yaml cannot hold, that is not finite or negative where it
    must not be, for rollouts that are no multiple of draws and minibatch, or that has no effect beside the others
    (`provenance.Conditions`)."""
    for name, value in hyperparameters(algorithm).items():
        if not isinstance(value, bool | int | float | str | tuple | list | None):
            raise UserError(
                f"algorithm.{name} is a {type(value).__name__}; a setting must be a number, a string, true, false or a list"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"algorithm.{name} must be a finite number, not {value}")
        if name in ("lr", "lora") and isinstance(value, int | float) and value < 0:
            raise UserError(f"algorithm.{name} must be 0 or more, not {value}")
    _check_ranges(algorithm)
    _check_sizes(algorithm)
    for name, (other, values) in getattr(algorithm, "acts_with", {}).items():
        given = getattr(algorithm, name)
        if name == other and given not in values:
            raise UserError(f"algorithm.{name} must be {', '.join(values[:-1])} or {values[-1]}, not {given}")
        if given != getattr(type(algorithm), name) and getattr(algorithm, other) not in values:
            raise UserError(
                f"algorithm.{name} has an effect only with algorithm.{other} {' or '.join(map(str, values))}, not with "
                f"{getattr(algorithm, other)}; leave it at {getattr(type(algorithm), name)}"
            )
    return algorithm


def _of_baselines(algorithm: Any) -> dict[str, Any]:
    """The settings that a class of baselines/ declares; names of other packages may mean other things."""
    kinds = [kind for kind in type(algorithm).__mro__ if kind.__module__.startswith("isoalign.baselines.")]
    own = {name for kind in kinds for name in vars(kind).get("__annotations__", {})}
    return {name: value for name, value in hyperparameters(algorithm).items() if name in own}


def _check_ranges(algorithm: Any) -> None:
    """Raise UserError for a setting below its range: a loss, or a part of it, would be reversed or off."""
    numbers = {name: value for name, value in _of_baselines(algorithm).items() if isinstance(value, int | float)}
    for name in sorted(NEVER_NEGATIVE & numbers.keys()):
        if numbers[name] < 0:
            raise UserError(f"algorithm.{name} must be 0 or more, not {numbers[name]}")
    if "gae_lambda" in numbers:
        for name in ("gamma", "gae_lambda"):
            if not 0 <= numbers.get(name, 0) <= 1:
                raise UserError(f"algorithm.{name} must lie in [0, 1], not {numbers[name]}")
    if numbers.get("target_kl") and not numbers.get("kl", 1):
        raise UserError("algorithm.target_kl scales algorithm.kl, which is 0 and would stay it; give it a value to begin with")


def _check_sizes(algorithm: Any) -> None:
    """Raise UserError for rollouts that draws or minibatch do not divide."""
    own = _of_baselines(algorithm)
    if not (rollouts := own.get("rollouts")):
        return
    draws, minibatch = own.get("draws", 1), own.get("minibatch", rollouts)
    if rollouts % draws:
        raise UserError(f"algorithm.rollouts={rollouts} is no multiple of algorithm.draws={draws}: some would not be sampled")
    if minibatch < rollouts and rollouts % minibatch:
        raise UserError(
            f"algorithm.rollouts={rollouts} is no multiple of algorithm.minibatch={minibatch}: rows of the last, smaller step "
            "would weigh more"
        )


@contextmanager
def sandboxed(name: str) -> Iterator[None]:
    """Context in which an algorithm's code runs before there is a lab. Turns all it raises into a UserError."""
    try:
        with guard.without_lab([assets.cache_dir()]) as watched:
            yield
        _files.setdefault(name, set()).update(watched.files)
    except guard.Violation as error:
        raise UserError(f"algorithm {name}: {error}") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"algorithm {name}: {unforeseen(error)}") from error


def files_of(name: str) -> set[str]:
    """The names of the data files that an algorithm's code read in this process when it was imported or configured."""
    return _files.get(name, set())


def _source_modules(cls: type) -> list[str]:
    """The modules that define an algorithm and its base classes."""
    return [base.__module__ for base in cls.__mro__ if base is not object]


def source_digest(cls: type) -> str:
    """A digest of the syntax tree of an algorithm's code, without comments and docstrings."""
    return code.source_digest(_source_modules(cls))


def uses_attribute(cls: type, attribute: str) -> bool:
    """Whether an attribute of this name occurs anywhere in an algorithm's code."""
    return code.names_attribute(_source_modules(cls), attribute)


def names_constant(cls: type, value: str) -> bool:
    """Whether a string stands anywhere in an algorithm's code."""
    return code.names_constant(_source_modules(cls), value)


def hyperparameters(algorithm: Any) -> dict[str, Any]:
    """An algorithm's settings as a dict."""
    return dataclasses.asdict(algorithm)
