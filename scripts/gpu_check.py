"""Check isoalign on a machine with a GPU, in at most six minutes, and write what was found to results/gpu/.

    python scripts/gpu_check.py                      # where isoalign is installed
    python scripts/gpu_check.py --wheels FOLDER      # on a bare image with torch; FOLDER is made by scripts/gpu/wheels.py
    python scripts/gpu_check.py --device cpu         # the same, small, without a GPU: it tries this script, not a device

Three parts, each in processes of its own with a time limit: all methods on the device against the CPU (agreement), the speed
and memory of a random model in bf16 (throughput), and `isoalign run` from end to end (run). What did not fit is said. The exit
status is 0 if all that was run passed, 1 if not, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "gpu"))
import report
import wheels
from compare import TOLERANCE, compare

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "scripts" / "gpu"
TOTAL = 350.0  # seconds
LIMITS = {"agreement": 150.0, "throughput": 70.0, "run": 100.0}
RUN = [
    "algorithm=ppo", "task=nano", "budget=tiny", "budget.steps=4", "tracking=off", "task.prompts.train=64",
    "task.prompts.test=32", "task.prompts.validation=16", "task.sft.steps=4", "task.feedback.margin=0.0",
    "task.feedback.judge_margin=0.0", "task.reward.pairs=64", "task.evaluation.draws=2", "task.evaluation.curve_prompts=16",
]  # fmt: skip


class Check:
    """One check: where its processes run and until when, and what was found."""

    def __init__(self, python: Path, device: str, env: dict[str, str], work: Path, end: float) -> None:
        self.python, self.device, self.env, self.work, self.end = python, device, env, work, end
        self.parts: dict[str, Any] = {}
        self.failed: list[str] = []
        self.not_run: list[str] = []

    def process(self, words: list[str], limit: float, device: str) -> tuple[int | None, str]:
        """Exit status (None if the time was up) and what was said."""
        seconds = max(0.0, min(limit, self.end - time.monotonic()))
        env = self.env | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
        command = [str(self.python), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=env, cwd=self.work)
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, (done.stdout + done.stderr).strip()

    def script(self, name: str, device: str, words: list[str]) -> dict[str, Any]:
        """What a part writes to its file, as far as it got. Why it got no further goes to ``failed`` or ``not_run``."""
        out = self.work / f"{name}-{device}.json"
        out.unlink(missing_ok=True)
        command = [str(PARTS / f"{name}.py"), "--device", device, "--out", str(out), *words]
        status, said = self.process(command, LIMITS[name], device)
        if status is None:
            self.not_run.append(f"all of the {name} on {device}: the time was up")
        elif status:
            self.failed.append(f"{name} on {device}: {said.splitlines()[-1] if said else f'exit status {status}'}")
        found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
        return found

    def agreement(self, methods: str) -> None:
        """All methods on the device and, at the same time, on the CPU."""
        print("agreement ...", file=sys.stderr, flush=True)
        words = ["--seconds", str(LIMITS["agreement"] - 20), *(["--only", methods] if methods else [])]
        if self.device == "cpu":  # one after the other, as the file has the same name
            ours, theirs = (self.script("agreement", "cpu", words) for _ in range(2))
        else:
            with ThreadPoolExecutor(2) as pool:
                ours, theirs = pool.map(lambda device: self.script("agreement", device, words), (self.device, "cpu"))
        skipped = {*ours.get("not_run", ()), *theirs.get("not_run", ())}
        self.not_run += [f"agreement of {', '.join(sorted(skipped))}: there was no time"] if skipped else []
        found = {name: theirs["methods"][name] for name in ours.get("methods", {}) if name in theirs.get("methods", {})}
        rows = {name: compare(name, ours["methods"][name], other) for name, other in found.items()}
        self.failed += [f"{name} does not agree" for name, row in rows.items() if not row["passed"]]
        self.parts["agreement"] = {"tolerance": TOLERANCE, "methods": rows}

    def throughput(self, card: str) -> None:
        """The random model."""
        print("throughput ...", file=sys.stderr, flush=True)
        self.parts["throughput"] = self.script("throughput", self.device, ["--card", card])

    def run(self) -> None:
        """`isoalign run` on nano."""
        print("run ...", file=sys.stderr, flush=True)
        places = [f"store={self.work / 'store'}", f"results={self.work / 'results'}"]
        started = time.monotonic()
        status, said = self.process(["-m", "isoalign", "run", *RUN, *places], LIMITS["run"], self.device)
        if status is None:
            self.not_run.append("isoalign run to its end: the time was up")
            return
        cards = list((self.work / "results" / "nano").glob("ppo-*.json")) if status == 0 else []
        card = json.loads(cards[0].read_text()) if cards else None
        if card is None:
            self.failed.append(f"isoalign run: {said.splitlines()[-1] if said else f'exit status {status}'}")
        self.parts["run"] = {
            "command": shlex.join(["isoalign", "run", *RUN]), "passed": card is not None,
            "seconds": round(time.monotonic() - started, 1), "spent": card["spent"] if card else None,
            "metrics": len(card["metrics"]) if card else 0,
        }  # fmt: skip


def commit() -> str:
    """The commit of this checkout, and whether files differ from it."""
    try:
        ask: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "cwd": ROOT}
        name = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], **ask).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **ask).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}, with changes" if changed else name


def environment(folder: Path | None) -> dict[str, str]:
    """The environment of all parts: no network, and the assets that came with the wheels."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "ISOALIGN_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if folder and (folder / "cache").is_dir():
        env["ISOALIGN_CACHE"] = str(folder.resolve() / "cache")
    return env


