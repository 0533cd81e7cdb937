"""Work on a batch in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from isoalign.core.batches import Batch
from isoalign.core.errors import UserError

B = TypeVar("B", bound=Batch)
T = TypeVar("T")


def by_rows(work: Callable[[B], T], batch: B, rows: int) -> list[T]:
    """The results of ``work`` on the batch, ``rows`` rows at a time.

    When memory runs out, the part is tried again with half of the rows. Raises UserError when one row does not fit.
    """
    results: list[T] = []
    start = 0
    while start < len(batch):
        try:
            results.append(work(batch[slice(start, start + rows)]))
        except torch.OutOfMemoryError as error:
            if rows == 1:
                raise out_of_memory() from error
            rows = max(1, min(rows, len(batch) - start) // 2)
            continue
        start += rows
    return results


def out_of_memory() -> UserError:
    """The error when a single row does not fit into the memory of the device."""
    return UserError(
        "the device has too little memory for one row; set task.training.gradient_checkpointing=true, "
        "task.model.dtype=bfloat16 or task.model.lora=16, lower task.model.prompt_tokens or task.model.new_tokens, or choose "
        "a smaller task.model.name"
    )
