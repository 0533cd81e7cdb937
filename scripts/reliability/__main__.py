"""Try, with real processes, what isoalign promises when things go wrong, and write a page about it.

    python -m scripts.reliability                            # all parts
    python -m scripts.reliability kills races --share 0.1    # some of them, a tenth of the trials
    python -m scripts.reliability kills --seed 3 --trial 17  # one trial again

Every trial draws from a seed of its own, so a number repeats it but for the moment, which the machine decides. What goes wrong
is printed with that number, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from isoalign.core import runtime

os.environ["OMP_NUM_THREADS"] = "1"  # as typed commands have it: with more threads annotators differ in their last digits
runtime.quiet()  # before torch is imported

from .bench import Bench  # noqa: E402
from .disks import disks  # noqa: E402
from .fuzzing import fuzz  # noqa: E402
from .harming import damage  # noqa: E402
from .killing import kills, machines, races, signals  # noqa: E402
from .outside import secrets, text  # noqa: E402
from .servers import servers  # noqa: E402
from .trial import Trial  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PARTS: dict[str, tuple[Callable[[Bench, random.Random, int], Trial], int]] = {  # and how many are tried in all
    "kills": (kills, 360), "signals": (signals, 48), "races": (races, 40), "machines": (machines, 12),
    "damage": (damage, 240), "disks": (disks, 30), "text": (text, 60),
    "fuzz": (fuzz, 10_000), "servers": (servers, 24), "secrets": (secrets, 16),
}  # fmt: skip
PIECES = {"kills": 4, "damage": 2, "signals": 2, "fuzz": 2}  # that processes try beside one another

WRONG = """Wrong is: a card that is not that of a run to which nothing happened (seconds aside; the digests of all stages
included), a stage that is not as it was made, a traceback, an exit status that does not say what happened, a process that
hangs or is left behind, or what the part names. Most commands are forked from a process that has imported isoalign, which
gives the same `main` the words that would be typed; those called typed are typed."""


@dataclass
class Found:
    """What a part has found."""

    tried: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    trials: int = 0
    failed: int = 0
    seconds: float = 0.0

    def add(self, other: Found) -> None:
        """Take what another piece of the part has found."""
        self.tried, self.beside = self.tried + other.tried, self.beside + other.beside
        self.skipped, self.wrong = self.skipped + other.skipped, self.wrong + other.wrong
        self.trials, self.failed = self.trials + other.trials, self.failed + other.failed
        self.seconds += other.seconds


def try_part(bench: Bench, piece: tuple[str, int, int], seed: int, share: float, only: int | None, until: float) -> Found:
    """A part's trials, or every so many of them, until the share of what it is to try is reached, or time is up."""
    part, first, step = piece
    function, goal = PARTS[part][0], PARTS[part][1] / step
    found, started = Found(), time.monotonic()
    number = only if only is not None else first
    while (
        number == only
        if only is not None
        else sum(found.tried.values()) + found.skipped.total() < share * goal and time.monotonic() < until
    ):
        try:
            trial = function(bench, random.Random(f"{seed} {part} {number}"), number)
        except Exception as error:  # the others' counts are kept
            trial = Trial({"broken off": 1})
            trial.wrong = [f"the trial itself failed: {type(error).__name__}: {error}"]
        found.tried += trial.tried
        found.beside += trial.beside
        found.skipped[trial.skipped] += bool(trial.skipped)
        found.trials += 1
        found.failed += bool(trial.wrong)
        for problem in trial.wrong:
            line = f"{part} --seed {seed} --trial {number}: {problem}"
            found.wrong.append(line)
            print(f"WRONG: {line}", flush=True)
        number += step
    found.seconds = time.monotonic() - started
    name = f"{part} {first + 1}/{step}" if step > 1 else part
    done = f"{sum(found.tried.values())} tried in {found.trials} trials, {found.failed} of them wrong"
    print(f"{name}: {done}, {found.seconds:.0f} s", flush=True)
    return found


def page(found: dict[str, Found], command: str) -> str:
    """All parts as a page in Markdown."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        "# Reliability", "",
        "What isoalign promises when things go wrong, tried with real processes. `scripts/reliability/` writes this page:", "",
        f"```sh\n{command}\n```", "",
        f"isoalign {version('isoalign')}, commit {commit}, {datetime.date.today()}, {machine}.", "",
        "| part | tried | trials | wrong | minutes |", "| --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for part, each in found.items():
        lines.append(
            f"| [{part}](#{part}) | {sum(each.tried.values())} | {each.trials} | {each.failed} | {each.seconds / 60:.1f} |"
        )
    lines += ["", WRONG]
    for part, each in found.items():
        lines += ["", f"## {part}", "", " ".join((PARTS[part][0].__doc__ or "").split()), ""]
        lines += ["| what | tried |", "| --- | ---: |", *(f"| {what} | {n} |" for what, n in sorted(each.tried.items()))]
        if each.beside:
            lines += ["", f"{'; '.join(f'{what}: {n}' for what, n in each.beside.most_common())}."]
        lines += [f"\nNot tried, {n} times: {reason}." for reason, n in each.skipped.items() if reason]
        lines += ["", *(f"- WRONG: {line}" for line in each.wrong)] if each.wrong else []
    return "\n".join(lines) + "\n"


def main() -> int:
    """Try the parts that are named, or all."""
    parser = argparse.ArgumentParser(
        "python -m scripts.reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts; all without any: {', '.join(PARTS)}")
    parser.add_argument("--share", type=float, default=1.0, help="how much of each part's trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that try, beside one another")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no trial begins")
    parser.add_argument("--trial", type=int, help="this trial alone")
    parser.add_argument("-o", "--output", type=Path, help="the page to write")
    chosen = parser.parse_args()
    if unknown := [part for part in chosen.parts if part not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="reliability-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder))
        parts = chosen.parts or list(PARTS)
        pieces = [(part, n, count) for part in parts for count in [PIECES.get(part, 1)] for n in range(count)]
        pieces = [(part, 0, 1) for part in parts] if chosen.trial is not None else pieces
        until = time.monotonic() + 60 * chosen.minutes
        work = partial(try_part, bench, seed=chosen.seed, share=chosen.share, only=chosen.trial, until=until)
        found = {part: Found() for part in parts}
        with ProcessPoolExecutor(min(chosen.workers, len(pieces)), get_context("fork")) as pool:
            for (part, _, _), each in zip(pieces, pool.map(work, pieces), strict=True):
                found[part].add(each)
    if chosen.output:
        chosen.output.write_text(page(found, shlex.join(["python", "-m", "scripts.reliability", *sys.argv[1:]])))
    return 1 if any(each.wrong for each in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
