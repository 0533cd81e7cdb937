"""Machines that share a store: a stage is of one maker, whatever locks are worth there, and whoever dies or freezes.

Machines are processes that take themselves for others' and to which every lock is granted, as some shared file systems do.
"""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isoalign.core import claims, presence
from isoalign.core import store as stores
from isoalign.core.errors import MachineFailed
from isoalign.core.files import save
from isoalign.core.store import Store, digest
from isoalign.tools import storekeeping

FORK = multiprocessing.get_context("fork")
RECIPE = {"seed": 1}
KEY = digest({"stage": "train", **RECIPE})
PARTS = 6
Make = Callable[[Path], None]


@pytest.fixture(autouse=True)
def _short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE", 1.0)
    monkeypatch.setattr(claims, "LOOK", 0.02)


@pytest.fixture
def started() -> Iterator[list[Any]]:
    """Processes, which are ended at the end."""
    found: list[Any] = []
    yield found
    for each in found:
        if each.is_alive():
            os.kill(each.pid, signal.SIGKILL)
        each.join()


def _be(machine: str, root: Path, make: Make, out: Any) -> None:
    """Get the stage on a machine whose file system grants every lock."""
    fcntl.flock = lambda *_: None  # type: ignore[assignment]
    presence.machine = lambda: machine  # type: ignore[assignment]
    socket.gethostname = lambda: machine
    stores._OPENED.clear()
    try:
        Store(root).get("train", KEY, RECIPE, make)
        out.put((machine, ""))
    except Exception as error:
        out.put((machine, f"{type(error).__name__}: {error}"))


def start(started: list[Any], machine: str, root: Path, make: Make) -> Any:
    out = FORK.Queue()
    process = FORK.Process(target=_be, args=(machine, root, make, out))
    process.out = out
    process.start()
    started.append(process)
    return process


def ended(process: Any) -> str:
    """What went wrong in a process, empty for nothing."""
    line: str = process.out.get(timeout=60)[1]
    process.join()
    return line


def until(true: Callable[[], Any]) -> None:
    last = time.monotonic() + 30
    while not true():
        assert time.monotonic() < last
        time.sleep(0.005)


def maker(who: str, log: Path) -> Make:
    """Parts that all name their maker, with moments between them in which another one would mix in its own."""

    def make(work: Path) -> None:
        with log.open("a") as file:
            file.write(f"{who}\n")
        for part in range(PARTS):
            (work / f"part-{part}").write_text(who)
            time.sleep(0.01)

    return make


def whole(root: Path) -> str:
    """The one maker of the stage, which is as it was made and the only thing in the store."""
    store = Store(root)
    folder = store.path("train", KEY)
    assert store.changes(folder) == []
    assert [path.name for path in root.iterdir() if not path.name.endswith(".lock")] == [folder.name]
    makers = {(folder / f"part-{part}").read_text() for part in range(PARTS)}
    assert len(makers) == 1
    return makers.pop()


def test_machines_at_once_make_a_stage_once_though_every_lock_is_granted(tmp_path: Path, started: list[Any]) -> None:
    root, log = tmp_path / "store", tmp_path / "log"
    nodes = [start(started, f"node-{n}", root, maker(f"{n}", log)) for n in range(5)]
    assert [ended(node) for node in nodes] == [""] * 5
    assert [whole(root)] == log.read_text().split()


def stuck(there: Path, then: Make) -> Make:
    """Leaves a checkpoint and half of its work, says so, and goes on when it is told."""

    def make(work: Path) -> None:
        (work / "checkpoint").mkdir(exist_ok=True)
        (work / "checkpoint" / "1").write_text("seven")
        (work / "part-0").write_text("half")
        with (work / "part-1").open("w") as file:
            file.write("wro")
            file.flush()
            there.with_name("open").write_text("")
            until(there.exists)
            file.write("ng" * 100)
        then(work)

    return make


def goes_on(who: str, seen: Path) -> Make:
    def make(work: Path) -> None:
        seen.write_text((work / "checkpoint" / "1").read_text() if (work / "checkpoint").is_dir() else "nothing")
        maker(who, seen.with_name("log"))(work)

    return make


@pytest.mark.parametrize("kill", [True, False])
def test_a_maker_that_dies_or_freezes_is_followed_by_another_machine_and_mixes_nothing_in(
    tmp_path: Path, started: list[Any], kill: bool
) -> None:
    root, seen, go = tmp_path / "store", tmp_path / "seen", tmp_path / "go"
    first = start(started, "node-1", root, stuck(go, maker("first", tmp_path / "log")))
    until((tmp_path / "open").exists)
    second = start(started, "node-2", root, goes_on("second", seen))
    os.kill(first.pid, signal.SIGKILL if kill else signal.SIGSTOP)
    assert ended(second) == ""
    assert seen.read_text() == "seven"  # of the checkpoint, not of the half
    assert whole(root) == "second"
    if not kill:
        go.touch()
        os.kill(first.pid, signal.SIGCONT)
        assert ended(first).startswith(f"MachineFailed: {root}/.work-train-{KEY}.")
        assert whole(root) == "second"
        assert (root / f"train-{KEY}" / "part-1").read_text() == "second"  # which it had open


