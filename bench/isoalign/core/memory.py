"""Work on a batch in parts that fit into memory, and what is said of a machine that has too little of it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Protocol, Self, TypeVar

from isoalign.core.errors import MachineFailed
from isoalign.core.lazy import torch


class Rows(Protocol):
    """What can be cut by rows: a batch, a tensor, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Self: ...


B = TypeVar("B", bound=Rows)
T = TypeVar("T")
ALLOCATION = re.compile(r"DefaultCPUAllocator|out of memory|CU\w+_STATUS_ALLOC_FAILED", re.IGNORECASE)  # of a RuntimeError
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, getattr(errno, "ESTALE", errno.EIO))
ON_DISK = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|Input/output error|os error (5|28|30|122)\b|"
    "PytorchStreamWriter failed"
)
DEVICE = re.compile(r"CU\w+_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED)|uncorrectable ECC|NCCL error")
LOST = re.compile(r"gloo/transport|Connection closed by peer|remote process exited or there was a network error")
KILLED = re.compile(
    r"DataLoader worker .* (is killed|exited unexpectedly)|process .* unexpectedly terminated|terminated abruptly"
)


class OutOfMemory(MachineFailed):
    """Memory ran out, and work on fewer rows is no way out."""


def by_rows(work: Callable[[B], T], batch: B, rows: int) -> list[T]:
    """The results of ``work`` on the batch, ``rows`` rows at a time; one result of an empty batch.

    When memory runs out, the part is tried again with half of the rows. Raises OutOfMemory when one row does not fit.
    """
    results: list[T] = []
    start = 0
    while start < len(batch) or not results:

        def work_on(count: int, start: int = start) -> T:
            return work(batch[slice(start, start + count)])

        part, rows = halving(work_on, rows, len(batch) - start)
        results.append(part)
        start += rows
    return results


def halving(work: Callable[[int], T], rows: int, most: int) -> tuple[T, int]:
    """The result of ``work(rows)``, and with how many rows at a time it was had.

    When memory runs out, the work is done anew with half of the rows, of the ``most`` that it has. Raises OutOfMemory when one
    row does not fit.
    """
    while True:
        try:
            return work(rows), rows
        except (RuntimeError, MemoryError, OutOfMemory) as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise out_of_memory(one_row=True) from error
        rows = max(1, min(rows, most) // 2)  # here the error, which holds what the failed work has computed, is gone


def out_of_memory(one_row: bool = False) -> OutOfMemory:
    """The error when memory ran out on ``one_row``, or in work that is not cut by rows."""
    what = " for one row" if one_row else ""
    batches = "" if one_row else "task.training.micro_batch, "
    return OutOfMemory(
        f"the device has too little memory{what}; set task.training.gradient_checkpointing=true, task.model.dtype=bfloat16 or "
        f"task.model.lora=16, lower {batches}task.model.prompt_tokens or task.model.new_tokens, or choose a smaller "
        "task.model.name"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, that of a device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and bool(ALLOCATION.search(str(error)))


def machine_failure(error: BaseException | None) -> MachineFailed | None:
    """What to say where the machine is what failed, in an error or in what caused it; None for any other error."""
    while error is not None:
        if isinstance(error, MachineFailed):
            return error
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return out_of_memory()
        reason = str(error).strip().partition("\n")[0][:200]
        library = isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError"  # these raise no OSError
        if (isinstance(error, OSError) and error.errno in DISK) or (library and ON_DISK.search(reason)):
            return MachineFailed(
                f"cannot write: {reason}; free some space, or set store=FOLDER, and run the same command again"
            )
        if library and LOST.search(str(error)):
            return MachineFailed("another process of this run has ended; run the same command again to go on")
        if KILLED.search(reason):
            return MachineFailed(f"a process was killed, as where memory runs out: {reason}; run the same command again")
        if isinstance(error, torch.AcceleratorError) or (library and DEVICE.search(reason)):
            return MachineFailed(f"the device failed: {reason}; run the same command again")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None
