"""Checkpoints: everything that a resumed run needs, in one file that appears whole and is checked before it is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoalign.core.complaint import say
from isoalign.core.files import flush
from isoalign.core.memory import machine_failure

FOLDER = "checkpoint"
KEPT = 2  # the newest, and the one before it where the newest turns out to be damaged
Tensors = dict[str, Any]  # by name, as torch.load returns them with weights_only


def save_checkpoint(work: Path, tensors: Tensors, numbers: dict[str, Any]) -> None:
    """Write tensors and numbers (JSON) into the work folder of a run, in a file named by its place in the row and its digest.
    Where that fails, the last checkpoint stays."""
    folder = work / FOLDER
    folder.mkdir(exist_ok=True)
    before = _files(folder)
    part = folder / "next.tmp"
    try:
        with part.open("wb") as stream:  # Python's stream says what is wrong with a disk, torch's does not
            torch.save(tensors | {"numbers": json.dumps(numbers)}, stream)
        flush(part)
    except Exception:
        part.unlink(missing_ok=True)  # half a file, on a disk that may be full
        raise
    number = int(before[-1].name.partition("-")[0]) + 1 if before else 1
    part.rename(folder / f"{number:06d}-{_digest(part)}.pt")
    flush(folder)
    for file in before[: 1 - KEPT]:
        file.unlink()


def load_checkpoint(work: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """Tensors, on the CPU wherever they were saved, and numbers of the last checkpoint that is whole; None without one. One
    that is not is told and removed."""
    for file in reversed(_files(work / FOLDER)):
        try:
            if _digest(file) == file.stem.partition("-")[2]:
                tensors = torch.load(file, map_location="cpu", weights_only=True)
                return tensors, json.loads(tensors.pop("numbers"))
        except Exception as error:
            if machine_failure(error):  # too little memory, not a damaged file
                raise
        say(f"the checkpoint {file} is damaged; training goes on from the one before it, or from the start")
        file.unlink()
    return None


def _files(folder: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted(folder.glob("[0-9]*-*.pt"))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict without its frozen weights."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


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
