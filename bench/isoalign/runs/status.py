"""What runs do, as files beside the cards: one a run, from its start, or that of its sweep, to its end.

A process writes its file anew every few seconds, so that others see that it is alive. What they say of it is theirs to judge:
`state_of` asks whether the process still is.
"""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from isoalign.core import access, doing, outside_json, presence
from isoalign.core.complaint import one_line
from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.store import digest

FOLDER, SUFFIX = "status", ".beat"  # in a folder of results; not .json, as cards are
RUNNING, WAITING, DONE, FAILED, STOPPED, DEAD, SILENT = (
    "running", "waiting", "done", "failed", "stopped", "dead", "silent",
)  # fmt: skip
STATES = (RUNNING, WAITING, DONE, FAILED, STOPPED)  # that a file may say; the others are found out
OF_A_PLACE = ("store=", "results=", "device=", "tracking=")  # of a machine; threads= is not, as another number moves digits
GROUPS = ("task", "algorithm")
MOST_JOBS = 10_000  # of a sweep, for which files are written in advance


def command_of(words: Iterable[str]) -> str:
    """The command that repeats a run on any machine."""
    return shlex.join(["isoalign", "run", *(word for word in words if not word.startswith(OF_A_PLACE))])


def _name(command: str) -> str:
    """What files of a command are called."""
    return digest(one_line(command))


class Beat(threading.Thread):
    """The file of a run of this process, under ``results``, written every few seconds until `close`.

    Files of the same command by processes that have ended are deleted. Trouble with a disk is not told here: what needs the
    disk will.
    """

    def __init__(self, results: Path, command: str, **about: Any) -> None:
        super().__init__(name="status", daemon=True)
        name = _name(command)
        self.file = results / FOLDER / f"{name}-{digest(presence.myself())[:8]}{SUFFIX}"
        self.about = {"command": one_line(command), **about, "began": time.time()}
        self._closed = threading.Event()
        _forget(results, name)
        self._write(RUNNING)
        self.start()

    def run(self) -> None:
        """Until the run ends."""
        access.exempt(threading.get_ident())
        while not self._closed.wait(presence.EVERY):
            self._write(RUNNING)

    def close(self, state: str, line: str = "") -> None:
        """Say how the run has ended; ``line``: its card, or what went wrong. The first one counts."""
        if not self._closed.is_set():
            self._closed.set()
            self.join()  # what it is writing is not the last word
            self._write(state, line)

    def _write(self, state: str, line: str = "") -> None:
        with suppress(UserError):
            _save(self.file, self.about | presence.myself() | doing.now() | {"state": state, "line": one_line(line)})


def _forget(results: Path, name: str) -> None:
    """Delete the files of a command by processes that do not run it any more."""
    now = presence.clock(results / FOLDER)
    for file in (results / FOLDER).glob(f"{name}-*{SUFFIX}"):
        with suppress(OSError):  # another one deletes it
            if state_of(_read(file), now - file.stat().st_mtime) != RUNNING:
                file.unlink()


def _save(file: Path, content: dict[str, Any]) -> None:
    save(file, json.dumps(content, ensure_ascii=True) + "\n")


_beats: list[Beat] = []  # none, or the one of the run of this process


def begin(results: Path, command: str, **about: Any) -> None:
    """Have others see what the run of this process does from now on."""
    _beats[:] = [Beat(results, command, **about)]


def end(state: str, line: str = "") -> None:
    """The run has ended: ``state``, one of STATES, and its card or what went wrong. Without a run nothing is done."""
    while _beats:
        _beats.pop().close(state, line)


def refuse(results: Path, command: str, line: str) -> None:
    """A job of a sweep was refused before it became a run: it waits no more."""
    file = _waiting(results, command)
    if file.exists():
        with suppress(UserError):
            _save(file, _read(file) | presence.myself() | {"state": FAILED, "line": one_line(line)})


def _waiting(results: Path, command: str) -> Path:
    return results / FOLDER / f"{_name(command)}-waiting{SUFFIX}"


