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


@dataclass
class Row:
    """What was measured of a method: milliseconds a step of each side, round by round, in each part of a run."""

    label: str
    times: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, part: str, side: str, milliseconds: float) -> None:
        self.times.setdefault(part, {}).setdefault(side, []).append(milliseconds)

    def cells(self) -> list[list[str]]:
        """Lines of the table."""
        return [
            [f"{self.label}{part}", *(middle(sides.get(side)) for side in SIDES)]
            + [ratio(sides.get(side), sides.get("ours")) for side in SIDES[1:4]]
            for part, sides in self.times.items()
        ]


def middle(values: list[float] | None) -> str:
    return f"{statistics.median(values):.0f}" if values else "–"


def ratio(others: list[float] | None, ours: list[float] | None) -> str:
    if not others or not ours or len(others) != len(ours):
        return "–"
    each = [other / own for other, own in zip(others, ours, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def parts(name: str, found: dict[str, Any], work: Work) -> dict[str, tuple[int, int]]:
    """First and last step of each part of a run that counts."""
    last = len(found["marks"]) - 1
    if name in REFERENCE:
        return {", first epoch": (work.warm, found["epoch"]), ", later epochs": (found["epoch"], last)}
    return {"": (work.warm * found.get("each", 1), last)}


def add(row: Row, name: str, side: str, found: dict[str, Any], work: Work, speed: float) -> None:
    """Enter what a process found. An epoch's share of what was computed before it is part of it."""
    for part, (start, end) in parts(name, found, work).items():
        steps = (end - start) * found.get("updates", 1)
        milliseconds = 1000 * (found["marks"][end] - found["marks"][start]) / steps
        if "first" in part:
            milliseconds += 1000 * found.get("precomputing", 0.0) / found["epoch"]
        row.add(part, side, milliseconds)
        if side == "ours" and "later" not in part:  # where some of the FLOPs on the bill are remembered
            row.add(part, "machine", 1000 * (found["flops"][end] - found["flops"][start]) / steps / speed)


def measure(name: str, model: str, folder: Path, rounds: int, paths: dict[str, str]) -> tuple[Row, list[str]]:
    """All sides in turn, some rounds. Also what could not be measured, and why."""
    work, label = WORKS[model], NAMES[name]
    row = Row(label if model == "nano" else f"{label}, {model}")
    trl, failures = "ppo" if name.startswith("ppo") else name, dict[str, str]()
    path = paths["ppo"] if trl == "ppo" else ""
    ours = partial(measured, "steps_ours.py", str(folder), name)
    sides = {
        "ours": ours,
        "TRL": partial(measured, "steps_trl.py", str(folder), trl, "default", path=path),
        "TRL at its fastest": partial(measured, "steps_trl.py", str(folder), trl, "fastest", path=path),
    }
    if "before" in paths:
        sides["before"] = partial(ours, path=paths["before"])
    for _ in range(rounds):
        speed = measured("steps_ours.py", str(folder), "machine")
        for side, run in sides.items():
            if side in failures:
                continue
            found = run()
            if isinstance(found, str):
                failures[side] = found
            else:
                add(row, name, side, found, work, speed)
    for cells in row.cells():
        print(*cells, sep="  ", file=sys.stderr, flush=True)
    return row, [f"{row.label}, {side}: {why}" for side, why in failures.items()]


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
    chosen = {name: SIZES.get(name, (name, "nano")) for name in arguments.names}
    with ExitStack() as stack:
        paths = {"before": stack.enter_context(checkout(arguments.against))} if arguments.against else {}
        if any(name.startswith("ppo") for name, _ in chosen.values()):
            paths["ppo"] = stack.enter_context(old_trl(TRL_WITH_PPO))
        folders = {}
        for size in sorted({size for _, size in chosen.values()}):
            folders[size] = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write(WORKS[size], folders[size])
        pool = stack.enter_context(ThreadPoolExecutor(arguments.jobs))
        run = partial(measure, rounds=arguments.rounds, paths=paths)
        found = list(pool.map(run, *zip(*((name, size, folders[size]) for name, size in chosen.values()), strict=True)))
    before = git("rev-parse", "--short", arguments.against) if arguments.against else "before"
    titles = ["CPU ms a step", *SIDES, "times as fast as TRL", "as TRL at its fastest", f"as {before}"]
    print(grid(titles, [line for row, _ in found for line in row.cells()]))
    for _, failures in found:
        print(*(f"\nNot measured: {failure}" for failure in failures), sep="")


if __name__ == "__main__":
    main()
