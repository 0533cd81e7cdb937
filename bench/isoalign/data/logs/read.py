"""Which tool a log is of, and reading it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoalign.core import outside_json
from isoalign.core.errors import UserError
from isoalign.data.logs import alpaca_eval, inspect_log, lm_eval
from isoalign.data.logs.log import Log, refuse


@dataclass(frozen=True)
class Reader:
    """How logs of a tool are known, by their first value, and read."""

    claims: Callable[[Any], bool]
    read: Callable[[Path, Sequence[Any]], Log]


READERS = {
    lm_eval.KIND: Reader(lm_eval.claims, lm_eval.read),
    inspect_log.KIND: Reader(inspect_log.claims, inspect_log.read),
    alpaca_eval.KIND: Reader(alpaca_eval.claims, alpaca_eval.read),
}
ZIP = b"PK\x03\x04"


def read_log(file: Path, content: bytes | None = None) -> Log | None:
    """The log in a file; None if it is of no tool that is known, as a card. ``content``: of a file that was read already.

    Raises UserError that names file and row for a log that can't be read.
    """
    try:
        content = file.read_bytes() if content is None else content
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    if content.startswith(ZIP):
        raise UserError(
            f"{file} is an archive; write Inspect's as JSON: inspect log convert {file.name} --to json --output-dir ."
        )
    try:
        text = content.decode().removeprefix("\ufeff").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file}: not UTF-8") from error
    first = _first(text)
    reader = next((each.read for each in READERS.values() if each.claims(first)), None)
    return reader(file, _values(file, text)) if reader else None


def _first(text: str) -> Any:
    """The first row of a text: of its list, of its lines, or itself."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text.removeprefix("[").lstrip())
    except (ValueError, RecursionError):
        return None
    return value


def _values(file: Path, text: str) -> list[Any]:
    """The rows of a JSON list or of lines of JSON; one document is one row."""
    try:
        whole = outside_json.decode(text)
    except ValueError as error:
        if "\n" not in text or text.startswith("["):
            raise UserError(f"{file} is not JSON: {error}") from error
    else:
        return whole if isinstance(whole, list) else [whole]
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows.append(outside_json.decode(line))
        except ValueError as error:
            refuse(file, number, f"cannot be read: {error}")
    return rows
