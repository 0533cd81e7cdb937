"""A training step of ours beside TRL's, beside an older commit of ours, and beside a product of matrices: CPU milliseconds.

    python scripts/benchmarks/steps.py [dpo kto ...] [--rounds 3] [--against COMMIT] [--jobs 2]

Every side trains the same weights on the same rows in fp32, with equal batches and updates, in a new process of one thread;
the sides follow one another, round by round. Figures are medians over the rounds, ratios have their smallest and largest in
brackets. The first step, or iteration, of a process does not count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from work import Work, checkout, git, measured, old_trl, write

from isoalign.core import runtime
from isoalign.core.display import grid

OLD = "bb6369a"  # before the work on speed
TRL_WITH_PPO = "1.12.0"
WORKS = {
    "nano": Work(),
    "30m": Work("30m", pairs=16, batch=8),
    "smollm2": Work("smollm2", pairs=16, batch=8, lora=16),
}
METHODS = ["dpo", "kto", "orpo", "simpo", "rloo", "grpo", "ppo", "ppo_critic", "sft", "reward"]
SIZES = {f"{name}-{size}": (name, size) for name, size in (("dpo", "30m"), ("dpo", "smollm2"))}
NAMES = {
    "dpo": "DPO", "kto": "KTO", "orpo": "ORPO", "simpo": "SimPO", "rloo": "RLOO", "grpo": "GRPO", "ppo": "PPO",
    "ppo_critic": "PPO, separate critic", "sft": "SFT", "reward": "reward model",
}  # fmt: skip
SIDES = ["ours", "TRL", "TRL at its fastest", "before", "machine"]
REFERENCE = ("dpo", "kto")  # read in the first epoch, and the same in later ones


Times = dict[str, dict[str, float]]  # milliseconds a step by part of a run and side


@dataclass
class Round:
    """What was measured of a method in one round, and why a side was not."""

    times: Times = field(default_factory=lambda: defaultdict(dict))
    failures: dict[str, str] = field(default_factory=dict)


def lines(label: str, rounds: list[Round]) -> list[list[str]]:
    """A method's lines of the table."""
    found = []
    for part in rounds[0].times:
        sides = {side: [each.times[part][side] for each in rounds if side in each.times[part]] for side in SIDES}
        ratios = [ratio(sides[side], sides["ours"]) for side in SIDES[1:4]]
        found.append([f"{label}{part}", *map(middle, sides.values()), *ratios])
    return found


def middle(values: list[float]) -> str:
    return f"{statistics.median(values):.0f}" if values else "–"


def ratio(others: list[float], ours: list[float]) -> str:
    if not others or len(others) != len(ours):
        return "–"
    each = [other / own for other, own in zip(others, ours, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def parts(name: str, found: dict[str, Any], work: Work) -> dict[str, tuple[int, int]]:
    """First and last step of each part of a run that counts."""
    last = len(found["marks"]) - 1
    if name in REFERENCE:
        return {", first epoch": (work.warm, found["epoch"]), ", later epochs": (found["epoch"], last)}
    return {"": (work.warm * found.get("each", 1), last)}


def add(times: Times, name: str, side: str, found: dict[str, Any], work: Work, speed: float) -> None:
    """Enter what a process found. An epoch's share of what was computed before it is part of it."""
    for part, (start, end) in parts(name, found, work).items():
        steps = (end - start) * found.get("updates", 1)
        milliseconds = 1000 * (found["marks"][end] - found["marks"][start]) / steps
        if "first" in part:
            milliseconds += 1000 * found.get("precomputing", 0.0) / found["epoch"]
        times[part][side] = milliseconds
        if side == "ours" and "later" not in part:  # where some of the FLOPs on the bill are remembered
            times[part]["machine"] = 1000 * (found["flops"][end] - found["flops"][start]) / steps / speed


def label(name: str, model: str) -> str:
    return NAMES[name] if model == "nano" else f"{NAMES[name]}, {model}"


def measure(name: str, model: str, folder: Path, paths: dict[str, str]) -> Round:
    """All sides of a method in turn, each in a new process."""
    found, trl = Round(), "ppo" if name.startswith("ppo") else name
    ours = partial(measured, "steps_ours.py", str(folder), name)
    peer = partial(measured, "steps_trl.py", str(folder), trl, path=paths["ppo"] if trl == "ppo" else "")
    sides = {"ours": ours, "TRL": partial(peer, "default"), "TRL at its fastest": partial(peer, "fastest")}
    if "before" in paths:
        sides["before"] = partial(ours, path=paths["before"])
    speed = measured("steps_ours.py", str(folder), "machine")
    for side, run in sides.items():
        told = run()
        if isinstance(told, str):
            found.failures[side] = told
        else:
            add(found.times, name, side, told, WORKS[model], speed)
    for cells in lines(label(name, model), [found]):
        print(*cells, sep="  ", file=sys.stderr, flush=True)
    return found


def main() -> None:
    every = [*METHODS, *SIZES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=every, metavar="row", help="by default " + ", ".join(every))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--against", default=OLD, metavar="COMMIT", help=f"an older commit of ours; by default {OLD}, '' for none"
    )
    parser.add_argument("--jobs", type=int, default=1, help="rows that are measured at a time")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(every)):
        parser.error(f"no row is called {', '.join(unknown)}; rows are {', '.join(every)}")
    runtime.quiet()
    chosen = [SIZES.get(name, (name, "nano")) for name in arguments.names]
    with ExitStack() as stack:
        paths = {"before": stack.enter_context(checkout(arguments.against))} if arguments.against else {}
        if any(name.startswith("ppo") for name, _ in chosen):
            paths["ppo"] = stack.enter_context(old_trl(TRL_WITH_PPO))
        folders = {}
        for size in sorted({size for _, size in chosen}):
            folders[size] = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write(WORKS[size], folders[size])
        pool = stack.enter_context(ThreadPoolExecutor(arguments.jobs))
        tasks = [(name, size, folders[size]) for _ in range(arguments.rounds) for name, size in chosen]
        found = list(pool.map(partial(measure, paths=paths), *zip(*tasks, strict=True)))
    before = git("rev-parse", "--short", arguments.against) if arguments.against else "before"
    titles = ["CPU ms a step", *SIDES, "times as fast as TRL", "as TRL at its fastest", f"as {before}"]
    rows = {label(*each): found[place :: len(chosen)] for place, each in enumerate(chosen)}
    print(grid(titles, [line for name, rounds in rows.items() for line in lines(name, rounds)]))
    for name, rounds in rows.items():
        for side, why in {side: why for each in rounds for side, why in each.failures.items()}.items():
            print(f"\nNot measured: {name}, {side}: {why}")


if __name__ == "__main__":
    main()
