"""Files that appear whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isoalign.core.errors import UserError


def flush(*paths: Path) -> None:
    """Have the disk hold files, and the names in folders, before anything says that they are there."""
    for path in paths:
        if os.name == "nt" and path.is_dir():  # which has no descriptors of folders
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save(path: Path, text: str | bytes) -> None:
    """Make a file appear whole or not at all, its folder with it. Raises UserError where that can't be done."""
    work = path.with_name(f".{path.name}.{_own()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            work.write_bytes(text if isinstance(text, bytes) else text.encode())
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def check_writable(folder: Path, hint: str) -> None:
    """Make a folder if needed. Raises UserError with a ``hint`` if nothing can be written there."""
    probe = folder / f".probe-{_own()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; {hint}") from error


def _own() -> str:
    """A word that no other process has, of another machine or container that shares the folder neither."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def new_folder(folder: Path, replaces: str = "") -> Iterator[Path]:
    """A work directory beside a folder, which it becomes if nothing fails. Raises UserError for a folder that holds something,
    unless it holds a file named ``replaces``: that folder is replaced as a whole; and where it can't be written."""
    folder = folder.resolve() if replaces else folder.absolute()
    old, work = (folder.with_name(f".{folder.name}.{_own()}.{end}") for end in ("old", "tmp"))
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if taken and not (replaces and (folder / replaces).is_file()):
            raise UserError(f"{folder} exists already; name a folder that is new or empty")
        work.mkdir(parents=True)
        yield work
        if taken:
            folder.replace(old)
        work.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
