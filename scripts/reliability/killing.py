"""Commands that are killed, stopped and raced, and then given again until they are done."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path

from isoalign.core import claims, presence
from isoalign.core.store import Store
from isoalign.tools import storekeeping

from .bench import Bench, Place, Running, choose
from .trial import Trial

NODE_LEASE = 8.0  # seconds, in place of a minute
MOST_KILLS = 4  # of one run
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
VARIANTS: dict[str, list[str]] = {  # of the task, for the stages that the plain one does not have
    "": [],
    "rounds": ["task.rounds.count=2", "task.rounds.prompts=8"],
    "panel": ["task.panel.annotators=3", "task.panel.golden=2"],
    "ensemble": ["task.shaping.members=2"],
    "win rate": ["task.evaluation.win_rate.judge.kind=classifier"],
    "adapter": ["task.model.lora=2"],
}


def kills(bench: Bench, chance: random.Random, number: int) -> Trial:
    """A run of one method, in turn all of them, from a store without some of its stages; SIGKILL after a change of a file
    chosen at random, or some time later, or, of a typed command, at any moment from the start of Python; up to four times."""
    names = bench.methods()
    name, trial = names[number % len(names)], Trial()
    variant = chance.choice(list(VARIANTS)) if chance.random() < 0.3 else ""
    words = [] if variant == "adapter" and name.startswith(("ppo_lora", "trl_")) else VARIANTS[variant]
    whole, _ = bench.reference(name, *words)
    other = chance.choice(["", "", "ppo", "rlaif"])  # whose stages lie in the store
    place = bench.place("killed", bench.reference(other)[0] if other else whole)
    _cut(Store(place.store), chance)
    typed = number % 15 == 7
    left = 110  # changes of files that a run makes, about
    for _ in range(2 if typed else MOST_KILLS):
        running = bench.start(place, bench.words(place, name, *words), typed)
        if typed:
            _sleep(running, chance.uniform(0.0, 25.0))
        else:
            left -= _changes(place, running, chance.randint(1, max(left, 10)))
            _sleep(running, chance.choice([0.0, 0.0, chance.uniform(0.0, 0.3)]))
        if running.poll():
            break
        under_way = sorted(path.name.split("-")[1] for path in place.store.glob(".work-*")) or ["between stages"]
        running.send(signal.SIGKILL)
        trial.tried[f"kills of {name}"] += 1
        trial.beside[f"while it made {', '.join(under_way)}"] += 1
        trial.wrong += running.end().wrong(137, 0)
    trial.wrong += [f"{name} {' '.join(words)}: {line}" for line in bench.finish(place, name, *words)]
    return trial


def _cut(store: Store, chance: random.Random) -> None:
    """Delete the training, and some other stages, with all that was made from them."""
    share = chance.choice([0.0, 0.1, 0.3])
    for item in storekeeping.items(store):
        dear = item.name.startswith(("annotators", "sft")) and chance.random() < 0.7  # they take long
        if item.kind == "stage" and (item.name.startswith("train") or (chance.random() < share and not dear)):
            for gone in storekeeping.descendants(store, [item.name]) if item.path.is_dir() else []:
                shutil.rmtree(gone.path)


def signals(bench: Bench, chance: random.Random, number: int) -> Trial:
    """SIGINT or SIGTERM at a random moment, one in four to a typed command, from its first imports on, one in eight to a sweep
    in two processes or a search for settings; the exit status says which, the line how to go on, and no process is left."""
    which, name = list(SIGNALS)[number % 2], chance.choice(bench.methods())
    place, kind = bench.place("stopped", bench.base), "run"
    typed, words = number % 4 == 3, bench.words(place, name)
    if number % 8 == 7:
        kind, name = ("sweep", "dpo") if number % 16 == 15 else ("tune", "dpo")
        words = _many(bench, place, kind, name)
    running = bench.start(place, words, typed)
    if typed:
        _started(running)
        _sleep(running, chance.uniform(0.0, 25.0 if kind == "run" else 60.0))
    else:
        _sleep(running, 0.05)  # until the handlers are there
        _changes(place, running, chance.randint(0, 110))
    trial = Trial({f"{which.name} to a {kind}{', typed' if typed else ''}": 1})
    running.send(which)
    ended = running.end(180.0)
    trial.wrong += ended.wrong(SIGNALS[which], 0)
    if ended.status and ended.told != "isoalign: stopped; run the same command to resume":
        trial.wrong.append(f"said {ended.told!r}")
    if left := subprocess.run(["pgrep", "-f", str(place.store)], capture_output=True, text=True).stdout.split():
        trial.wrong.append(f"left processes {left}")
    if kind == "run":
        trial.wrong += [f"{name}: {line}" for line in bench.finish(place, name)]
    else:
        trial.wrong += [f"{kind}, again: {line}" for line in bench.do(place, *words, typed=True).wrong(0)]
    return trial


def races(bench: Bench, chance: random.Random, number: int) -> Trial:
    """Twenty processes that want the same run at once, of which three are killed at random moments; the other seventeen end
    well, and every stage is made once."""
    name = chance.choice(bench.methods())
    whole, _ = bench.reference(name)
    place, trial = bench.place("raced", bench.base), Trial({"processes": 20})
    homes = [Place(place.home / str(each)) for each in range(20)]
    running = [bench.start(home, bench.words(place, name)) for home in homes]
    killed = choose(chance, running, 3)
    for each in killed:
        time.sleep(chance.uniform(0.5, 6.0))
        each.send(signal.SIGKILL)
    for each in running:
        trial.wrong += each.end(2 * 300.0).wrong(*((137, 0) if each in killed else (0,)))
    trial.wrong += [f"{name}: {line}" for line in bench.finish(place, name)]
    made, known = ({path.name for path in each.store.iterdir() if path.is_dir()} for each in (place, whole))
    trial.wrong += [f"{name}: stages {sorted(made ^ known)}"] if made != known else []
    return trial


def machines(bench: Bench, chance: random.Random, number: int) -> Trial:
    """Six processes on three machines, to which the file system grants every lock (flock does nothing), want the same run at
    once. One is killed and one frozen at random moments, the latter for longer than a lease. The killed one aside they end
    well, or, frozen, in a line that says that another machine went on; no stage is of two makers."""
    name = chance.choice(bench.methods())
    whole, _ = bench.reference(name)
    place, trial = bench.place("shared", bench.base), Trial({"processes": 6})
    homes = [Place(place.home / str(each)) for each in range(6)]
    running = [
        bench.start(home, bench.words(place, name), first=partial(_elsewhere, f"node-{each % 3}"))
        for each, home in enumerate(homes)
    ]
    killed, frozen = choose(chance, running, 2)
    time.sleep(chance.uniform(0.5, 4.0))
    killed.send(signal.SIGKILL)
    frozen.send(signal.SIGSTOP)
    time.sleep(NODE_LEASE + chance.uniform(0.5, 4.0))
    frozen.send(signal.SIGCONT)
    for each in running:
        ended = each.end(2 * 300.0)
        trial.wrong += ended.wrong(*((137, 0) if each is killed else (0, 2) if each is frozen else (0,)))
        if each is frozen and ended.status == 2 and "another machine went on with it" not in ended.told:
            trial.wrong.append(f"the frozen one said {ended.told!r}")
        trial.beside[f"a frozen process ended with {ended.status}"] += each is frozen
    trial.wrong += [f"{name}: {line}" for line in bench.finish(place, name)]
    made, known = ({path.name for path in each.store.iterdir() if path.is_dir()} for each in (place, whole))
    trial.wrong += [f"{name}: stages {sorted(made ^ known)}"] if made != known else []
    return trial


def _elsewhere(node: str) -> None:
    """Be a process of another machine, on a file system on which flock does nothing."""
    fcntl.flock = lambda *_: None  # type: ignore[assignment]
    socket.gethostname = lambda: node
    presence.machine = lambda: node  # type: ignore[assignment]
    claims.LEASE = NODE_LEASE


def _many(bench: Bench, place: Place, kind: str, name: str) -> list[str]:
    """What is typed for a sweep, or for a search for settings."""
    words = bench.words(place, name)
    if kind == "sweep":
        return [*words, "-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    (place.home / "conf" / "tuned").mkdir(parents=True)
    settings = [word for word in words if word.startswith(("task.", "budget"))]
    places = ["--results", str(place.results), "--store", str(place.store), "--conf", str(place.home / "conf")]
    return ["tune", "nano", name, "--trials=2", *places, *settings]


def _changes(place: Place, running: Running, wanted: int) -> int:
    """Wait until so many files have come or gone in store and results, or the process has ended; how many have."""
    seen, known = 0, _names(place)
    while seen < wanted and not running.poll():
        now = _names(place)
        seen, known = seen + len(now ^ known), now
        time.sleep(0.003)
    return seen


def _names(place: Place) -> frozenset[str]:
    names = set(os.listdir(place.store))
    for folder in [*(place.store / name for name in names if name.startswith(".work-")), place.results]:
        for path, folders, files in os.walk(folder):  # which bears that things go away meanwhile
            names.update(f"{path}/{name}" for name in [*folders, *files])
    return frozenset(names)


def _started(running: Running) -> None:
    """Wait until Python has given isoalign the word: before, it answers signals itself."""
    maps, last = Path(f"/proc/{running.pid}/status"), time.monotonic() + 60
    caught = 1 << (signal.SIGTERM - 1)  # the handlers of isoalign are there, in its first lines
    while not running.poll() and time.monotonic() < last:
        line = next((line for line in maps.read_text().splitlines() if line.startswith("SigCgt")), "0:0")
        if int(line.split(":")[1], 16) & caught:
            return
        time.sleep(0.002)


def _sleep(running: Running, seconds: float) -> None:
    """Wait so long, or until the process has ended."""
    last = time.monotonic() + seconds
    while time.monotonic() < last and not running.poll():
        time.sleep(0.003)
