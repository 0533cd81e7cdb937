"""JSON lines files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read what ``write_rows`` wrote."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
