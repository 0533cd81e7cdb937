"""Values from outside, checked against types: what is wrong is named by file and field."""

import dataclasses
import functools
import math
import sys
import types
import typing
from pathlib import Path
from typing import Any, NoReturn

from isoalign.core.errors import UserError


def parse(value: Any, hint: Any, where: str, path: Path) -> Any:
    """``value``, checked against the type ``hint``, dataclasses built from mappings; ``where``: its name in the file."""
    if _is_plain(value, hint):
        return value
    origin, arguments, of_fields = _anatomy(hint)
    if origin in (dict, list) and isinstance(value, origin) and _plain(value, arguments[-1]):
        return origin(value)
    if of_fields:
        return _fields(value, hint, where, path)
    if origin is dict and isinstance(value, dict):
        return {name: parse(item, arguments[1], _join(where, name), path) for name, item in value.items()}
    if origin is list and isinstance(value, list):
        return [parse(item, arguments[0], f"{where}[{i}]", path) for i, item in enumerate(value)]
    if origin is types.UnionType and value is None and types.NoneType in arguments:
        return None
    if origin is types.UnionType:
        return parse(value, arguments[0], where, path)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{path}: {where} must be {' or '.join(map(repr, arguments))}, not {_shortened(value)}")
        return value
    if hint is Any:
        return finite(value, where, path)
    accepted = {float: (int, float), dict: (), list: ()}.get(origin or hint, hint)
    if not isinstance(value, accepted) or isinstance(value, bool):
        _wrong(value, origin or hint, where, path)
    return finite(value, where, path)


@functools.cache
def _anatomy(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """A type without its arguments, these, and whether it is a dataclass."""
    return typing.get_origin(hint), typing.get_args(hint), dataclasses.is_dataclass(hint)


_PLAIN: dict[Any, set[type]] = {str: {str}, int: {int}, float: {int, float}, float | None: {int, float, types.NoneType}}


def _is_plain(value: Any, hint: Any) -> bool:
    """Whether a value is surely text or a finite number of the type: the quick check of one value."""
    return type(value) in _PLAIN.get(hint, ()) and (value is None or hint is str or abs(value) <= sys.float_info.max)


def _plain(values: dict[str, Any] | list[Any] | tuple[Any, ...], hint: Any) -> bool:
    """Whether all are text, or all are finite numbers, of the type: a quick check for most of a card. False does not say which
    entry is wrong, nor that one is."""
    items = values.values() if isinstance(values, dict) else values
    kinds = set(map(type, items))
    if not kinds <= _PLAIN.get(hint, {str, int, float, types.NoneType} if hint is Any else set()):
        return False
    try:
        return kinds == {str} or (str not in kinds and math.isfinite(sum(filter(None, items))))
    except OverflowError:  # a whole number beyond any float
        return False


def _fields(value: Any, cls: Any, where: str, path: Path) -> Any:
    if not isinstance(value, dict):
        _wrong(value, dict, where, path)
    hints, required = _hints(cls), _required(cls)
    if not hints.keys() >= value.keys() >= required.keys():
        for name in (name for name in value if name not in hints):
            raise UserError(f"{path}: unknown field {_join(where, name)}")
        for name in (name for name in required if name not in value):
            raise UserError(f"{path}: {_join(where, name)} is missing")
    return cls(**{
        name: item if _is_plain(item, hints[name]) else parse(item, hints[name], _join(where, name), path)
        for name, item in value.items()
    })  # fmt: skip


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _required(cls: Any) -> dict[str, None]:
    """The fields without a default, in order."""
    missing = dataclasses.MISSING
    return {f.name: None for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing}


def finite(value: Any, where: str, path: Path | str) -> Any:
    """The value itself. Raises UserError for NaN or an infinity anywhere in it."""
    if isinstance(value, dict | list | tuple) and _plain(value, Any):
        return value
    if isinstance(value, dict):
        for name, item in value.items():
            finite(item, _join(where, name), path)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            finite(item, f"{where}[{i}]", path)
    elif isinstance(value, int | float):
        try:
            number = math.isfinite(value)
        except OverflowError:  # a whole number beyond any float
            number = False
        if not number:
            raise UserError(f"{path}: {where} is not a finite number; a missing value must be null")
    return value


def _wrong(value: Any, kind: type, where: str, path: Path) -> NoReturn:
    names = {str: "text", int: "a whole number", float: "a number", dict: "a mapping", list: "a list"}
    raise UserError(f"{path}: {where or 'the card'} must be {names[kind]}, not {_shortened(value)}")


def _shortened(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."


def _join(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)
