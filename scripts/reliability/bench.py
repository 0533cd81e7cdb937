"""What the trials share: a tiny task, commands in processes of their own, and what they should end with."""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  # all that a run would import, so that a forked one does not
import peft  # noqa: F401
import torch
import trl

from isoalign.cli import main as command_line
from isoalign.core.store import Store
from isoalign.data import assets
from isoalign.runs import run as _run  # noqa: F401
from isoalign.tools.conformance.workbench import write_model
from isoalign.tools.storekeeping import verified
from isoalign.training import registry
from isoalign.training.needs import needs_of

COMMAND = str(Path(sys.executable).parent / "isoalign")
STUCK = 300.0  # seconds after which a process is stuck; the longest of these commands takes a few
TINY = [
    "task.model.new_tokens=4", "task.model.prompt_tokens=12", "task.prompts.train=12", "task.prompts.test=4",
    "task.prompts.validation=4", "task.sft.steps=2", "task.sft.batch_size=4", "task.feedback.margin=0.0",
    "task.feedback.judge_margin=0.0", "task.feedback.draws=2", "task.reward.pairs=8", "task.reward.batch_size=4",
    "task.evaluation.draws=1", "task.evaluation.curve_prompts=2", "task.evaluation.curve_draws=1",
    "task.training.snapshots=[0.5]", "task.training.checkpoint_seconds=0", "task.prompts.stratum=kind",
    "budget.steps=4", "threads=1", "tracking=off",
]  # fmt: skip
SMALL = {"batch_size": 4, "rollouts": 4, "minibatch": 4, "draws": 2}
MORE = {"cai": ["task.constitution.file=kindness", "task.constitution.tokens=4"]}
WORDS = ["kind", "page", "lovely", "good", "work", "right", "stupid", "moron"]
KINDS = ("clean", "toxic")
KEYS = ("ISOALIGN", "WANDB", "HYDRA")


@dataclass(frozen=True)
class Ended:
    """A command that has ended. ``status``: as shells have it, 137 after a SIGKILL; None if it was stuck and was killed."""

    status: int | None
    out: str
    err: str

    @property
    def told(self) -> str:
        """The last line of complaint, without progress bars."""
        lines = [line for line in self.err.splitlines() if line.strip() and "%|" not in line]
        return lines[-1][-300:] if lines else ""

    def wrong(self, *allowed: int) -> Iterator[str]:
        """What no command may do whatever happens to it: hang, show a traceback, end otherwise than allowed."""
        if self.status is None:
            yield f"stuck after {STUCK:.0f} s: {self.err[-3000:]}"
        elif self.status not in allowed:
            yield f"status {self.status}: {self.told}"
        if "Traceback (most recent call last)" in self.err + self.out:
            yield f"a traceback: {self.told}"


