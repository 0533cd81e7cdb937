"""One pass of the policy over all completions of a step, such as the two of each pair, where they continue one prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from isoalign.core.batches import Batch, Rollouts
from isoalign.models.language import LanguageModel
from isoalign.models.passes import Outputs


class JointPass:
    """Knows of a step, from its quote, which columns its loss reads with gradients; the first that is read then brings the
    others, each of them once."""

    def __init__(self) -> None:
        self._columns = dict[str, Rollouts]()
        self._asked = list[str]()
        self._read, self._begun = dict[str, Outputs](), set[str]()

    @contextmanager
    def quoting(self, batch: Batch) -> Iterator[None]:
        """Context in which the loss is called on the whole batch for its cost."""
        self._asked.clear()
        with self.over(batch):
            yield

    @contextmanager
    def over(self, rows: Batch) -> Iterator[None]:
        """Context in which the loss is called on rows of the batch."""
        self._columns = dict(_columns(rows, ""))
        try:
            yield
        finally:
            self._columns, self._read, self._begun = {}, {}, set()

    def ask(self, rollouts: Rollouts) -> None:
        """Note that the loss reads the completions with gradients."""
        self._asked.extend(name for name in self._names(rollouts) if name not in self._asked)

    def outputs(self, model: LanguageModel, rollouts: Rollouts) -> Outputs:
        """The model on the completions, with gradients."""
        name = next(iter(self._names(rollouts)), "")
        if name in self._read:
            return self._read.pop(name)
        others = self._others(name, rollouts) if name in self._asked and model.shares_prompts else []
        own, *rest = model.read_together([rollouts, *(self._columns[other] for other in others)])
        self._begun.update([name, *others])
        self._read.update(zip(others, rest, strict=True))
        return own

    def _others(self, name: str, rollouts: Rollouts) -> list[str]:
        """The columns that the loss will read too, of the same prompts; none where this one was read before."""
        if name in self._begun:
            return []
        others = (other for other in self._asked if other != name and other not in self._begun)
        return [other for other in others if _continue_one(self._columns[other], rollouts)]

    def _names(self, rollouts: Rollouts) -> Iterator[str]:
        return (name for name, column in self._columns.items() if column is rollouts)


def _columns(batch: Batch, owner: str) -> Iterator[tuple[str, Rollouts]]:
    """Name and value of each column of completions, of batches within too."""
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Rollouts):
            yield owner + field.name, value
        elif isinstance(value, Batch):
            yield from _columns(value, f"{owner}{field.name}.")


def _continue_one(first: Rollouts, second: Rollouts) -> bool:
    """Whether the completions of each row continue the same prompt."""
    length = first.prompt_length
    return length == second.prompt_length and all(
        torch.equal(a[:, :length], b[:, :length]) for a, b in ((first.tokens, second.tokens), (first.mask, second.mask))
    )
