"""Folders and files behind any URL that fsspec knows (s3://, gs://, memory://, ...), as if they lay on this machine.

What is read is fetched into a temporary folder, and what was changed there is written back at the end. So the rest of isoalign
knows paths alone. A ``file://`` URL and a plain path are that path.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError, unforeseen
from isoalign.core.lazy import fsspec
from isoalign.core.redaction import redact_text

PACK = "values.jsonl.xz"  # beside published cards: what of them only programs read
FETCHED = (".json", ".svg", ".pdf", ".tex", ".md", PACK)  # cards, notes of failures, and charts and tables that may have to go
SHARED = (".json", PACK)  # of those, what a later writer must not drop of another's
OWN = (".lock", ".lease")  # files by which processes of this machine take turns


@contextmanager
def folder(place: str) -> Iterator[Path]:
    """A folder as a path; files that appear, change or go there do so in the place as well, when the context ends well.

    Raises UserError in one line where the place can't be read or written; messages of others name the place, too. Cards or a
    pack that another has changed meanwhile are not replaced: the context ends with such an error, and nothing is written. Only
    two who write within the same moment do not see one another: of a file that both write the later one stays.
    """
    if (path := _plain(place)) is not None:
        yield path
        return
    with _temporary(place) as local:
        with _told(place, "read"):
            system, root = fsspec.core.url_to_fs(place)
            names = _fetch(system, root, local)
        before = {name: (local / name).read_bytes() for name in names}
        yield local
        after = {file.relative_to(local).as_posix(): file.read_bytes() for file in _files(local)}
        changed = [name for name in after if after[name] != before.get(name)]
        with _told(place, "write to"):
            _check_unchanged(system, root, before, {*changed, *(before.keys() - after.keys())})
            order = (PACK, ".json", "")  # what cards need, cards, boards of them
            for name in sorted(changed, key=lambda name: (next(i for i, end in enumerate(order) if name.endswith(end)), name)):
                _within(system, root, name)
                system.pipe_file(posixpath.join(root, name), after[name])
            for name in before.keys() - after.keys():
                system.rm_file(posixpath.join(root, name))


@contextmanager
def file(place: str) -> Iterator[Path]:
    """A file as a path, to be read."""
    if (path := _plain(place)) is not None:
        yield path
        return
    with _temporary(posixpath.dirname(place)) as temporary:
        local = temporary / (posixpath.basename(place) or "file")
        with _told(place, "read"):
            system, path_there = fsspec.core.url_to_fs(place)
            local.write_bytes(system.cat_file(path_there))
            packed = posixpath.join(posixpath.dirname(path_there), PACK)
            if place.endswith(".json") and system.exists(packed):  # beside published cards
                (temporary / PACK).write_bytes(system.cat_file(packed))
        yield local


def named(path: Path) -> str:
    """A path as the user has named it: below a URL, if it is in the folder of one."""
    return _named(str(path))


_places: dict[str, str] = {}  # of temporary folders, the URL


def _named(text: str) -> str:
    for temporary, place in _places.items():
        text = text.replace(temporary, redact_text(place.rstrip("/")))
    return text


def is_url(place: str) -> bool:
    """Whether it is a URL, and not a path."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.\-]+(::|://)", place))


def _plain(place: str) -> Path | None:
    """The path that a place is; None for one of another system."""
    if not is_url(place):
        return Path(place)
    return Path(place.removeprefix("file://")) if place.startswith("file://") else None


def _fetch(system: Any, root: str, local: Path) -> list[str]:
    """Fetch the files of a folder; their names in it. None of a folder that is not there."""
    names = []
    for path in system.find(root):
        name = posixpath.relpath(path, root.rstrip("/") or "/")
        if name.endswith(FETCHED):
            target = (local / name).resolve()
            if local.resolve() not in target.parents:
                raise UserError(f"it holds {name!r}, which is no name of a file in it")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(system.cat_file(path))
            names.append(name)
    return names


def _files(local: Path) -> list[Path]:
    return [file for file in local.rglob("*") if file.is_file() and file.suffix not in OWN]


def _check_unchanged(system: Any, root: str, before: dict[str, bytes], names: set[str]) -> None:
    """Raise UserError if cards or a pack are no longer there as they were fetched."""
    system.invalidate_cache()
    for name in sorted(name for name in names if name.endswith(SHARED)):
        try:
            now = system.cat_file(posixpath.join(root, name))
        except FileNotFoundError:
            now = None
        if now != before.get(name):
            raise UserError(f"another process has changed {name} there meanwhile, and nothing was written; do it again")


def _within(system: Any, root: str, name: str) -> None:
    """Make the folder of a file, on systems that have folders."""
    if "/" in name or not system.exists(root):
        system.makedirs(posixpath.dirname(posixpath.join(root, name)), exist_ok=True)


@contextmanager
def _told(place: str, what: str) -> Iterator[None]:
    """Context in which an error of a system is one line."""
    try:
        yield
    except Exception as error:  # each library has its own
        why = str(error) if isinstance(error, UserError | ImportError | ValueError) else unforeseen(error)
        raise UserError(f"cannot {what} {redact_text(place)}: {why.strip().partition(chr(10))[0]}") from error


@contextmanager
def _temporary(place: str) -> Iterator[Path]:
    """A temporary folder, in whose place messages name ``place``."""
    with tempfile.TemporaryDirectory(prefix="isoalign-") as temporary:
        _places[temporary] = place
        try:
            yield Path(temporary)
        except UserError as error:
            raise type(error)(_named(str(error))) from error
        finally:
            del _places[temporary]