@dataclass
class Running:
    """A command under way, in a process group of its own."""

    pid: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None  # of a command that was typed; a forked one has none
    status: int | None = field(default=None, init=False)

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.status is None and self.process:
            code = self.process.poll()
            self.status = 128 - code if code is not None and code < 0 else code
        elif self.status is None:
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            self.status = (128 + os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)) if pid else None
        return self.status is not None

    def send(self, number: int) -> None:
        """A signal to the process, if it runs."""
        if not self.poll():
            os.kill(self.pid, number)

    def end(self, seconds: float = STUCK) -> Ended:
        """Wait until it ends."""
        last = time.monotonic() + seconds
        while not self.poll() and time.monotonic() < last:
            time.sleep(0.005)
        status = self.status
        if status is None:
            os.kill(self.pid, signal.SIGUSR1)  # a forked one writes where each thread is
            time.sleep(0.5)
            os.killpg(self.pid, signal.SIGKILL)
            while not self.poll():
                time.sleep(0.005)
        out, err = ((self.folder / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
        return Ended(status, out, err)


@dataclass(frozen=True)
class Place:
    """A folder from which commands are given, with a store and results."""

    home: Path

    @property
    def store(self) -> Path:
        """Folder of the stages."""
        return self.home / "store"

    @property
    def results(self) -> Path:
        """Folder of the cards."""
        return self.home / "results"

    def card(self) -> Path:
        """The one card."""
        (card,) = self.results.glob("*/*.json")
        return card


class Bench:
    """A tiny model and task, a store with the SFT base, and the place that each method leaves when nothing happens to it.

    A command runs in a process of its own: typed, or, since a third of a minute goes by until a typed one has imported all
    it needs, forked from this process, which has imported it: the same `main`, with what was typed as its arguments.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        rows = [
            {"prompt": f"{WORDS[i % 8]} number {i} is", "completion": f" {WORDS[i % 7]} and {i}", "kind": KINDS[i % 2]}
            for i in range(60)
        ]
        (folder / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(KEYS)} | {
            "ISOALIGN_CACHE": str(assets.cache_dir()), "ISOALIGN_OFFLINE": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        torch.set_num_threads(1)
        for name in ("DPOTrainer", "KTOTrainer", "GRPOTrainer", "RLOOTrainer"):
            getattr(trl, name)
        child = os.fork()  # its tokenizer would leave threads behind, which no fork survives
        if not child:
            write_model(self.model)
            os._exit(0)
        os.waitpid(child, 0)
        gc.collect()
        gc.freeze()
        self.references: dict[str, tuple[Place, dict[str, Any]]] = {}
        self.base = Place(folder / "base")
        self.undisturbed(self.base, "sft")

    def methods(self) -> list[str]:
        """All algorithms."""
        return [name for name in registry.algorithm_names() if name != "sft"]

    def words(self, place: Place, name: str, *more: str) -> list[str]:
        """What is typed to run a method."""
        fields = {each.name for each in dataclasses.fields(registry.algorithm(name))}
        sizes = [f"algorithm.{key}={value}" for key, value in SMALL.items() if key in fields]
        own = self.folder / "own.jsonl"
        given = [
            f"task.model.name={self.model}",
            f"task.prompts.source={own}",
            f"task.sft.source={own}",
            "task.prompts.stratum=kind",
        ]
        given += [f"task.teacher={self.model}"] if "teacher" in needs_of(registry.algorithm(name)()) else []
        places = [f"store={place.store}", f"results={place.results}"]
        return ["run", f"algorithm={name}", *TINY, *given, *places, *sizes, *MORE.get(name, []), *more]

    def start(
        self, place: Place, words: list[str], typed: bool = False, environment: Mapping[str, str] | None = None,
        first: Callable[[], object] = lambda: None,
    ) -> Running:  # fmt: skip
        """Begin a command; ``first`` is done in its process, if that is forked."""
        place.home.mkdir(parents=True, exist_ok=True)
        files = [(place.home / name).open("wb") for name in ("out", "err")]
        whole = self.environment | dict(environment or {})
        if typed:
            process = subprocess.Popen(
                [COMMAND, *words], stdin=subprocess.DEVNULL, stdout=files[0], stderr=files[1], cwd=place.home, env=whole,
                start_new_session=True,
            )  # fmt: skip
            pid = process.pid
        else:
            process = None
            sys.stdout.flush()
            pid = os.fork()
            if not pid:
                first()
                _be(words, place.home, files[0].fileno(), files[1].fileno(), whole)
        for file in files:
            file.close()
        return Running(pid, place.home, process)

    def do(self, place: Place, *words: str, typed: bool = False) -> Ended:
        """A command from its beginning to its end."""
        return self.start(place, list(words), typed).end()

    def undisturbed(self, place: Place, name: str, *more: str) -> Ended:
        """A run that nothing happens to."""
        ended = self.do(place, *self.words(place, name, *more))
        if ended.status != 0:
            raise RuntimeError(f"{name}, to which nothing happened, ended with {ended.status}: {ended.told}")
        return ended

    def reference(self, name: str, *more: str) -> tuple[Place, dict[str, Any]]:
        """The place that a method leaves to which nothing happened, and its card."""
        key = " ".join([name, *more])
        if key not in self.references:
            place = self.place(f"whole-{len(self.references)}", self.base)
            self.undisturbed(place, name, *more)
            self.references[key] = place, read(place.card())
        return self.references[key]

    def place(self, name: str, of: Place | None = None, results: bool = False) -> Place:
        """A new place; with a copy of another's store, and its results."""
        place = Place(self.folder / f"{os.getpid()}" / name)
        shutil.rmtree(place.home, ignore_errors=True)
        place.home.mkdir(parents=True)
        for folder in ["store", *(["results"] if results else [])] if of else []:
            shutil.copytree(of.home / folder, place.home / folder)  # type: ignore[union-attr]
        return place

    def finish(self, place: Place, name: str, *more: str) -> Iterator[str]:
        """The same command again; what is wrong with how it ends, its card, its store."""
        yield from self.do(place, *self.words(place, name, *more)).wrong(0)
        yield from self.compared(place, name, *more)

    def compared(self, place: Place, name: str, *more: str) -> Iterator[str]:
        """What differs from a run that nothing happened to: the card, and so every byte of every stage behind it."""
        cards = list(place.results.glob("*/*.json"))
        if len(cards) != 1:
            yield f"{len(cards)} cards"
            return
        mine, whole = read(cards[0]), self.reference(name, *more)[1]
        yield from (f"another card: {line}" for line in _differences(mine, whole, "card"))
        yield from (line for _, lines in verified(Store(place.store)) for line in lines)
        if left := [path.name for path in place.home.rglob("*") if path.name.startswith(".work-") or path.suffix == ".tmp"]:
            yield f"left behind: {left}"


def _be(words: list[str], home: Path, out: int, err: int, environment: dict[str, str]) -> None:
    """Be the command, in a process that was just forked; does not return."""
    status: Any = 70
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        faulthandler.register(signal.SIGUSR1)
        os.chdir(home)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["isoalign", *words]
        command_line.main()
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


def read(card: Path) -> dict[str, Any]:
    """A card without what differs between two equal runs. ``contents`` has the digests of every stage's files."""
    found: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
    found["spent"].pop("seconds", None)
    found.pop("seals", None)
    return found


def _differences(mine: Any, whole: Any, where: str) -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(whole, dict):
        for name in sorted(mine.keys() | whole.keys()):
            yield from _differences(mine.get(name), whole.get(name), f"{where}.{name}")
    elif mine != whole:
        yield f"{where}: {str(mine)[:60]}, not {str(whole)[:60]}"


def choose(chance: random.Random, options: list[Any], most: int) -> list[Any]:
    """At most so many of the options, in any order."""
    return chance.sample(options, min(most, len(options)))