def test_a_frozen_maker_that_makes_its_folder_anew_publishes_nothing(tmp_path: Path, started: list[Any]) -> None:
    """Files are saved with their folders, so it could bring back the one that was taken from it, without the rest."""
    root, seen, go = tmp_path / "store", tmp_path / "seen", tmp_path / "go"

    def saves(work: Path) -> None:
        for part in range(PARTS):
            save(work / f"part-{part}", "first")
        (tmp_path / "saved").touch()

    def slow(work: Path) -> None:
        goes_on("second", seen)(work)
        go.touch()
        os.kill(first.pid, signal.SIGCONT)
        until((tmp_path / "saved").exists)
        until(lambda: not list(root.glob(f".work-train-{KEY}.node-1-*")))  # it has noticed

    first = start(started, "node-1", root, stuck(go, saves))
    until((tmp_path / "open").exists)
    os.kill(first.pid, signal.SIGSTOP)
    second = start(started, "node-2", root, slow)
    assert ended(second) == ""
    assert "MachineFailed" in ended(first)
    assert whole(root) == "second"


def test_on_the_same_machine_a_dead_maker_is_followed_at_once(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LEASE", 1000.0)
    root, seen = tmp_path / "store", tmp_path / "seen"
    first = start(started, "node-1", root, stuck(tmp_path / "go", maker("first", tmp_path / "log")))
    until((tmp_path / "open").exists)
    [item] = storekeeping.making(Store(root))
    assert (item["command"], item["host"], item["pid"]) == (f"train-{KEY}", "node-1", first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert ended(start(started, "node-1", root, goes_on("second", seen))) == ""
    assert (seen.read_text(), whole(root)) == ("seven", "second")


def test_who_waits_for_another_maker_says_so(tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        (tmp_path / "go").touch()

    monkeypatch.setattr(claims, "PATIENCE", 0.01)
    monkeypatch.setattr(claims, "say", say)
    first = start(started, "node-1", tmp_path / "store", stuck(tmp_path / "go", maker("first", tmp_path / "log")))
    until((tmp_path / "open").exists)
    Store(tmp_path / "store").get("train", KEY, RECIPE, maker("second", tmp_path / "log"))
    assert ended(first) == ""
    assert (said, whole(tmp_path / "store")) == ([f"waiting for another process to make train-{KEY}"], "first")


def test_the_first_complete_folder_that_gets_the_name_is_the_stage(tmp_path: Path) -> None:
    """Two makers that both hold themselves for the only one: the later one takes what is there."""
    root, log, inner = tmp_path / "store", tmp_path / "log", tmp_path / "inner"

    def make(work: Path) -> None:
        maker("later", log)(work)
        other = Store(inner).get("train", KEY, RECIPE, maker("earlier", log))
        other.rename(root / other.name)

    folder = Store(root).get("train", KEY, RECIPE, make)
    assert (folder / "part-0").read_text() == "earlier"
    assert whole(root) == "earlier"


def test_without_locks_at_all_the_lease_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuses)
    Store(tmp_path / "store").get("train", KEY, RECIPE, maker("alone", tmp_path / "log"))
    assert whole(tmp_path / "store") == "alone"


def test_what_a_machine_works_on_is_not_pruned_and_what_a_silent_one_left_is(tmp_path: Path, started: list[Any]) -> None:
    root = tmp_path / "store"
    first = start(started, "node-1", root, stuck(tmp_path / "go", maker("first", tmp_path / "log")))
    until((tmp_path / "open").exists)
    store = Store(root)
    assert storekeeping.leftovers(store) == []
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    lease = root / f".train-{KEY}.lease"
    old = lease.stat().st_mtime - 5
    os.utime(lease, (old, old))
    storekeeping.remove(storekeeping.leftovers(store))
    assert list(root.iterdir()) == []


def test_a_lease_that_holds_anything_keeps_nobody_out_for_good(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (root / f".train-{KEY}.lease").write_text("\x1b[31m" * 100)
    old = time.time() - 100
    os.utime(root / f".train-{KEY}.lease", (old, old))
    for number, tag in enumerate(["", ".", ".x", ".a-b-c", f".{presence.machine()}-{10**30}-1", "..-"]):
        (root / f".work-train-{KEY}{tag}").mkdir()
        (root / f".work-train-{KEY}{tag}" / f"left-{number}").write_text(json.dumps(number))
    list(storekeeping.making(Store(root)))
    folder = Store(root).get("train", KEY, RECIPE, maker("me", tmp_path / "log"))
    assert Store(root).changes(folder) == []
    assert not list(root.glob(".work-*"))
    with pytest.raises(MachineFailed, match="vanished while it was written"):
        Store(root).get("train", "0" * 16, {}, shutil.rmtree)
