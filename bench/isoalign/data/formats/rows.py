"""One row of a file, and the errors in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from isoalign.core.outside_json import mapping_once

SOURCES = ("source", "subset", "dataset")
RATERS = ("rater", "annotator", "labeler")
MOST_ANSWERS = 1000  # to one prompt by one rater: 499,500 pairs
EMPTY, TOOLS, FAULTY = "empty", "tools", "faulty"  # empty prompts and answers; tool calls; all that can't be read
SKIPS = (EMPTY, TOOLS, FAULTY)
_REPR = re.compile(r"\s*\[?\s*\{\s*'(role|content)'")  # a list of messages as Python prints it


class Fault(ValueError):
    """Why a row is rejected. ``row``: its number; ``kind``: EMPTY, TOOLS or FAULTY, by which such rows can be skipped."""

    def __init__(self, row: int, why: str, line: int = 0, kind: str = FAULTY) -> None:
        super().__init__(f"row {row}{f' (line {line})' if line else ''}: {why}")
        self.row, self.kind = row, kind


@dataclass(frozen=True, slots=True)
class Row:
    """A row by column. ``number``: from 1 (in JSON lines, the line number); ``line``: first line of a row of a CSV, else 0.

    ``left``: what was not read of it so far, by name. In a CSV, lists and objects are JSON in their cells. Every method raises
    Fault naming the column.
    """

    number: int
    values: Mapping[str, Any]
    line: int = 0
    left: set[str] = field(default_factory=set, compare=False, repr=False)

    def fault(self, why: str, kind: str = FAULTY) -> Fault:
        """The error that rejects this row."""
        return Fault(self.number, why, self.line, kind)

    def renamed(self, columns: Mapping[str, str]) -> Row:
        """The row with columns under new names, new: old. Another column of a new name is hidden."""
        taken = {new: self.values[old] for new, old in columns.items() if old in self.values}
        kept = {name: value for name, value in self.values.items() if name not in columns and name not in columns.values()}
        return Row(self.number, taken | kept, self.line)

    def has(self, *names: str) -> bool:
        """Whether all these columns are present; null counts as absent."""
        return all(self.values.get(name) is not None for name in names)

    def get(self, name: str) -> Any:
        """The value of a required column."""
        if self.values.get(name) is None:
            raise self.fault(f"{name} is missing")
        return self.values[name]

    def nested(self, path: str) -> Any:
        """The value of a required column, or ``a.b``: of key b of the object in column a."""
        name, dot, keys = path.partition(".")
        if path in self.values or not dot:
            return self.get(path)
        value: Any = self.get_object(name)
        for key in keys.split("."):
            if not isinstance(value, dict) or value.get(key) is None:
                raise self.fault(f"{path} is missing")
            value = value[key]
        return value

    def get_list(self, name: str) -> list[Any]:
        """A column that holds a list."""
        value = self._get_decoded(name)
        if not isinstance(value, list):
            raise self.fault(f"{name} must be a list, not {quoted(value)}")
        return value

    def get_object(self, name: str) -> dict[str, Any]:
        """A column that holds an object."""
        value = self._get_decoded(name)
        if not isinstance(value, dict):
            raise self.fault(f"{name} must be an object, not {quoted(value)}")
        return value

    def _get_decoded(self, name: str) -> Any:
        value = self.get(name)
        if self.line:
            try:
                return _STRICT.decode(value.strip())
            except (ValueError, RecursionError):
                raise self.fault(f"{name} must be JSON in a CSV, not {quoted(value)}") from None
        return value

    def messages(self, name: str, value: Any) -> Any:
        """The value; a text that is JSON of a message or a list of messages, as in a CSV, is decoded, other texts stay as they
        are."""
        if not (isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
            return value
        if _REPR.match(value):
            raise self.fault(f"{name} holds the repr of a Python list; write it with json.dumps")
        try:
            decoded = _STRICT.decode(value.strip())
        except (ValueError, RecursionError):
            return value
        first = decoded[0] if isinstance(decoded, list) and decoded else decoded
        return decoded if isinstance(first, dict) and {"role", "from"} & first.keys() else value

    def finite_number(self, name: str, value: Any) -> float:
        """A finite number; texts that hold a number are converted."""
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.fault(f"{name} must be a finite number, not {quoted(value)}")
        return number

    def valid_text(self, name: str, text: str) -> str:
        """The text, if it can be encoded as UTF-8."""
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise self.fault(f"{name} holds half a character (a lone surrogate)") from None
        return text

    @property
    def source(self) -> str:
        """The source that the row names; empty if none."""
        return self._named(SOURCES)

    @property
    def rater(self) -> str:
        """The rater that the row names; empty if none."""
        return self._named(RATERS)

    def _named(self, names: Sequence[str]) -> str:
        value = next((self.values[name] for name in names if self.has(name)), "")
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = ", ".join(value)
        if isinstance(value, float) and not math.isfinite(value):  # what parquet has where a column of numbers has none
            return ""
        return self.valid_text(names[0], str(value).strip()) if isinstance(value, str | int | float) else ""

    @property
    def key(self) -> int:
        """Equal for rows that are equal in every column (64 bits, within one process)."""
        return hash(repr(sorted(self.values.items(), key=lambda item: item[0])))


def quoted(value: Any) -> str:
    """A value as it appears in an error message: one line, at most 40 characters."""
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number; write null for a missing value")


_STRICT = json.JSONDecoder(parse_constant=_reject_constant, object_pairs_hook=mapping_once)


def decode_json(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at ``start``, and its end. Raises ValueError with a message for the user."""
    try:
        return _STRICT.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} (character {error.pos - start + 1})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
