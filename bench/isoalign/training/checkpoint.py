"""Checkpoints: everything that a resumed run needs, in one file that is written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FILE = Path("checkpoint") / "state.pt"
Tensors = dict[str, Any]  # by name, as torch.load returns them with weights_only


def save_checkpoint(work: Path, tensors: Tensors, numbers: dict[str, Any]) -> None:
    """Write tensors and numbers (JSON) into the work folder of a run. Where that fails, the last checkpoint stays."""
    file = work / FILE
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".tmp")
    try:
        with part.open("wb") as stream:  # Python's stream says what is wrong with a disk, torch's does not
            torch.save(tensors | {"numbers": json.dumps(numbers)}, stream)
    except Exception:
        part.unlink(missing_ok=True)  # half a file, on a disk that may be full
        raise
    os.replace(part, file)


def load_checkpoint(work: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """Tensors, on the CPU wherever they were saved, and numbers of the last checkpoint; None without one."""
    if not (work / FILE).exists():
        return None
    tensors = torch.load(work / FILE, map_location="cpu", weights_only=True)
    return tensors, json.loads(tensors.pop("numbers"))


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
