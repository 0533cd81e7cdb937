"""What the processes of a run do together: rows are shared out, results gathered, gradients added up.

In one process each function does what a single process does, at no cost. All processes must call them in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from isoalign.core import world
from isoalign.core.errors import MachineFailed
from isoalign.core.lazy import torch
from isoalign.core.memory import Rows
from isoalign.core.progress import track

BUCKET = 2**25  # numbers that are added up at once

B = TypeVar("B", bound=Rows)
T = TypeVar("T")
R = TypeVar("R")


def exchange(value: T) -> list[T]:
    """The value of each process, by rank."""
    if (here := world.current()) is None:
        return [value]
    values: list[Any] = [None] * here.size
    with collective():
        torch.distributed.all_gather_object(values, value)
    return values


def together(work: Callable[[], T]) -> list[T]:
    """What ``work()`` returned in each process, by rank. An error in one of them is raised in all."""
    if world.size() == 1:
        return [work()]
    result, failed = None, None
    try:
        result = work()
    except Exception as error:
        failed = error
    outcomes = exchange((result, failed and world.as_told(failed)))
    if failed:
        raise failed
    for _, told in outcomes:
        if told:
            raise told.error()
    return [value for value, _ in outcomes]  # type: ignore[misc]


def spread(items: Sequence[T], work: Callable[[T], R], label: str) -> list[R]:
    """``work`` on each item, in their order and with a bar; each process works on its own items."""
    parts = together(lambda: [work(item) for item in track(items[world.rank() :: world.size()], label)])
    return [parts[place % len(parts)][place // len(parts)] for place in range(len(items))]


def own(batch: B) -> B:
    """The rows of a batch that this process works on; perhaps none."""
    if world.size() == 1:
        return batch
    ends = [len(batch) * place // world.size() for place in (world.rank(), world.rank() + 1)]
    return batch[slice(*ends)]


def gather_rows(work: Callable[[], Any]) -> Any:
    """The rows of all processes [B, ...]: ``work()`` gives those of this one, or None for none."""
    if (here := world.current()) is None:
        return work()
    mine: list[Any] = []

    def about() -> tuple[Any, Any] | None:
        mine.append(work())
        return None if mine[0] is None else (tuple(mine[0].shape), mine[0].dtype)

    found = together(about)
    shape, dtype = next(each for each in found if each)
    counts = [each[0][0] if each else 0 for each in found]
    sent = torch.zeros(max(counts), *shape[1:], dtype=dtype, device=here.device)
    if mine[0] is not None:
        sent[: len(mine[0])] = mine[0].detach()
    parts = [torch.empty_like(sent) for _ in counts]
    with collective():
        torch.distributed.all_gather(parts, sent)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def add_up(tensors: Sequence[Any]) -> None:
    """Replace each tensor by its sum over all processes, added up in float32 or more."""
    if (here := world.current()) is None:
        return
    for bucket in _buckets(tensors):
        sums = torch.cat([each.reshape(-1).to(here.device) for each in bucket])
        sums = sums if sums.dtype == torch.float64 else sums.float()
        with collective():
            torch.distributed.all_reduce(sums)
        for each, part in zip(bucket, sums.split([each.numel() for each in bucket]), strict=True):
            each.copy_(part.view_as(each))


def _buckets(tensors: Sequence[Any]) -> Iterator[list[Any]]:
    """Tensors of one dtype, as many as make BUCKET numbers, or one."""
    for dtype in dict.fromkeys(each.dtype for each in tensors):
        bucket: list[Any] = []
        for each in tensors:
            if each.dtype != dtype:
                continue
            if bucket and sum(other.numel() for other in bucket) + each.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(each)
        yield bucket


@contextmanager
def collective() -> Iterator[None]:
    """Context of a collective: it fails where another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise MachineFailed(
            f"another process of this run has ended; run the same command again to go on from the last checkpoint "
            f"({str(error).strip().partition(chr(10))[0][:100]})"
        ) from error
