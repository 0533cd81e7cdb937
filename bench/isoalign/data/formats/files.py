"""Rows of a file: JSON lines or a list, CSV, parquet, or a data set of the hub."""

from __future__ import annotations

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from isoalign.core.errors import UserError
from isoalign.core.lazy import pyarrow
from isoalign.data import assets
from isoalign.data.formats import hub
from isoalign.data.formats.rows import Fault, Row, decode_json, quoted

EMBEDDED = "embedded:"
ROWS = {"questions": "test.jsonl"}  # embedded sources by name, and the file of their asset
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LARGEST_CELL = 2**31 - 1  # a conversation may exceed the default limit of csv, 128 KiB


def iterate_rows(source: str) -> Iterator[Row | Fault]:
    """Iterate over the rows of a file, a folder, ``hf:NAME[:CONFIG][@REVISION][#SPLIT]`` or ``embedded:NAME``; a malformed
    one gives a Fault.

    The ending sets the container: ``.csv``, ``.tsv``, ``.parquet``; ``.jsonl`` is lines; anything else is JSON, a list or
    lines. ``.gz`` may follow any but parquet. Raises UserError if nothing can be read.
    """
    if source.startswith(hub.PREFIX):
        yield from hub.hub_rows(source)
        return
    path = _embedded(source.removeprefix(EMBEDDED)) if source.startswith(EMBEDDED) else Path(source)
    if path.is_dir():
        yield from hub.folder_rows(path)
        return
    ending = Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()
    if ending == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        with _open(path) as stream:
            if ending in _DELIMITERS:
                yield from _read_csv(path, stream, _DELIMITERS[ending])
            else:
                yield from _read_json(stream, lines_only=ending in (".jsonl", ".ndjson"))
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"cannot read {path}: {reason}") from error


def _embedded(name: str) -> Path:
    """The rows of an embedded source. Raises UserError for a name that is none."""
    if name not in ROWS:
        raise UserError(f"{EMBEDDED}{name}: no embedded rows have this name; known: {', '.join(ROWS)}")
    return assets.asset_path(name) / ROWS[name]


def _open(path: Path) -> IO[bytes]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rb")


def _read_json(stream: IO[bytes], lines_only: bool) -> Iterator[Row | Fault]:
    number = 0
    for number, line in enumerate(stream, start=1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not line.strip():
            continue
        if not lines_only and line.lstrip().startswith(b"["):
            yield from _parse_list(line + stream.read())
            return
        lines_only = True
        yield _parse_line(number, line)


def _parse_line(number: int, line: bytes) -> Row | Fault:
    try:
        text = line.decode().strip()
        value, end = decode_json(text)
        if end < len(text):
            raise ValueError(f"more follows the object (character {end + 1})")
    except UnicodeDecodeError as error:
        return Fault(number, _undecodable(error))
    except ValueError as error:
        return Fault(number, f"cannot be read: {error}")
    if not isinstance(value, dict):
        hint = "; a list of rows needs the ending .json" if isinstance(value, list) and value[:1] else ""
        return Fault(number, f"a row must be a JSON object, not {quoted(text)}{hint}")
    return Row(number, value)


def _parse_list(content: bytes) -> Iterator[Row | Fault]:
    """Iterate over the objects of a JSON list."""
    number = 1
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        yield Fault(number, f"this or a later row is {_undecodable(error)}")
        return
    place = _skip_space(text, text.index("[") + 1)
    while text[place : place + 1] != "]":
        try:
            start, (value, place) = place, decode_json(text, place)
        except ValueError as error:
            yield Fault(number, f"cannot be read: {error}")
            return
        yield (
            Row(number, value)
            if isinstance(value, dict)
            else Fault(number, f"a row must be a JSON object, not {quoted(text[start:place])}")
        )
        place = _skip_space(text, place)
        if text[place : place + 1] == ",":
            place = _skip_space(text, place + 1)
        elif text[place : place + 1] != "]":
            yield Fault(number, "a comma or the end of the list must follow")
            return
        number += 1
    if text[place + 1 :].strip():
        yield Fault(number, "text follows the end of the list")


def _skip_space(text: str, place: int) -> int:
    """Position of the next character that is not white space."""
    while text[place : place + 1] in (" ", "\t", "\r", "\n"):
        place += 1
    return place


def _read_csv(path: Path, stream: IO[bytes], delimiter: str) -> Iterator[Row | Fault]:
    csv.field_size_limit(_LARGEST_CELL)
    reader = csv.reader(_lines(stream), delimiter=delimiter, strict=True)
    number, line, header = 0, 1, None
    while True:
        try:
            cells = next(reader, None)
        except UnicodeDecodeError as error:
            yield Fault(number, _undecodable(error), line)
            return
        except csv.Error as error:
            yield Fault(number, f"cannot be read: {error}", line)
            return
        if cells is None:
            return
        if header is None:
            header = [name.strip() for name in cells]
            if repeated := [name for name in header if header.count(name) > 1]:
                raise UserError(f"{path}: column {quoted(repeated[0])} is in the header twice; rename one")
        elif cells:  # skip empty lines
            if len(cells) == len(header):
                yield Row(number, dict(zip(header, cells, strict=True)), line)
            else:
                yield Fault(number, f"has {len(cells)} cells where the header has {len(header)}", line)
        number, line = number + bool(cells), reader.line_num + 1


def _lines(stream: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(stream):
        yield (line.removeprefix(codecs.BOM_UTF8) if not number else line).decode()


def _read_parquet(path: Path) -> Iterator[Row | Fault]:
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
            for values in batch.to_pylist(maps_as_pydicts="strict"):
                number += 1
                yield Row(number, values)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise UserError(f"cannot read {path}{f' after row {number}' if number else ''}: {reason}") from error


def _undecodable(error: UnicodeDecodeError) -> str:
    if error.object.startswith(b"PAR1"):
        return "this is parquet; give the file the ending .parquet"
    return f"not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
