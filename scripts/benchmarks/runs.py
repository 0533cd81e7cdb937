"""What a run of DPO on nano takes, and the commands around it: CPU seconds of one thread.

    python scripts/benchmarks/runs.py evaluation|start [--rounds 3]

``evaluation`` makes a run in an empty store, and one of another method after it, and tells their stages apart, each without
those that it makes on the way. ``start`` is help, a run once more, and the board of the published cards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from work import QUIET, ROOT

from isoalign.core.display import grid
from isoalign.core.store import Make, Store
from isoalign.runs import run

TRAINING = "train"
BEFORE = ("preflight", "sft", "annotators", "completions", "pairs", "reward", "unpaired", "revisions")


def command(store: Path, results: Path, algorithm: str = "dpo") -> list[str]:
    return [f"algorithm={algorithm}", "task=nano", f"store={store}", f"results={results}", "threads=1", "tracking=off"]


@contextmanager
def stages_timed() -> Iterator[dict[str, float]]:
    """The CPU seconds of each stage that this process makes, without those that it makes on the way."""
    spent, within = defaultdict[str, float](float), [0.0]
    original = Store.get

    def get(self: Store, stage: str, key: str, recipe: dict[str, Any], make: Make, together: bool = False) -> Path:
        def timed(work: Path) -> Iterable[str] | None:
            start = time.process_time()
            within.append(0.0)
            unread = make(work)
            taken = time.process_time() - start
            spent[f"{stage} of the curve" if "steps" in recipe else stage] += taken - within.pop()
            within[-1] += taken
            return unread

        return original(self, stage, key, recipe, timed, together)

    Store.get = get  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        Store.get = original  # type: ignore[method-assign]


def by_stage(words: list[str]) -> dict[str, float]:
    """CPU seconds of each stage of a run in this process, and of what is no stage."""
    sys.argv = ["isoalign", *words]
    with stages_timed() as spent:
        run.main()
    return spent | {"imports, loading and the card": time.process_time() - sum(spent.values())}


def evaluation(rounds: int) -> str:
    found: list[list[dict[str, float]]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            found.append([alone(command(Path(folder) / "store", Path(folder) / "results", name)) for name in ("dpo", "ipo")])
    stages = found[0][0]
    kinds = {stage: "training" if stage == TRAINING else "before" if stage in BEFORE else "evaluation" for stage in stages}
    seconds = {
        stage: [statistics.median(each[place].get(stage, 0.0) for each in found) for place in (0, 1)] for stage in stages
    }
    order = sorted(stages, key=lambda stage: (["before", "training", "evaluation"].index(kinds[stage]), -seconds[stage][0]))
    rows = [[kinds[stage], stage, *(f"{each:.1f}" if each else "–" for each in seconds[stage])] for stage in order]
    for kind in ("training", "evaluation"):
        whole = [
            [sum(one[stage] for stage in one if kinds.get(stage) == kind) for one in each] for each in zip(*found, strict=True)
        ]
        rows.append([f"all {kind}", "", *(f"{statistics.median(each):.1f}" for each in whole)])
    return grid(["part", "stage", "DPO, first (CPU s)", "IPO, after it (CPU s)"], rows, left=(0, 1))


def alone(words: list[str]) -> dict[str, float]:
    """What a run in a process of its own spends on each stage."""
    line = [sys.executable, __file__, "--one", *words]
    done = subprocess.run(line, check=True, capture_output=True, text=True, env=os.environ | QUIET)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def start(rounds: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        first = command(Path(folder) / "store", Path(folder) / "results")
        published = shutil.copytree(ROOT / "results" / "published" / "nano", Path(folder) / "published" / "nano").parent
        words = {
            "isoalign --help": ["--help"],
            "isoalign run algorithm=dpo task=nano, finished": ["run", *first, "budget.steps=2"],
            "isoalign board nano, published cards": ["board", "nano", "--results", str(published)],
        }
        spent(words["isoalign run algorithm=dpo task=nano, finished"])
        times: dict[str, list[float]] = {name: [] for name in words}
        for _ in range(rounds):
            for name, each in words.items():
                times[name].append(spent(each))
    rows = [[name, f"{statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f})"] for name, each in times.items()]
    return grid(["command", "CPU s"], rows)


def spent(words: list[str]) -> float:
    """CPU seconds of a command."""
    process = subprocess.Popen([sys.executable, "-m", "isoalign", *words], stdout=subprocess.DEVNULL, env=os.environ | QUIET)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"isoalign {' '.join(words)} failed")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(by_stage(sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["evaluation", "start"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(evaluation(arguments.rounds) if arguments.part == "evaluation" else start(arguments.rounds))


if __name__ == "__main__":
    main()
