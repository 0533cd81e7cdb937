"""The store: one directory a stage, named by its key. A directory that exists is complete."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.errors import UserError


def digest(value: Any) -> str:
    """Key of a JSON-able value (dataclasses included): 16 hex digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=_plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} can't be part of a key")


@dataclass(frozen=True)
class Store:
    """Stages under ``root``; ``get`` returns a stage's directory and makes it first where it is missing."""

    root: Path

    def path(self, stage: str, key: str) -> Path:
        """Where a stage with this key lies, made or not."""
        return self.root / f"{stage}-{key}"

    def get(self, stage: str, key: str, recipe: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The directory of a stage.

        Where it is missing, ``make`` fills a work directory, which then appears under its name by one rename. Parallel
        jobs wait for each other. A work directory survives a kill, so a stage that checkpoints into it can go on; after
        an error that ``make`` raised itself nothing is published.
        """
        final = self.path(stage, key)
        if final.is_dir():
            return final
        lock = FileLock(self.root / f".{final.name}.lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            held = lock.acquire()
        except OSError as error:
            raise UserError(f"cannot write to the store {self.root}: {error.strerror}; set store=FOLDER") from error
        with held:
            if not final.is_dir():
                work = self.root / f".work-{final.name}"
                work.mkdir(exist_ok=True)
                try:
                    make(work)
                except Exception:
                    if not (work / "checkpoint").exists():
                        shutil.rmtree(work)
                    raise
                (work / "recipe.json").write_text(json.dumps(recipe, indent=1, sort_keys=True, default=_plain))
                shutil.rmtree(work / "checkpoint", ignore_errors=True)
                work.rename(final)
        return final
