"""Files that appear whole or not at all."""

import os
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
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            work.write_bytes(text if isinstance(text, bytes) else text.encode())
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
