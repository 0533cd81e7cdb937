"""What commands print with ``--json``: one JSON document that any reader takes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoalign.core.redaction import redact_text


def to_json(value: Any) -> str:
    """JSON of mappings, lists and dataclasses, without the secrets that texts show.

    NaN and infinities, which JSON lacks, are null. All but printable ASCII is escaped, so that no text of a model, a card or a
    server reaches a terminal as commands.
    """
    return json.dumps(plain(value), indent=1, allow_nan=False).replace("\x7f", "\\u007f")


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
