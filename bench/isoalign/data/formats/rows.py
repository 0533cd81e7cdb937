"""One row of a file, and what is wrong with it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

SOURCES = ("source", "subset", "dataset")
RATERS = ("rater", "annotator", "labeler")
MOST_ANSWERS = 1000  # to one prompt by one rater: 499,500 pairs
_REPR = re.compile(r"\s*\[?\s*\{\s*'(role|content)'")  # a list of messages as Python prints it


class Fault(ValueError):
    """Why a row is refused. ``row``: its number."""

    def __init__(self, row: int, why: str, line: int = 0) -> None:
        super().__init__(f"row {row}{f' (line {line})' if line else ''}: {why}")
        self.row = row


@dataclass(frozen=True, slots=True)
class Row:
    """A row by column. ``number``: from 1 (the line, in JSON lines); ``line``: where a row of a CSV begins, else 0.

    Cells of a CSV are texts, so in these a list or an object is read from its JSON. Every method raises Fault, naming the
    column.
    """

    number: int
    values: Mapping[str, Any]
    line: int = 0

    def fault(self, why: str) -> Fault:
        """What to raise where this row is refused."""
        return Fault(self.number, why, self.line)

    def has(self, *names: str) -> bool:
        """Whether all these columns are there; null is absent."""
        return all(self.values.get(name) is not None for name in names)

    def get(self, name: str) -> Any:
        """The value of a column that must be there."""
        if self.values.get(name) is None:
            raise self.fault(f"{name} is missing")
        return self.values[name]

    def listed(self, name: str) -> list[Any]:
        """A column that holds a list."""
        value = self._unpacked(name)
        if not isinstance(value, list):
            raise self.fault(f"{name} must be a list, not {shown(value)}")
        return value

    def mapped(self, name: str) -> dict[str, Any]:
        """A column that holds an object."""
        value = self._unpacked(name)
        if not isinstance(value, dict):
            raise self.fault(f"{name} must be an object, not {shown(value)}")
        return value

    def _unpacked(self, name: str) -> Any:
        value = self.get(name)
        if self.line:
            try:
                return _STRICT.decode(value.strip())
            except (ValueError, RecursionError):
                raise self.fault(f"{name} must be JSON in a CSV, not {shown(value)}") from None
        return value

    def messages(self, name: str, value: Any) -> Any:
        """The value, or the list of messages that it is the JSON of; another text that begins with a bracket is a text."""
        if not (self.line and isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
            return value
        if _REPR.match(value):
            raise self.fault(f"{name} holds Python's print of a list; write it with json.dumps")
        try:
            found = _STRICT.decode(value.strip())
        except (ValueError, RecursionError):
            return value
        first = found[0] if isinstance(found, list) and found else found
        return found if isinstance(first, dict) and {"role", "from"} & first.keys() else value

    def number_in(self, name: str, value: Any) -> float:
        """A finite number, which may be written as a text."""
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.fault(f"{name} must be a finite number, not {shown(value)}")
        return number

    def sound(self, name: str, text: str) -> str:
        """The text, if it can be written as UTF-8."""
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise self.fault(f"{name} holds half a character (a lone surrogate)") from None
        return text

    @property
    def source(self) -> str:
        """Where the row says that it is from; empty where it doesn't."""
        return self._named(SOURCES)

    @property
    def rater(self) -> str:
        """Who the row says judged it; empty where it doesn't."""
        return self._named(RATERS)

    def _named(self, names: Sequence[str]) -> str:
        value = next((self.values[name] for name in names if self.has(name)), "")
        return self.sound(names[0], str(value).strip()) if isinstance(value, str | int | float) else ""

    @property
    def key(self) -> int:
        """The same for rows that are the same in every column (64 bits, within one process)."""
        return hash(repr(sorted(self.values.items(), key=lambda item: item[0])))


def shown(value: Any) -> str:
    """A value in a message: one line, 40 characters at most."""
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number; what is missing is null")


_STRICT = json.JSONDecoder(parse_constant=_no_number)


def decoded(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at a place of a text, and where it ends. Raises ValueError in words that fit a message."""
    try:
        return _STRICT.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} (character {error.pos - start + 1})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