def about(python: Path, device: str, env: dict[str, str]) -> dict[str, Any]:
    """The card and the versions. Raises LookupError, with what is wrong, if there is no such device."""
    asked = subprocess.run([python, PARTS / "about.py", device], capture_output=True, text=True, env=env)
    if asked.returncode:
        said = asked.stderr.strip().splitlines()
        raise LookupError(said[-1] if said else "no CUDA device here; try this script with --device cpu")
    found: dict[str, Any] = json.loads(asked.stdout)
    return found


def check(arguments: argparse.Namespace, started: float) -> dict[str, Any]:
    """All that was found, in the form of the file."""
    env, python = environment(arguments.wheels), Path(sys.executable)
    about(python, arguments.device, env)  # before minutes are spent on installing
    with tempfile.TemporaryDirectory() as home:
        if arguments.wheels:
            python = wheels.install(arguments.wheels.resolve(), Path(home) / "venv")
        here = about(python, arguments.device, env)
        work = Check(python, arguments.device, env, Path(home), started + TOTAL)
        wanted = [part.strip() for part in arguments.parts.split(",")]
        if odd := set(wanted) - set(LIMITS):
            raise SystemExit(f"--parts: {', '.join(sorted(odd))} is none of {', '.join(LIMITS)}")
        if "agreement" in wanted:
            work.agreement(arguments.methods)
        if "throughput" in wanted:
            work.throughput(here["card"])
        if "run" in wanted:
            work.run()
    return {
        "about": here, "commit": commit(), "command": shlex.join(["python", "scripts/gpu_check.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(), "seconds": round(time.monotonic() - started, 1),
        "passed": not work.failed, "failed": work.failed, "not_run": work.not_run, "parts": work.parts,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install what is missing from there")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu", help="folder of the results")
    parser.add_argument("--parts", default=",".join(LIMITS), help="of agreement, throughput and run")
    parser.add_argument("--methods", default="", help="of the agreement, separated by commas  [default: all]")
    arguments = parser.parse_args()
    try:
        found = check(arguments, time.monotonic())
    except (LookupError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        print(f"gpu_check: {said[-1]}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", found["about"]["card"]).strip("-")
    file = arguments.out / f"{name}-{found['date']}.json"
    report.write(file, found)
    file.with_suffix(".md").write_text(report.page(found))
    print(file.with_suffix(".md"))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
