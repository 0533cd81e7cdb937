"""What algorithms train on: batches of tensors, all frozen. Shapes: B rows, P prompt columns, T completion columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Number
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad as constant_pad

from isoalign.core.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Rows of tensors. Indexing takes the same rows of every column, so any batch can be cut into micro-batches."""

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return self._map(lambda column: column[rows])

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return self._map(lambda column: column.to(device))

    def __len__(self) -> int:
        for column in self._columns():
            return len(column)
        raise TypeError(f"{type(self).__name__} has no column")

    def lengths(self) -> Tensor | None:
        """Real tokens of each row [B], of all its texts together; None without texts."""
        parts = [column.lengths() for column in self._columns() if isinstance(column, Batch)]
        counts = [part for part in parts if part is not None]
        return torch.stack(counts).sum(0) if counts else None

    def _columns(self) -> list[Any]:
        values = [getattr(self, f.name) for f in dataclasses.fields(self)]
        return [value for value in values if isinstance(value, Tensor | Batch)]

    def _map(self, change: Callable[[Any], Any]) -> Self:
        columns = {
            f.name: value._map(change) if isinstance(value := getattr(self, f.name), Batch) else change(value)
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), Tensor | Batch)
        }
        return dataclasses.replace(self, **columns)


@dataclass(frozen=True)
class Prompts(Batch):
    """Left-padded prompts: ``tokens`` [B, P], ``mask`` [B, P] true on real tokens, ``index`` [B] place in the split."""

    tokens: Tensor
    mask: Tensor
    index: Tensor

    def lengths(self) -> Tensor:
        """Real tokens of each row [B]."""
        return self.mask.sum(1)


@dataclass(frozen=True)
class Rollouts(Batch):
    """Prompts with completions: left-padded prompt, then a right-padded completion.

    ``tokens`` [B, P + T]; ``mask`` [B, P + T] true on real tokens (prompt and completion, an ending EOS included);
    ``prompt_length`` is P, the same for all rows.
    """

    tokens: Tensor
    mask: Tensor
    prompt_length: int

    def lengths(self) -> Tensor:
        """Real tokens of each row [B], of prompt and completion."""
        return self.mask.sum(1)

    @property
    def completion(self) -> Tensor:
        """Completion tokens [B, T]."""
        return self.tokens[:, self.prompt_length :]

    @property
    def completion_mask(self) -> Tensor:
        """True on real completion tokens [B, T]."""
        return self.mask[:, self.prompt_length :]

    def trimmed(self) -> Rollouts:
        """The same rollouts without the outer columns that are padding in every row; a column of each part stays."""
        used = self.mask.any(0).long()
        before, after = int(used.argmax()), int(used.flip(0).argmax())
        columns = slice(min(before, self.prompt_length - 1), max(len(used) - after, self.prompt_length + 1))
        return Rollouts(self.tokens[:, columns], self.mask[:, columns], self.prompt_length - columns.start)


@dataclass(frozen=True)
class Pairs(Batch):
    """Two completions of each prompt, the first preferred. ``index`` [B] names the verdict."""

    chosen: Rollouts
    rejected: Rollouts
    index: Tensor


@dataclass(frozen=True)
class Labels(Batch):
    """Single completions called good or bad. ``desirable`` [B] bool; ``index`` [B] names the verdict."""

    rollouts: Rollouts
    desirable: Tensor
    index: Tensor


@dataclass(frozen=True)
class Step:
    """One optimizer step: ``loss(lab, rows)`` gives one value a row [B] for any rows of ``batch``; the harness averages."""

    batch: Batch
    loss: Callable[[Any, Any], Tensor]


def check_columns(batch: Batch) -> None:
    """Raises UserError for a field that stays whole where a batch is cut by rows, and for columns of unequal length."""
    first, *others = _columns_of(batch, "")
    for name, rows in others:
        if rows != first[1]:
            raise UserError(
                f"iteration(lab) yielded a Step whose batch has {first[1]} rows in {first[0]} and {rows} in {name}; each row "
                "needs its own in every column"
            )


def _columns_of(batch: Batch, owner: str) -> Iterator[tuple[str, int]]:
    """Name and length of each column, of batches within too."""
    for field in dataclasses.fields(batch):
        name, value = owner + field.name, getattr(batch, field.name)
        if hasattr(Batch, field.name):
            raise UserError(f"a batch has a field {name}, but {field.name} is a method of every Batch; give it another name")
        if isinstance(value, Batch):
            yield from _columns_of(value, f"{name}.")
        elif isinstance(value, Tensor) and value.dim():
            yield name, len(value)
        elif value is not None and not isinstance(value, Number | str):
            what = "tensor without rows" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"iteration(lab) yielded a Step whose batch has a field {name} of type {what}, which is not cut by rows; make "
                "it a tensor [B] or a Batch"
            )


def joined(parts: list[Rollouts], pad: int) -> Rollouts:
    """Rollouts as one batch, prompts padded on the left and completions on the right to the longest."""
    prompt, completion = (max(each) for each in zip(*((p.prompt_length, p.completion.shape[1]) for p in parts), strict=True))
    sides = [(prompt - part.prompt_length, completion - part.completion.shape[1]) for part in parts]
    tokens = [constant_pad(part.tokens, side, value=pad) for part, side in zip(parts, sides, strict=True)]
    masks = [constant_pad(part.mask, side, value=False) for part, side in zip(parts, sides, strict=True)]
    return Rollouts(torch.cat(tokens), torch.cat(masks), prompt)


def prompt_lengths(rollouts: Rollouts) -> list[int]:
    """Number of prompt tokens of each row, without padding."""
    return rollouts.mask[:, : rollouts.prompt_length].sum(1).tolist()


def completion_lengths(rollouts: Rollouts) -> list[int]:
    """Number of completion tokens of each row, without padding."""
    return rollouts.completion_mask.sum(1).tolist()
