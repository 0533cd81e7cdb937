"""The tensors of a checkpoint that the processes of a run hold together: each process writes its parts of them.

torch.distributed.checkpoint writes and reads safetensors files whose headers say where a part belongs, so that any number of
processes takes what it needs. Its own format is not used, as that says so in a pickle.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoalign.core import sharing, world
from isoalign.core.files import flush
from isoalign.models.shards import is_cut, map_tree

FILE = 2**30  # bytes of a file, about: a process holds a copy of one while it writes

Digests = dict[str, str]  # of files, by name


def take_apart(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """A tree in which tensors that are cut are empty ones on the meta device, and these tensors, named by their order."""
    cut: dict[str, Tensor] = {}

    def take(value: Any) -> Any:
        if not is_cut(value):
            return value
        cut[str(len(cut))] = value.detach()
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    return map_tree(take, tree), cut


def write_parts(folder: Path, cut: dict[str, Tensor]) -> Digests:
    """Write what each process holds of tensors into a folder that is new; returns the digests of all files. All processes come
    here together, and an error of one of them is raised in all."""
    files, size = dict.fromkeys(cut, 1), 0
    for name, tensor in cut.items():
        files[name] = 1 + size // FILE
        size += tensor.nbytes // world.size()
    try:
        with _failures():
            dcp = torch.distributed.checkpoint
            dcp.save(cut, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), files, save_distributed=True))
        found = sharing.together(functools.partial(_digests_of_own, folder))
    except BaseException:
        if not world.rank():
            shutil.rmtree(folder, ignore_errors=True)  # half of it, on a disk that may be full
        raise
    return {name: digest for digests in found for name, digest in digests.items()}


def _digests_of_own(folder: Path) -> Digests:
    flush(folder)
    return {file.name: digest_of(file) for file in folder.glob(f"shard-{world.rank() + 1:05d}-*")}


def are_whole(folder: Path, digests: Digests) -> bool:
    """Whether a folder has the files that were written and no others, as far as this process's share of them says."""
    names = sorted(digests)
    there = sorted(file.name for file in folder.iterdir()) if digests else []
    return there == names and all(digest_of(folder / name) == digests[name] for name in names[world.rank() :: world.size()])


def put_together(tree: Any, folder: Path, mesh: Any) -> Any:
    """What was taken apart, from a folder's files: cut over the processes of ``mesh``, or whole without one."""
    found: dict[str, Tensor] = {}

    def room(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_meta:
            return value
        parts: Any = torch.distributed.tensor
        place = {"device_mesh": mesh, "placements": [parts.Shard(0)]}
        make = (
            torch.empty(value.shape, dtype=value.dtype)
            if mesh is None
            else parts.empty(value.shape, dtype=value.dtype, **place)
        )
        return found.setdefault(str(len(found)), make)

    tree = map_tree(room, tree)
    if found:
        with _failures(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process
            dcp = torch.distributed.checkpoint
            dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=world.size() == 1)
    return tree


def digest_of(file: Path) -> str:
    """16 hex digits for a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


@contextmanager
def _failures() -> Iterator[None]:
    """Context of DCP's work: raises the first failure of any process as it was there."""
    failed: BaseException | None = None
    with sharing.collective():
        try:
            yield
        except torch.distributed.checkpoint.CheckpointException as error:
            failed, _ = error.failures[min(error.failures)]
    if failed:
        raise failed
