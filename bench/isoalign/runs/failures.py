"""Runs that failed: each leaves a line in ``<results>/<task>/failed/``, until the same command comes through."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from isoalign.core import outside_json
from isoalign.core.files import save
from isoalign.core.redaction import redact
from isoalign.core.store import digest

TRIAL, MACHINE = "ISOALIGN_TRIAL", 75
"""A variable that a search sets for its trials, and the exit status of one that the machine ended."""


@dataclass(frozen=True)
class Failure:
    """A run that made no card, and why."""

    algorithm: str
    seed: int
    command: str
    reason: str

    def file(self, folder: Path) -> Path:
        """The file of the note, the same for the same command."""
        return folder / "failed" / f"{self.algorithm}-s{self.seed}-{digest(redact(self.command))[:8]}.json"


def note_failure(failure: Failure, folder: Path) -> None:
    """Write a note beside the task's cards."""
    kept = asdict(failure) | {"command": redact(failure.command), "reason": redact(failure.reason)}
    save(failure.file(folder), json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def clear_failure(algorithm: str, seed: int, command: str, folder: Path) -> None:
    """Delete the note of a run that succeeded."""
    Failure(algorithm, seed, command, "").file(folder).unlink(missing_ok=True)


def read_failures(folder: Path) -> list[Failure]:
    """All notes of a task, by file name; other files are skipped."""
    found = []
    for file in sorted((folder / "failed").glob("*.json")):
        try:
            found.append(Failure(**outside_json.decode(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return found
