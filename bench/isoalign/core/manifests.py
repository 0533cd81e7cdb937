"""Manifests: what lies in a stage's folder, as digests of its files and of the stages that it was made from.

``manifest.json`` has ``files`` and ``parents``, and their digest, the stage's ``content``: so the content of one stage stands
for all that led to it. ``beside`` has the digests of records with the times and machines in them, which decide no figure: a
stage that is made again has the same content on another day.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.core.files import save

RECIPE, MANIFEST, RECORD = "recipe.json", "manifest.json", "record.json"
BESIDE = ("seconds", "device")  # entries of a record that decide no figure
ROW = 8  # hex digits of a row's checksum
ALWAYS = 2**22  # bytes of a file that is always read; of a larger one, its unchanged size and times will do
CHECKED = ".checked"  # folder of a store with the sizes and times of large files that were read and fitted


def write_manifest(folder: Path, parents: Mapping[str, str]) -> None:
    """Write the manifest of a folder whose files are all there. ``parents``: the contents of other stages, by folder name."""
    files = {file.relative_to(folder).as_posix(): file_fingerprint(file) for file in files_of(folder)}
    beside = {file.relative_to(folder).as_posix(): _sha256(file) for file in files_of(folder) if file.name == RECORD}
    whole = {"files": files, "parents": dict(parents), "beside": beside}
    (folder / MANIFEST).write_text(json.dumps(whole | {"content": _content(whole)}, indent=1))


def files_of(folder: Path) -> list[Path]:
    """The files that a manifest is about."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)


def content(folder: Path) -> str:
    """Digest of a stage's files and of what they were made from; empty without a manifest that can be read."""
    whole = _read(folder / MANIFEST)
    return _content(whole) if isinstance(whole, dict) else ""


def _content(whole: dict[str, Any]) -> str:
    text = json.dumps({name: whole.get(name) for name in ("files", "parents")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_whole(manifest: dict[str, Any]) -> bool:
    """Whether a manifest is as it was written; of one from before manifests said so, True."""
    return manifest.get("content") in (None, _content(manifest))


def file_fingerprint(file: Path) -> dict[str, Any]:
    """Digests of a file: ``sha256``, and of JSON lines ``rows``, 8 hex digits per row, to find the changed row. A record is
    taken without times and machines."""
    if file.name == RECORD:
        settled = json.dumps(_settled(json.loads(file.read_text(encoding="utf-8"))), sort_keys=True)
        return {"sha256": hashlib.sha256(settled.encode()).hexdigest()}
    found: dict[str, Any] = {"sha256": _sha256(file)}
    if file.suffix == ".jsonl":
        found["rows"] = "".join(f"{zlib.crc32(row):08x}" for row in file.read_bytes().split(b"\n"))
    return found


def misfits(folder: Path, recipe: dict[str, Any]) -> Iterator[str]:
    """What in a stage's folder is not what was made: recipe, manifest, files, parents. Empty where all fits.

    A large file is read once, and then only when its size or its times have changed.
    """
    if _read(folder / RECIPE) != recipe:
        yield RECIPE
    try:
        whole = _read(folder / MANIFEST)
        files, parents, beside = whole["files"], whole["parents"], whole.get("beside", {})  # an older version had none
        if not is_whole(whole):
            yield MANIFEST
        known = _remembered(folder)
        seen = {}
        for name, told in files.items():
            file = folder / name
            seen[name] = _stamp(file) if file.is_file() else []
            large = seen[name] and seen[name][0] > ALWAYS
            if not (large and known.get(name) == seen[name]) and not fits(file, told, beside.get(name)):
                yield name
        for name, told in parents.items():
            if (parent := folder.parent / name).is_dir() and content(parent) != told:
                yield f"{MANIFEST} (made from another {name})"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        yield MANIFEST
    else:
        _note(folder, {name: stamp for name, stamp in seen.items() if stamp and stamp[0] > ALWAYS}, known)


def changed_rows(file: Path, told: dict[str, Any]) -> str:
    """The rows of a changed file of JSON lines as ``row 2, 5 ``; empty for another file and where rows came or went."""
    if "rows" not in told:
        return ""
    both = (file_fingerprint(file)["rows"], told["rows"])
    now, then = ([rows[i : i + ROW] for i in range(0, len(rows), ROW)] for rows in both)
    changed = [str(number) for number, (a, b) in enumerate(zip(now, then, strict=False), start=1) if a != b]
    return f"row {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''} " if len(now) == len(then) else ""


def fits(file: Path, told: dict[str, Any], beside: str | None) -> bool:
    """Whether a file is there and is the one of its manifest, to the byte."""
    return file.is_file() and _sha256(file) == (beside or told["sha256"])


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _settled(value: Any) -> Any:
    """A record without times and machines."""
    if isinstance(value, dict):
        return {name: _settled(each) for name, each in value.items() if name not in BESIDE}
    return [_settled(each) for each in value] if isinstance(value, list) else value


def _stamp(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _remembered(folder: Path) -> dict[str, list[int]]:
    known = _read(folder.parent / CHECKED / f"{folder.name}.json")
    return known if isinstance(known, dict) else {}


def _read(file: Path) -> Any:
    """The JSON in a file; None where it can't be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def remember(folder: Path) -> None:
    """Note the large files of a stage that has just been made."""
    stamps = {file.relative_to(folder).as_posix(): _stamp(file) for file in files_of(folder)}
    _note(folder, {name: stamp for name, stamp in stamps.items() if stamp[0] > ALWAYS}, {})


def _note(folder: Path, seen: dict[str, list[int]], known: dict[str, list[int]]) -> None:
    if seen and seen != known:
        with suppress(UserError):  # in a store that can only be read
            save(folder.parent / CHECKED / f"{folder.name}.json", json.dumps(seen))
