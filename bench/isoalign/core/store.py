"""The store: one directory a stage, named by its key. A directory that exists is complete.

Each holds a ``manifest.json``: the digest of every file, and of the manifests of the stages that it was made from. So the
digest of one manifest stands for all that led to it.
"""

import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from isoalign.core.errors import UserError

LATER = "later"
RECIPE, MANIFEST = "recipe.json", "manifest.json"


def digest(value: Any) -> str:
    """Key of a JSON-able value (dataclasses included): 16 hex digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=_plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def added_later(default: Any) -> Any:
    """A setting added after stages had been made without it: at its default it is in no recipe, so their keys stay valid."""
    return field(default=default, metadata={LATER: True})


def recipe_fields(value: Any) -> dict[str, Any]:
    """A dataclass as recipes have it: its settings, without those that came later and are at their default."""
    kept = (f for f in fields(value) if not (f.metadata.get(LATER) and getattr(value, f.name) == f.default))
    return {f.name: getattr(value, f.name) for f in kept}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return recipe_fields(value)
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
                shutil.rmtree(work / "checkpoint", ignore_errors=True)
                recipe = {"stage": stage, **recipe}
                (work / RECIPE).write_text(json.dumps(recipe, indent=1, sort_keys=True, default=_plain))
                (work / MANIFEST).write_text(json.dumps(self._manifest(work), indent=1))
                work.rename(final)
        return final

    def find(self, key: str) -> Path | None:
        """The directory of a key, whatever its stage; None where it is not in this store."""
        return next(iter(self.root.glob(f"[!.]*-{key}")), None) if re.fullmatch("[0-9a-f]{16}", key) else None

    def parents(self, folder: Path) -> list[Path]:
        """The stages in this store that a stage's recipe names."""
        text = (folder / RECIPE).read_text(encoding="utf-8")
        found = (self.find(key) for key in dict.fromkeys(re.findall(r'"([0-9a-f]{16})"', text)))
        return [parent for parent in found if parent is not None and parent != folder]

    def _manifest(self, work: Path) -> dict[str, Any]:
        files = {file.relative_to(work).as_posix(): file_fingerprint(file) for file in _files(work)}
        return {"files": files, "parents": {parent.name: content(parent) for parent in self.parents(work)}}


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)


def content(folder: Path) -> str:
    """Digest of a stage's manifest; empty where an older version made it without one."""
    file = folder / MANIFEST
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.exists() else ""


def file_fingerprint(file: Path) -> dict[str, Any]:
    """Digests of a file: ``sha256``, and of JSON lines ``rows``, 8 hex digits per row, to find the changed row."""
    with file.open("rb") as stream:
        found: dict[str, Any] = {"sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
    if file.suffix == ".jsonl":
        found["rows"] = "".join(f"{zlib.crc32(row):08x}" for row in file.read_bytes().split(b"\n"))
    return found