class Sweep(Callback):
    """Hydra's callback that notes the jobs of a sweep as waiting, before the first one begins."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra in the process that was typed."""
        if not str(config.hydra.sweeper.get("_target_", "")).endswith(".BasicSweeper"):
            return  # others decide as they go
        params: dict[str, Any] = OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create({}))  # type: ignore[assignment]
        words = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
        batches = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
        files, _jobs[:] = [], []
        for job in batches[0][:MOST_JOBS]:
            typed = dict(word.partition("=")[::2] for word in job)
            results, command = Path(typed.get("results", str(config.results)).strip("'\"")), command_of(job)
            about: dict[str, Any] = {name: typed.get(name, str(config.hydra.runtime.choices.get(name, ""))) for name in GROUPS}
            about |= {"command": one_line(command), "seed": typed.get("seed", "0"), "began": time.time()}
            files.append(_waiting(results, command))
            _forget(results, _name(command))
            _jobs.append((results, command, f"{about['algorithm']} seed {about['seed']}"))
            with suppress(UserError):
                _save(files[-1], about | presence.myself() | {"state": WAITING, "line": ""})
        threading.Thread(target=_keep_waiting, args=(files,), name="status", daemon=True).start()


_jobs: list[tuple[Path, str, str]] = []  # of the sweep of this process: results, command, and what it is called


def failed_jobs() -> list[str]:
    """The jobs of this process's sweep, which has ended, that have not come through, on whatever machine: those that failed,
    and those that never began or ended without a word."""
    found = []
    for results, command, name in _jobs:
        states = [_read(file)["state"] for file in (results / FOLDER).glob(f"{_name(command)}-*{SUFFIX}")]
        found += [name] if states and DONE not in states else []
    return found


def _keep_waiting(files: list[Path]) -> None:
    """Give a sign of life in files of jobs that wait, until there are none."""
    access.exempt(threading.get_ident())
    while files:
        time.sleep(presence.EVERY)
        left = []
        for file in files:
            with suppress(OSError):  # its job has begun
                os.utime(file)
                left.append(file)
        files = left


# -- reading ---------------------------------------------------------------------------------------------------------------


def read_statuses(results: Path) -> Iterator[dict[str, Any]]:
    """What the runs of a folder of results do, by when they began: what their files say, ``state`` as it is now, and ``age``,
    the seconds since the last sign of life. A file that can't be read has the state ``unreadable``."""
    folder = results / FOLDER
    now, found = presence.clock(folder), []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        told = _read(file)  # first: opening a file makes NFS look up its times
        try:
            age = now - file.stat().st_mtime
        except OSError:  # it has just gone
            continue
        state = state_of(told, age)
        told |= {"line": "never began: its sweep has ended"} if (told.get("state"), state) == (WAITING, STOPPED) else {}
        found.append(told | {"state": state, "age": max(0.0, age), "file": str(file)})
    yield from sorted(found, key=lambda told: (told.get("began") or 0.0, told["file"]))


def state_of(told: dict[str, Any], age: float) -> str:
    """The state of a run: what its file says, or ``dead`` if its process has ended without a word, or ``silent`` if that of
    another machine has given no sign of life for long. ``age``: seconds since the last one."""
    state = str(told.get("state"))
    if state not in (RUNNING, WAITING):
        return state
    alive = presence.is_alive(told)
    if alive is None:
        return SILENT if age > presence.SILENT else state
    if not alive and state == WAITING:
        return STOPPED  # it never began: the sweep that would have begun it has ended
    return state if alive else DEAD


FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("command", "task", "algorithm", "seed", "device", "state", "line", "stage", "step"), (str,)),
    **dict.fromkeys(("host", "machine", "started"), (str,)), "pid": (int,),
    **dict.fromkeys(("done", "left", "began"), (int, float)),
}  # fmt: skip


def _read(file: Path) -> dict[str, Any]:
    """What a file says, as far as it has the types that are written; anyone may have written it."""
    try:
        told = outside_json.decode(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"state": "unreadable", "line": str(error)}
    if not isinstance(told, dict) or told.get("state") not in STATES:
        return {"state": "unreadable", "line": "it is not the file of a run"}
    kept = {name: told.get(name) for name in FIELDS}
    return {name: value for name, value in kept.items() if isinstance(value, FIELDS[name]) and not isinstance(value, bool)}
