"""JSON that any reader takes: what commands print with ``--json``, and files that git and people can read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from isoalign.core.redaction import redact_text


def to_json(value: Any) -> str:
    """JSON of mappings, lists and dataclasses, without the secrets that texts show.

    NaN and infinities, which JSON lacks, are null. All but printable ASCII is escaped, so that no text of a model, a card or a
    server reaches a terminal as commands.
    """
    return json.dumps(plain(value), indent=1, allow_nan=False).replace("\x7f", "\\u007f")


def to_lines(fields: Mapping[str, Any], split: Collection[str], dense: Collection[str] = (), indent: int | None = 1) -> str:
    """JSON of an object: each entry of the fields ``split`` has a line, those ``dense`` without blanks. The other fields have
    a line, or with ``indent`` as many as they need.

    Raises ValueError for NaN and infinities, and TypeError for what JSON can't hold.
    """

    def lines_of(name: str, value: Any) -> str:
        if name not in split or not value or isinstance(value, str):
            return json.dumps(value, indent=indent, allow_nan=False).replace("\n", "\n ")
        separators = (",", ":") if name in dense else None
        named = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
        items = [
            ("" if key is None else f"{json.dumps(key)}: ") + json.dumps(item, allow_nan=False, separators=separators)
            for key, item in named
        ]
        start, end = "{}" if isinstance(value, Mapping) else "[]"
        return start + "\n  " + ",\n  ".join(items) + "\n " + end

    return "{\n" + ",\n".join(f" {json.dumps(name)}: {lines_of(name, value)}" for name, value in fields.items()) + "\n}\n"


def plain(value: Any) -> Any:
    """The value as JSON has it: dataclasses as mappings, paths as text, no NaN and no infinity."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None  # numpy's as well
    return redact_text(str(value)) if isinstance(value, str | Path) else value
