"""Disks that are full, read-only, or vanish, as small file systems in memory."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path

from .bench import Bench, Place
from .trial import Trial

KINDS = ("full", "full and then larger", "read-only and whole", "read-only and not whole", "vanishes", "full of results")


def mounted(folder: Path, size: str) -> bool:
    """A file system of this size at a folder; False where this is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "isoalign", str(folder)], capture_output=True
    ).returncode


def disks(bench: Bench, chance: random.Random, number: int) -> Trial:
    """A run whose disk has too little room at a random moment, can only be read, or goes away; it ends in one line that says
    so and blames no method, and the same command with a disk again ends with the card of before. A whole store that can only
    be read serves run, rescore and verify."""
    kind, name = KINDS[number % len(KINDS)], chance.choice(bench.methods())
    whole, _ = bench.reference(name)
    place = bench.place("disk")
    disk = place.results if kind == "full of results" else place.store
    if not mounted(disk, "64m"):
        return Trial(skipped="a file system can be mounted by root only")
    trial = Trial({kind: 1})
    try:
        trial.wrong += [f"{kind}, {name}: {line}" for line in _tried(bench, chance, kind, name, place, disk, whole)]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], capture_output=True)
    return trial


def _tried(bench: Bench, chance: random.Random, kind: str, name: str, place: Place, disk: Path, whole: Place) -> list[str]:
    of = whole if kind == "read-only and whole" else bench.base
    for source in of.store.iterdir():
        target = place.store / source.name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    words, wrong = bench.words(place, name), list[str]()
    used = sum(file.stat().st_size for file in disk.rglob("*") if file.is_file())
    if kind.startswith("full"):
        room = 0 if kind == "full of results" else chance.randrange(0, 1_200_000)
        (disk / ".ballast").write_bytes(b"x" * (64 * 2**20 - used - room - 600_000))
        with (disk / ".ballast-2").open("wb", buffering=0) as rest:  # the last pages, one at a time
            try:
                while shutil.disk_usage(disk).free > room:
                    rest.write(b"x" * 4096)
            except OSError:
                pass
        ended = bench.do(place, *words)
        wrong += ended.wrong(2, 0)
        if ended.status and not any(word in ended.told for word in ("No space left", "cannot write")):
            wrong.append(f"a full disk is told as {ended.told!r}")
        wrong += ["the method is blamed"] if list(place.results.rglob("failed/*")) else []
        for file in disk.glob(".ballast*"):
            file.unlink()
    elif kind.startswith("read-only"):
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        ended = bench.do(place, *words)
        wrong += ended.wrong(0 if kind.endswith(" whole") and "not" not in kind else 2)
        if ended.status and "Read-only" not in ended.told:
            wrong.append(f"a read-only disk is told as {ended.told!r}")
        if not ended.status:
            card = str(place.card())
            for command in (["rescore", "--all"], ["verify"]):
                wrong += bench.do(place, *command, card, "--store", str(place.store)).wrong(0)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    else:
        running = bench.start(place, words)
        time.sleep(chance.uniform(0.3, 4.0))
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        ended = running.end()
        wrong += ended.wrong(0, 2)
        shutil.rmtree(place.store, ignore_errors=True)
        shutil.copytree(bench.base.store, place.store)
    return [*wrong, *bench.finish(place, name)]
