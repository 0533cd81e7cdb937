"""`isoalign status`: what runs of a folder of results do, or what is made in a store."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from isoalign.cli import options
from isoalign.core.complaint import one_line
from isoalign.core.display import clean
from isoalign.core.errors import UserError
from isoalign.core.json_output import to_json
from isoalign.core.redaction import redact
from isoalign.core.store import Store

NAMED = ("algorithm=", "seed=")  # words of a command that are shown though all have them
LONGEST = 100  # characters of a command
AGAIN = 2.0  # seconds between two looks of --watch
CLEAR = "\x1b[H\x1b[2J"


@click.command()
@click.argument("folder", type=options.PATH, default="results/local", metavar="[RESULTS|STORE]")
@click.option("--all", "everything", is_flag=True, help="List finished runs, too, which are only counted otherwise.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until nothing runs or waits.")
@options.as_json
def status(folder: Path, everything: bool, watch: bool, as_json: bool) -> int:
    """Say what runs do: where, how far, and what failed.

    Runs of all machines that share the folder are listed. RESULTS is results/local by default; of a STORE, the stages that are
    being made are listed. The exit status is 1 if a run has failed, or has ended without a word.
    """
    from isoalign.runs import status as statuses  # loads hydra, which the help does without

    while True:
        found = _look(folder)
        if watch and sys.stdout.isatty() and not as_json:
            print(CLEAR, end="")
        if as_json:
            print(to_json(redact(found)))
        else:
            print("\n".join(_lines(found, everything)), flush=True)
        if not watch or not any(each["state"] in (statuses.RUNNING, statuses.WAITING) for each in found):
            return int(any(each["state"] in (statuses.FAILED, statuses.DEAD) for each in found))
        time.sleep(AGAIN)


def _look(folder: Path) -> list[dict[str, Any]]:
    from isoalign.runs import status as statuses  # loads hydra, which the help does without
    from isoalign.tools import storekeeping  # loads numpy

    if (folder / statuses.FOLDER).is_dir():
        return list(statuses.read_statuses(folder))
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name one of results (results=FOLDER of a run), or a store")
    if any(folder.glob("*-" + "[0-9a-f]" * 16)) or any(folder.glob(".work-*")):
        return list(storekeeping.making(Store(folder)))
    raise UserError(f"{folder} holds no notes of runs, and no stages; name a folder of results, as results/local, or a store")


def _lines(found: list[dict[str, Any]], everything: bool) -> Iterator[str]:
    """A line for each run, and one that counts them."""
    words = [str(each.get("command", "")).removeprefix("isoalign run ").split() for each in found]
    common = set.intersection(*map(set, words)) if len(found) > 1 else set()
    shown = [[word for word in each if word not in common or word.startswith(NAMED)] for each in words]
    rows = [_row(each, " ".join(n)) for each, n in zip(found, shown, strict=True) if everything or each["state"] != "done"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    most = max(shutil.get_terminal_size().columns, 60) if sys.stdout.isatty() else 1000
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()[:most]
    counts = Counter(str(each["state"]) for each in found)
    yield f"{len(found)} in all" + "".join(f", {count} {state}" for state, count in counts.most_common())


def _row(each: dict[str, Any], name: str) -> list[str]:
    where = f"{each.get('host', '?')}:{each.get('pid', '?')}"
    sign = f"{_duration(each['age'])} ago"
    cells = [each["state"], (name or each["file"])[:LONGEST], each.get("device", ""), where, sign, _doing(each)]
    return [clean(one_line(str(cell))) for cell in cells]


def _doing(each: dict[str, Any]) -> str:
    """The stage and how far it is, or how the run has ended."""
    if each.get("line") or each["state"] not in ("running", "silent", "dead"):
        return str(each.get("line", ""))
    if "began" not in each:  # of a store
        return ""
    words = [each.get("stage", "between stages").rpartition("-")[0] or "between stages"]
    if "step" in each and each["step"] != words[0]:
        words.append(each["step"])
    if "done" in each:
        words.append(f"{each['done']:.0%}")
    if "left" in each and each["state"] == "running":
        words.append(f"{_duration(each['left'])} left")
    return ", ".join(words)


def _duration(seconds: float) -> str:
    """As ``40 s``, ``12 min``, ``3.5 h``."""
    if not 0 <= seconds < 1e9:
        return "?"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
