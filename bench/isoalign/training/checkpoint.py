"""Checkpoints: everything that a resumed run needs, in one file that appears whole and is checked before it is read.

Beside it are parts of tensors that the processes of a run hold together, which it has the digests of.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoalign.core import sharing, world
from isoalign.core.complaint import say
from isoalign.core.files import flush
from isoalign.core.memory import machine_failure
from isoalign.models.shards import part_of
from isoalign.training.parts import are_whole, digest_of, put_together, take_apart, write_parts

FOLDER = "checkpoint"
KEPT = 2  # the newest, and the one before it where the newest turns out to be damaged
Sums = tuple[float, float]
Tensors = dict[str, Any]  # by name, as torch.load returns them with weights_only


def save_checkpoint(work: Path, tensors: Tensors, numbers: dict[str, Any]) -> None:
    """Write tensors and numbers (JSON) into the work folder of a run, in a file named by its place in the row and its digest.
    Where that fails, the last checkpoint stays. Of several processes the first one writes it, once each has written its parts
    of tensors that are cut, into a folder beside it."""
    folder = work / FOLDER
    number = world.of_first(lambda: _begin(folder))
    tree, cut = take_apart(tensors)
    parts = write_parts(_parts_of(folder, number), cut) if cut else {}
    world.of_first(lambda: _publish(folder, number, tree | {"numbers": json.dumps(numbers), "parts": parts}))


def _begin(folder: Path) -> int:
    """The number of the next checkpoint, of which nothing is there."""
    folder.mkdir(exist_ok=True)
    number = max((_number(file) for file in _files(folder)), default=0) + 1
    if (left := _parts_of(folder, number)).exists():  # of a process that was killed
        shutil.rmtree(left)
    return number


def _publish(folder: Path, number: int, content: Tensors) -> None:
    before = _files(folder)
    part = folder / "next.tmp"
    try:
        with part.open("wb") as stream:  # Python's stream says what is wrong with a disk, torch's does not
            torch.save(content, stream)
        flush(part)
    except Exception:
        part.unlink(missing_ok=True)  # half a file, on a disk that may be full
        shutil.rmtree(_parts_of(folder, number), ignore_errors=True)
        raise
    part.rename(folder / f"{number:06d}-{digest_of(part)}.pt")
    flush(folder)
    for file in before[: 1 - KEPT]:
        _remove(file)


def load_checkpoint(work: Path, mesh: Any = None) -> tuple[Tensors, dict[str, Any]] | None:
    """Tensors and numbers of the last checkpoint that is whole; None without one. One that is not is told and removed.

    Tensors are on the CPU wherever they were saved. Those that were cut, by however many processes, are so over those of
    ``mesh``, if there is one. All processes of a run come here together.
    """
    for file in reversed(world.of_first(lambda: _files(work / FOLDER))):
        content: Tensors = {}
        if all(sharing.together(functools.partial(_read, file, content))):
            numbers = json.loads(content.pop("numbers"))
            return put_together(content, _parts_of(file.parent, _number(file)), mesh), numbers
        say(f"the checkpoint {file} is damaged; training goes on from the one before it, or from the start")
        world.of_first(functools.partial(_remove, file))
    return None


def _read(file: Path, content: Tensors) -> bool:
    """Fill ``content`` by what is in a checkpoint's file; whether it is whole, as far as this process's share of it says."""
    try:
        if digest_of(file) == file.stem.partition("-")[2]:
            content.update(torch.load(file, map_location="cpu", weights_only=True))
            return are_whole(_parts_of(file.parent, _number(file)), content.pop("parts", {}))
    except Exception as error:
        if machine_failure(error):  # too little memory, not a damaged file
            raise
    return False


def _files(folder: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted(folder.glob("[0-9]*-*.pt"))


def _number(file: Path) -> int:
    return int(file.name.partition("-")[0])


def _parts_of(folder: Path, number: int) -> Path:
    """Where the parts of a checkpoint are, which none has whose tensors are whole."""
    return folder / f"{number:06d}"


def _remove(file: Path) -> None:
    shutil.rmtree(_parts_of(file.parent, _number(file)), ignore_errors=True)  # first: who is killed here, finds the file again
    file.unlink()


def changing_state(module: nn.Module, made: Mapping[str, Sums]) -> dict[str, Tensor]:
    """A module's state dict without the frozen weights that still are as they were ``made``: a target network, which only its
    method moves, is frozen too."""
    unmoved = [name for name, sums in frozen_sums(module).items() if made.get(name) == sums]
    same = set.intersection(*map(set, sharing.exchange(unmoved)))  # of all parts, where processes hold weights together
    return {name: value for name, value in module.state_dict().items() if name not in same}


def frozen_sums(module: nn.Module) -> dict[str, Sums]:
    """The sums of a module's frozen weights and of their squares, by which a change is seen."""
    frozen = ((name, part_of(p.detach()).double()) for name, p in module.named_parameters() if not p.requires_grad)
    return {name: (float(value.sum()), float(value.square().sum())) for name, value in frozen}


def find_non_json(value: object) -> str:
    """Where in a value the first part is that JSON does not restore, and its type; empty if JSON restores everything."""
    if type(value) is dict:
        keys = next((f" has {type_name(key)} as a key" for key in value if type(key) is not str), "")
        return keys or next((f"[{key!r}]{problem}" for key, each in value.items() if (problem := find_non_json(each))), "")
    if type(value) is list:
        return next((f"[{place}]{problem}" for place, each in enumerate(value) if (problem := find_non_json(each))), "")
    return "" if value is None or isinstance(value, bool | int | float | str) else f" holds {type_name(value)}"


def type_name(value: object) -> str:
    """The type of a value, with its article: ``a list``, ``an int``, ``None``."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
