"""Keeping a store: what is in it, whether it is as it was made, and what can go."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoalign.core import claims, outside_json, presence
from isoalign.core.display import clean, grid
from isoalign.core.errors import UserError
from isoalign.core.manifests import CHECKED, MANIFEST, RECIPE
from isoalign.core.store import Store
from isoalign.evaluation.card import read_card

GIB = 2**30
KINDS = {"stage": "stages", "work": "unfinished", "damaged": "set aside as damaged", "lock": "locks", "note": "notes"}
STAGE = re.compile(r"[^.-][^.]*-[0-9a-f]{16}")  # the name of a stage's folder


@dataclass(frozen=True)
class Item:
    """Something in a store: a stage, the work folder of an unfinished one, a damaged one, a lock, or a note about digests.
    ``name``: of the stage; ``busy``: a process works on it."""

    path: Path
    kind: str
    name: str
    busy: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


def items(store: Store) -> list[Item]:
    """Everything in a store, by name. Raises UserError where there is no store."""
    if not store.root.is_dir():
        raise UserError(f"no store at {store.root}; name one with --store")
    return sorted(_items(store.root), key=lambda item: (item.kind, item.name))


def _items(root: Path) -> Iterator[Item]:
    for path in root.iterdir():
        name = path.name
        if STAGE.fullmatch(name):
            if any((path / file).exists() for file in (RECIPE, MANIFEST)):
                yield Item(path, "stage", name)
        elif name.startswith(claims.WORK) and STAGE.fullmatch(claims.stage_of(path)):
            yield Item(path, "work", claims.stage_of(path), claims.is_claimed(root, claims.stage_of(path)))
        elif name.startswith(".damaged-") and STAGE.match(name, len(".damaged-")):
            yield Item(path, "damaged", name.removeprefix(".damaged-"))
        elif name.startswith(".") and path.suffix in (".lock", ".lease") and STAGE.fullmatch(path.stem[1:]):
            yield Item(path, "lock", path.stem[1:], claims.is_claimed(root, path.stem[1:]))
        elif name == CHECKED and path.is_dir():
            yield from (Item(note, "note", note.name.removesuffix(".json")) for note in path.glob("*.json"))


def check(store: Store) -> None:
    """Raise UserError for a folder that holds something, but no stage: it is no store."""
    others = sorted(path.name for path in store.root.iterdir() if not path.name.startswith("."))
    if others and not any(item.kind == "stage" for item in items(store)):
        raise UserError(f"{store.root} is no store: it holds {others[0]!r}, and no stage; name the store with --store")


def listing(store: Store) -> Iterator[str]:
    """What is in a store: the stages by kind, and the rest."""
    found = items(store)
    stages = [item for item in found if item.kind == "stage"]
    kinds = Counter(item.name.rpartition("-")[0] for item in stages)
    sizes = Counter[str]()
    for item in stages:
        sizes[item.name.rpartition("-")[0]] += item.size
    rows = [[clean(kind), f"{number:,}", f"{sizes[kind] / GIB:.3f}"] for kind, number in sorted(kinds.items())]
    yield grid(["stages", "number", "GiB"], [*rows, ["all", f"{len(stages):,}", f"{sum(sizes.values()) / GIB:.3f}"]])
    for kind, words in KINDS.items():
        others = [item for item in found if item.kind == kind != "stage"]
        if others and kind != "note":
            busy = sum(item.busy for item in others)
            yield f"{words}: {len(others):,}, {sum(item.size for item in others) / GIB:.3f} GiB, {busy:,} of them in use"


def making(store: Store) -> Iterator[dict[str, Any]]:
    """The stages that are being made, as `runs.status.read_statuses` has runs; ``dead`` are those whose maker has ended or
    given up, with which the next run goes on."""
    now = presence.clock(store.root)
    for work in claims.works(store.root):
        name, who, lease = claims.stage_of(work), claims.owner(work), claims.lease_of(store.root, claims.stage_of(work))
        holder, file = lease.owner, Path(lease.lock_file)
        try:
            age = max(0.0, now - (file if holder else work).stat().st_mtime)
        except OSError:  # it has just ended
            continue
        alive = presence.is_alive(who) if holder else False
        state = "silent" if alive is None and age > claims.LEASE else "dead" if alive is False else "running"
        host = holder.hostname.partition("?")[0] if holder else "?"
        yield {"command": name, "state": state, "host": host, "pid": who["pid"], "age": age, "file": str(work), "line": ""}


def verified(store: Store) -> Iterator[tuple[str, list[str]]]:
    """Each stage and what was changed in it; every file is read."""
    for item in items(store):
        if item.kind == "stage":
            try:
                yield item.name, store.changes(item.path)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                yield item.name, [f"{item.name}: its recipe or manifest can't be read ({type(error).__name__})"]


def descendants(store: Store, keys: Collection[str]) -> list[Item]:
    """The stages with these keys, and all that were made from them. Raises UserError for a key that is not in the store."""
    stages = {item.name: item for item in items(store) if item.kind == "stage"}
    wanted = set()
    for key in keys:
        found = {name for name in stages if key in (name, name.rpartition("-")[2])}
        if not found:
            raise UserError(f"the store {store.root} holds no stage {key!r}; `isoalign store ls` shows what it holds")
        wanted |= found
    find = _paths(stages).get
    parents = {name: {parent.name for parent in _parents(store, item.path, find)} for name, item in stages.items()}
    while more := {name for name in stages.keys() - wanted if parents[name] & wanted}:
        wanted |= more
    return [stages[name] for name in sorted(wanted)]


def _parents(store: Store, folder: Path, find: Callable[[str], Path | None]) -> list[Path]:
    """The stages that a stage's recipe names. Raises UserError where it can't be read."""
    try:
        return store.parents(folder, find)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / RECIPE}, which names what it was made from; remove that folder") from error


def _paths(stages: Mapping[str, Item]) -> dict[str, Path]:
    """Key to folder, looked up once for all: `Store.find` searches the store for each."""
    return {name.rpartition("-")[2]: item.path for name, item in stages.items()}


def unnamed(store: Store, results: Iterable[Path]) -> list[Item]:
    """The stages that no card, of a run or a reward model, names, itself or through the stages that it names, in these folders
    of results.

    Raises UserError where there is no card at all: a wrong folder would make everything superfluous. So would a card that
    can't be read; JSON of another kind, such as the notes of failures and the records of tuning, is passed over. Raises it too
    while a stage is being made: no card names yet what that run has made so far.
    """
    if busy := [item.name for item in items(store) if item.busy]:
        raise UserError(f"{busy[0]} is being made, and no card names yet what its run has made; wait until it has ended")
    named = {key for root in results for path in _json_below(root) for key in _named(path)}
    if not named:
        raise UserError(f"no cards in {', '.join(map(str, results))}; name the folders of results with --results")
    stages = {item.name: item for item in items(store) if item.kind == "stage"}
    find = _paths(stages).get
    waiting = [path for key in named if (path := find(key))]
    kept: set[str] = set()
    while waiting:
        folder = waiting.pop()
        if folder.name not in kept:
            kept.add(folder.name)
            waiting += _parents(store, folder, find)
    return [item for name, item in sorted(stages.items()) if name not in kept]


def _json_below(root: Path) -> list[Path]:
    """JSON files in a folder, at any depth, also behind links. Raises UserError for a folder that can't be read."""
    found, seen = list[Path](), set[str]()
    for place, folders, files in os.walk(root, onerror=_unreadable, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in (*folders, *files) if name.endswith(".json")]
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise UserError(f"cannot look for cards in {error.filename}: {error.strerror}; name the folders of results with --results")


