"""Files of a finished store and its results, damaged one at a time, and the commands that then read them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .bench import Bench, Ended, Place
from .trial import Trial

COMMANDS = ("run", "rescore", "board", "verify", "compare", "export", "store verify")
METHODS = ("ppo", "dpo", "rlaif", "cai", "best_of_n", "trl_dpo")


def flipped(file: Path, chance: random.Random) -> None:
    """One bit of a file is another."""
    whole = bytearray(file.read_bytes())
    if whole:
        whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    file.write_bytes(whole or b"\x01")


def truncated(file: Path, chance: random.Random) -> None:
    """The end of a file is gone."""
    whole = file.read_bytes()
    file.write_bytes(whole[: chance.randrange(len(whole))] if whole else b"")


def pickled(file: Path, chance: random.Random) -> None:
    """A pickle that touches a file lies in its place."""
    trace = str(_trace(file)).encode()
    file.write_bytes(b"cposix\nsystem\n(S'touch " + trace + b"'\ntR.")


def foldered(file: Path, chance: random.Random) -> None:
    """A folder lies in its place."""
    file.unlink()
    file.mkdir()


def digits(file: Path, chance: random.Random) -> None:
    """A digit of a text is another; of what has none, a bit."""
    whole = bytearray(file.read_bytes())
    places = [place for place, byte in enumerate(whole) if 48 <= byte <= 57]
    if not places or b"\x00" in whole:
        return flipped(file, chance)
    place = chance.choice(places)
    whole[place] = 48 + (whole[place] - 48 + chance.randrange(1, 10)) % 10
    file.write_bytes(whole)
    return None


HARMS: dict[str, Callable[[Path, random.Random], Any]] = {
    "bit flipped": flipped, "truncated": truncated, "deleted": lambda file, chance: file.unlink(),
    "emptied": lambda file, chance: file.write_bytes(b""), "a pickle": pickled, "a folder": foldered,
    "digit changed": digits,
}  # fmt: skip


def damage(bench: Bench, chance: random.Random, number: int) -> Trial:
    """A file of a finished store, of each kind in turn, or a card, with one bit flipped, truncated, deleted, emptied, with
    another digit, or with a pickle or a folder in its place; then one command that reads, and the run again. Each gives the
    figures of before or refuses in a line; the run ends with the card of before, from stages that fit their digests; no
    pickle is run."""
    name = METHODS[number % len(METHODS)]
    whole, card = bench.reference(name)
    kinds = sorted(_kinds(whole))
    harm = list(HARMS)[(number // len(METHODS)) % len(HARMS)]
    kind = kinds[(number * 7 + chance.randrange(len(kinds))) % len(kinds)]
    place, command = bench.place("damaged", whole, results=True), chance.choice(COMMANDS)
    file = place.home / chance.choice(_kinds(whole)[kind])
    before = place.card().read_bytes()
    HARMS[harm](file, chance)
    trial = Trial({f"{harm}": 1})
    trial.beside[command] += 1
    said: list[str] = []
    if command != "run":
        said = read_again(bench, place, command, file, before, card)
    if file.is_relative_to(place.results) and not file.is_file():
        shutil.rmtree(file, ignore_errors=True)  # the user's own affair: it says so in a line
    harmed = file.relative_to(place.home).parts[1]
    ends = list(bench.finish(place, name))
    unopened = [
        line for line in ends if line.startswith((f"{harmed}/", f"{harmed}:")) or f"and {harmed} was made from it" in line
    ]
    trial.beside["harmed stages that the run did not open, and left"] += bool(unopened)
    said += [line for line in ends if line not in unopened]
    said += ["the pickle was run"] if _trace(file).exists() else []
    trial.wrong = [f"{kind} {harm}, {command}: {line}" for line in said]
    return trial


def read_again(bench: Bench, place: Place, command: str, file: Path, before: bytes, card: dict[str, Any]) -> list[str]:
    """What is wrong with how a command ends that reads the damaged place."""
    path = next(place.results.glob("*/*.json"), place.results / "nano" / "gone.json")
    store = ["--store", str(place.store)]
    words = {
        "rescore": ["rescore", "--all", str(path), *store], "verify": ["verify", str(path), *store],
        "board": ["board", "--results", str(place.results)], "store verify": ["store", "verify", *store],
        "compare": ["compare", str(path), str(path), "--results", str(place.results)],
        "export": ["export", str(path), str(place.home / "exported"), *store],
    }[command]  # fmt: skip
    ended, is_card = bench.do(place, *words), file.is_relative_to(place.results)
    wrong = list(ended.wrong(0, 1, 2))
    lines = [line for line in ended.err.splitlines() if line.startswith("isoalign: ")]
    wrong += [f"{len(lines)} lines of complaint"] if ended.status == 2 and len(lines) != 1 else []
    behind = any(key in str(file) for key in card["parents"].values())  # verify computes metrics and curve itself
    if not ended.status and not is_card and (command == "store verify" or (command == "verify" and behind)):
        wrong.append("did not notice")
    if command == "rescore" and not is_card and path.is_file() and path.read_bytes() != before:
        wrong.append("wrote another card")
    return wrong + _unlike(ended, command)


def _unlike(ended: Ended, command: str) -> list[str]:
    return [f"status 0 with a complaint: {ended.told}"] if ended.status == 0 and "isoalign: " in ended.err else []


def _kinds(place: Place) -> dict[str, list[Path]]:
    """The files of a place by kind: the stage's and the file's name."""
    found: dict[str, list[Path]] = {}
    for file in sorted(file for folder in (place.store, place.results) for file in folder.rglob("*") if file.is_file()):
        below = file.relative_to(place.home)
        if below.suffix not in (".lock",):
            stage = below.parts[1].rpartition("-")[0] if below.parts[0] == "store" else "results"
            found.setdefault(f"{stage}/{'card' if stage == 'results' else file.name}", []).append(below)
    return found


def _trace(file: Path) -> Path:
    home = next(parent for parent in file.parents if parent.name == "damaged")
    return home / "ran"
