"""The store: one directory a stage, named by its key. A directory that exists is complete.

What a stage's folder holds is checked against its manifest when a process first opens it: one that does not fit is set aside,
named, and made again.
"""

import errno
import functools
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from isoalign.core import claims, doing, stopping, world
from isoalign.core.complaint import say
from isoalign.core.errors import MachineFailed, UserError
from isoalign.core.files import flush
from isoalign.core.manifests import (
    MANIFEST,
    RECIPE,
    changed_rows,
    content,
    files_of,
    fits,
    is_whole,
    misfits,
    remember,
    write_manifest,
)
from isoalign.core.memory import machine_failure

LATER, UNKEYED = "later", "unkeyed"
_NOTHING = object()
Make = Callable[[Path], Iterable[str] | None]  # fills a work directory; returns keys of stages that it did not read
_OPENED: set[Path] = set()  # stages that this process has looked at


def digest(value: Any) -> str:
    """Key of a JSON-able value (dataclasses included): 16 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()[:16]


def added_later(default: Any) -> Any:
    """A setting added after stages had been made without it: at its default it is in no recipe, so their keys stay valid."""
    return field(default=default, metadata={LATER: True})


def in_no_key(default: Any) -> Any:
    """A setting that recipes leave out; the stages that depend on it name it themselves."""
    return field(default=default, metadata={UNKEYED: True})


def recipe_fields(value: Any) -> dict[str, Any]:
    """A dataclass as recipes have it: its settings, without those that came later and are at their default."""
    cls: Any = type(value)
    each = ((name, getattr(value, name), left_out) for name, left_out in _keyed(cls).items())
    return {name: setting for name, setting, left_out in each if left_out is _NOTHING or setting != left_out}


@functools.cache  # a card has a hundred estimates
def _keyed(cls: Any) -> dict[str, Any]:
    """The names of settings that recipes have, each with the value at which it is left out."""
    return {f.name: f.default if f.metadata.get(LATER) else _NOTHING for f in fields(cls) if not f.metadata.get(UNKEYED)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return recipe_fields(value)
    raise TypeError(f"{type(value).__name__} can't be part of a key")


_CANONICAL = json.JSONEncoder(sort_keys=True, default=_plain, allow_nan=False)


@dataclass(frozen=True)
class Store:
    """Stages under ``root``; ``get`` returns a stage's directory and makes it first where it is missing."""

    root: Path

    def path(self, stage: str, key: str) -> Path:
        """Where a stage with this key lies, made or not."""
        return self.root / f"{stage}-{key}"

    def get(self, stage: str, key: str, recipe: dict[str, Any], make: Make, together: bool = False) -> Path:
        """The directory of a stage.

        Where it is missing, ``make`` fills a work directory, which then appears under its name by one rename. Parallel
        jobs wait for each other. A work directory survives a kill, so a stage that checkpoints into it can go on; after
        an error that ``make`` raised itself nothing is published. The manifest names the stages of the recipe as those that
        this one was made from, but for the keys that ``make`` returns: those it did not read, be they in the store or not.

        Of several processes of a run the first one locks, makes and publishes, and the others wait. A stage that is made
        ``together`` runs ``make`` in all of them, in which the first one alone writes.
        """
        final, recipe = self.path(stage, key), json.loads(json.dumps({"stage": stage, **recipe}, default=_plain))
        if self._whole(final, recipe):
            return final
        if world.rank():
            self._follow(final, recipe, make)
            return final
        with world.telling(f"{final.name} ended"), doing.stage(final.name):
            return self._get(final, recipe, make, together)

    def _follow(self, final: Path, recipe: dict[str, Any], make: Make) -> None:
        """Wait until the first process has published a stage; work with it where all are wanted."""
        ended = f"{final.name} ended"
        if work := world.heard(f"{final.name} begun", until=lambda: self._whole(final, recipe) or world.was_told(ended)):
            make(Path(work))
        world.heard(ended, until=lambda: self._whole(final, recipe))
        if not self._whole(final, recipe):
            raise UserError(
                f"process {world.rank()} does not see {final}, which process 0 has made; the store must be on a file system "
                "that all processes share"
            )

    def _get(self, final: Path, recipe: dict[str, Any], make: Make, together: bool) -> Path:
        """The directory of a stage, which no other job makes in the meantime."""
        with self._claimed(final) as claim:
            if self._whole(final, recipe):
                return final
            stopping.stop_here()
            if final.is_dir():
                self._set_aside(final, recipe)
            work = claim.begin()
            world.tell(f"{final.name} begun", str(work) if together else "")
            try:
                with nullcontext() if together else world.alone():
                    unread = set(make(work) or ())
                shutil.rmtree(work / "checkpoint", ignore_errors=True)
                (work / RECIPE).write_text(json.dumps(recipe, indent=1, sort_keys=True))
                read = [parent for parent in self.parents(work) if parent.name.rpartition("-")[2] not in unread]
                write_manifest(work, {parent.name: content(parent) for parent in read})
                flush(*work.rglob("*"), work)
                if not claim.is_held():
                    raise OSError(errno.ENOENT, "it is another folder")
            except Exception as error:
                if not claim.is_held():
                    shutil.rmtree(work, ignore_errors=True)  # which it may have made anew: files are saved with their folders
                    raise MachineFailed(
                        f"{work} vanished while it was written, or another machine went on with it, as this process had given "
                        f"no sign of life for {claims.LEASE:.0f} seconds; run the same command again"
                    ) from error
                if not (work / "checkpoint").exists():
                    shutil.rmtree(work, ignore_errors=True)  # of a disk that fails
                told = str(machine_failure(error) or "")
                if told.startswith("cannot write") and str(self.root) not in told:
                    raise MachineFailed(f"{told} (the store: {self.root})") from error
                raise
            self._publish(work, final, recipe)
        return final

    @contextmanager
    def _claimed(self, final: Path) -> Iterator[claims.Claim]:
        """Context in which this process alone makes a stage."""
        with ExitStack() as stack:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                claim = stack.enter_context(claims.claimed(self.root, final.name))
            except OSError as error:
                raise UserError(f"cannot write to the store {self.root}: {error.strerror}; set store=FOLDER") from error
            yield claim

    def _publish(self, work: Path, final: Path, recipe: dict[str, Any]) -> None:
        """Give a complete work folder the stage's name, unless another machine was faster."""
        try:
            work.rename(final)
        except OSError:
            if not self._whole(final, recipe):
                raise
            shutil.rmtree(work, ignore_errors=True)
            return
        flush(self.root)
        remember(final)
        _OPENED.add(final)

    def _whole(self, folder: Path, recipe: dict[str, Any]) -> bool:
        """Whether a stage is there, as it was made; looked at when this process first opens it."""
        if folder.is_dir() and folder not in _OPENED and not any(misfits(folder, recipe)):
            _OPENED.add(folder)
        return folder in _OPENED and folder.is_dir()

    def damage(self, folder: Path) -> str:
        """What in a stage's folder is not as it was made, in words; empty if all is. For those who only read."""
        if folder in _OPENED:
            return ""
        try:
            recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return RECIPE
        wrong = [] if digest(recipe) == folder.name.rpartition("-")[2] else [RECIPE]
        wrong += misfits(folder, recipe)
        if not wrong:
            _OPENED.add(folder)
        return ", ".join(wrong)

    def changes(self, folder: Path) -> list[str]:
        """What was changed in a stage's directory: its recipe, its files (and which row), the stages that it came from. Reads
        everything.

        Raises OSError, ValueError, TypeError, KeyError or AttributeError where recipe or manifest can't be read.
        """
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        wrong = []
        if digest(recipe) != folder.name.rpartition("-")[2]:
            wrong.append(f"{folder.name}/{RECIPE}: does not match the stage's key")
        if not (folder / MANIFEST).exists():
            return [*wrong, f"{folder.name}: has no {MANIFEST}"]
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wrong += [] if is_whole(manifest) else [f"{folder.name}/{MANIFEST}: is not as it was written"]
        there = {file.relative_to(folder).as_posix() for file in files_of(folder)}
        wrong += [f"{folder.name}/{name}: is missing" for name in sorted(manifest["files"].keys() - there)]
        wrong += [f"{folder.name}/{name}: was added" for name in sorted(there - manifest["files"].keys())]
        for name in sorted(there & manifest["files"].keys()):
            if not fits(folder / name, manifest["files"][name], manifest.get("beside", {}).get(name)):
                wrong.append(f"{folder.name}/{name}: {changed_rows(folder / name, manifest['files'][name])}was changed")
        for name, known in manifest["parents"].items():
            parent = self.root / name
            if not parent.is_dir():
                wrong.append(f"{name}: is missing, and {folder.name} was made from it")
            elif content(parent) != known:
                wrong.append(f"{name}/{MANIFEST}: not the one that {folder.name} was made from")
        return wrong

    def _set_aside(self, folder: Path, recipe: dict[str, Any]) -> None:
        """Move a stage that is not as it was made out of the way, and say so."""
        places = (self.root / f".damaged-{folder.name}-{number}" for number in itertools.count(1))
        aside = next(place for place in places if not place.exists())
        what = f"the store's {folder.name} is not as it was made ({', '.join(misfits(folder, recipe))})"
        try:
            folder.rename(aside)
        except OSError as error:
            raise UserError(f"{what}, and can't be made again: {error.strerror}; set store=FOLDER") from error
        say(f"{what}; it is kept as {aside.name} and made again")

    def find(self, key: str) -> Path | None:
        """The directory of a key, whatever its stage; None where it is not in this store."""
        return next(iter(self.root.glob(f"[!.]*-{key}")), None) if re.fullmatch("[0-9a-f]{16}", key) else None

    def parents(self, folder: Path, find: Callable[[str], Path | None] | None = None) -> list[Path]:
        """The stages in this store that a stage's recipe names. ``find``: for those who ask for many, who look once at all."""
        text = (folder / RECIPE).read_text(encoding="utf-8")
        found = map(find or self.find, dict.fromkeys(re.findall(r'"([0-9a-f]{16})"', text)))
        return [parent for parent in found if parent is not None and parent != folder]