def _named(path: Path) -> Iterable[str]:
    """Keys of the stages that a file names, if it is a card."""
    try:
        found = outside_json.decode(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}, which may be a card: {error}; mend it or remove it") from error
    if isinstance(found, dict) and found and not {"format", "key", "metrics", "parents"} & found.keys():
        return ()
    of_reward = isinstance(found, dict) and "by" in found and isinstance(found.get("parents"), dict)  # runs.reward_card
    return map(str, found["parents"].values()) if of_reward else read_card(path).parents.values()


def leftovers(store: Store) -> list[Item]:
    """What dead processes left behind: unfinished work, locks that nobody holds, damaged stages, notes about no stage."""
    found = items(store)
    there = {item.name for item in found if item.kind == "stage"}
    return [
        item for item in found
        if not item.busy and (item.kind in ("work", "damaged", "lock") or (item.kind == "note" and item.name not in there))
    ]  # fmt: skip


def remove(chosen: Iterable[Item]) -> None:
    """Delete items, one that a process has begun to use since excepted."""
    for item in chosen:
        if item.kind in ("work", "lock") and claims.is_claimed(item.path.parent, item.name):
            continue
        if item.path.is_dir():
            gone = item.path.with_name(f".damaged-{item.path.name.lstrip('.')}")  # at once, so that no half of it is a stage
            item.path.rename(gone)
            shutil.rmtree(gone)
        else:
            item.path.unlink(missing_ok=True)
