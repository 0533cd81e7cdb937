"""The device of this process: the accelerator that is free, or the one that is asked for.

Processes of one user, those of a sweep among them, take different GPUs of a machine: each holds a lock while it lives. Where
all are taken, they share the one with the fewest holders. A process then sees its own GPU alone, so that no library spreads
a model over several.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from isoalign.core import world
from isoalign.core.errors import UserError
from isoalign.core.lazy import torch

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
VISIBLE = "CUDA_VISIBLE_DEVICES"
HOLDERS = 64  # processes on one GPU, at most

_chosen: dict[str, str] = {}  # what was asked for, and the device
_held: list[FileLock] = []  # held until the process ends or chooses again
_visible: list[str | None] = []  # what the user lets this process see


def device() -> str:
    """The device of this process, as torch names it; chosen at the first call."""
    return next(iter(_chosen.values()), None) or use(AUTO)


def use(wanted: str, several: bool = False) -> str:
    """Choose the device: ``auto`` (a free accelerator, or else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps`` and so on.

    Later runs of the same process that ask for the same get the same. Raises UserError for a device that is
    not there, and in one of several processes of a launcher unless the work is for ``several``: each takes a GPU of its own.
    """
    if not several:
        _one_process()
    if wanted not in _chosen:
        _let_go()
        found = _choose(wanted)
        _chosen[wanted] = found
    return _chosen[wanted]


def _one_process() -> None:
    """Raises UserError in one of several processes of a launcher: each would do all of the work."""
    if world.launched() > 1:
        raise UserError(
            f"WORLD_SIZE is {world.launched()}, but several processes share a single `isoalign run` only; start this without "
            "torchrun or accelerate launch"
        )


def label() -> str:
    """The model of the process's device, as ``NVIDIA H100 80GB HBM3``; its type where the backend has no names."""
    kind = torch.device(device()).type
    names = getattr(getattr(torch, kind, None), "get_device_name", None)
    return str(names(device())) if names else kind


def count_label() -> str:
    """How many devices share the work, and their model, as ``8 x NVIDIA H100 80GB HBM3``; the model alone of one."""
    return label() if world.size() == 1 else f"{world.size()} x {label()}"


def memory() -> float:
    """Memory of the process's device in bytes; infinite where its backend does not say."""
    if torch.device(device()).type == CPU:
        return float(memory_limit())
    try:
        return float(torch.accelerator.get_memory_info(device())[1])
    except RuntimeError:
        return math.inf


def memory_limit() -> int:
    """Bytes of memory that this process may use: that of the machine, or less if its control group has a limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            total = min(total, int(file.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def _let_go() -> None:
    """Undo an earlier choice, as far as CUDA allows: once it is initialised it sees what it saw then."""
    _chosen.clear()
    while _held:
        _held.pop().release()
    if not _visible:
        _visible.append(os.environ.get(VISIBLE))
    if not torch.cuda.is_initialized():
        os.environ.pop(VISIBLE, None)
        os.environ.update({VISIBLE: before} if (before := _visible[0]) is not None else {})


def _choose(wanted: str) -> str:
    kind, _, number = wanted.partition(":")
    if not re.fullmatch(r"[a-z]+(:\d+)?", wanted):
        raise UserError(f"device={wanted} is no device; use auto, cpu, cuda, cuda:1 or mps")
    if kind == CPU and not number:
        if not torch.cuda.is_initialized():
            os.environ[VISIBLE] = ""  # so that libraries stay off the GPU as well
        return CPU
    gpus = torch.cuda.device_count()  # by NVML, which leaves CUDA uninitialised
    if gpus and kind in (AUTO, CUDA) and world.launched() > 1:
        if number:
            raise UserError(
                f"device={wanted} is one GPU, but each of {world.launched()} processes takes its own; set device=cuda"
            )
        if world.local_rank() >= gpus:
            raise UserError(
                f"a machine has {gpus} GPU{'s' * (gpus > 1)}, but more processes; start one for each GPU, or set device=cpu"
            )
        return _take([world.local_rank()], gpus)
    if gpus and kind in (AUTO, CUDA):
        if number and int(number) >= gpus:
            raise _absent(wanted, [CUDA] + [f"{CUDA}:{i}" for i in range(gpus)])
        return _take(range(gpus) if not number else [int(number)], gpus)
    found = torch.accelerator.current_accelerator(check_available=True)
    there = [found.type] if found else []
    if wanted == AUTO:
        return there[0] if there else CPU
    if kind not in there or (number and int(number) >= torch.accelerator.device_count()):
        raise _absent(wanted, there)
    return wanted


def _absent(wanted: str, there: list[str]) -> UserError:
    return UserError(f"device={wanted} is not there: this machine has {', '.join([*there, CPU])}; set device=auto")


def _take(candidates: range | list[int], gpus: int) -> str:
    """Hold the GPU of the candidates with the fewest holders, and hide the others from this process."""
    visible = [word.strip() for word in os.environ.get(VISIBLE, "").split(",") if word.strip()]
    names = visible if len(visible) >= gpus else [str(number) for number in range(gpus)]
    folder = Path(tempfile.gettempdir()) / f"isoalign-devices-{getattr(os, 'getuid', lambda: '')()}"
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "choice.lock"):  # one process chooses at a time
            best = min(candidates, key=lambda number: (_holders(folder, names[number]), number))
            _hold(folder, names[best])
    except OSError:  # nowhere to write a lock: the first will do
        best = candidates[0]
    if gpus == 1:
        return CUDA
    if torch.cuda.is_initialized():  # too late to hide the others
        torch.cuda.set_device(best)
        return f"{CUDA}:{best}"
    os.environ[VISIBLE] = names[best]
    return CUDA


def _slots(folder: Path, gpu: str) -> list[FileLock]:
    return [FileLock(folder / f"{re.sub('[^A-Za-z0-9-]', '-', gpu)}.{slot}.lock") for slot in range(HOLDERS)]


def _holders(folder: Path, gpu: str) -> int:
    """Processes that hold a GPU. A lock is free once its process has ended, however it did."""
    return sum(not _free(slot) for slot in _slots(folder, gpu) if Path(slot.lock_file).exists())


def _free(slot: FileLock) -> bool:
    try:
        with slot.acquire(timeout=0):
            return True
    except Timeout:
        return False


def _hold(folder: Path, gpu: str) -> None:
    for slot in _slots(folder, gpu):
        try:
            slot.acquire(timeout=0)
        except Timeout:
            continue
        _held.append(slot)
        return
