"""One pass of a model over all completions of a step, such as the two of each pair, where they continue one prompt."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from isoalign.core.batches import Batch, Rollouts
from isoalign.models.passes import Outputs

Read = Callable[[Sequence[Rollouts]], list[Outputs]]
"""Reads several rollouts at once."""


class JointPass:
    """Knows of a step, from its quote, which columns its loss reads, by the model (with or without gradients) that reads them.
    The first that is read then brings the others, each of them once.

    Policy and reference read the same columns together, so that a log-ratio of equal models is exactly 0.
    """

    def __init__(self) -> None:
        self._columns = dict[str, Rollouts]()
        self._asked = defaultdict[str, list[str]](list)
        self._read, self._begun = dict[tuple[str, str], Outputs](), set[tuple[str, str]]()

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

    def ask(self, model: str, rollouts: Rollouts) -> None:
        """Note that the loss has a model read the completions."""
        name = self._name(rollouts)
        if name and name not in self._asked[_key(model)]:
            self._asked[_key(model)].append(name)

    def outputs(self, model: str, read: Read, rollouts: Rollouts) -> Outputs:
        """What the model makes of the completions; ``read`` makes its passes."""
        key, name = _key(model), self._name(rollouts)
        if (key, name) in self._read:
            return self._read.pop((key, name))
        others = self._others(key, name, rollouts)
        own, *rest = read([rollouts, *(self._columns[other] for other in others)])
        self._begun.update((key, each) for each in (name, *others))
        self._read.update(((key, other), outputs) for other, outputs in zip(others, rest, strict=True))
        return own

    def _others(self, key: str, name: str, rollouts: Rollouts) -> list[str]:
        """The columns that the model will read too, of the same prompts; none where this one was read before."""
        if name not in self._asked[key] or (key, name) in self._begun:
            return []
        others = (each for each in self._asked[key] if each != name and (key, each) not in self._begun)
        return [each for each in others if each in self._columns and _belong(self._columns[each], rollouts)]

    def _name(self, rollouts: Rollouts) -> str:
        return next((name for name, column in self._columns.items() if column is rollouts), "")


def _key(model: str) -> str:
    return model if torch.is_grad_enabled() or model != "policy" else "policy without gradients"


def _columns(batch: Batch, owner: str) -> Iterator[tuple[str, Rollouts]]:
    """Name and value of each column of completions, of batches within too."""
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Rollouts):
            yield owner + field.name, value
        elif isinstance(value, Batch):
            yield from _columns(value, f"{owner}{field.name}.")


def _belong(first: Rollouts, second: Rollouts) -> bool:
    """Whether the completions of each row continue the same prompt, and reading it once saves more columns than are added to
    the shorter ones."""
    length = first.prompt_length
    if length != second.prompt_length or not all(
        torch.equal(a[:, :length], b[:, :length]) for a, b in ((first.tokens, second.tokens), (first.mask, second.mask))
    ):
        return False
    columns = [part.trimmed() for part in (first, second)]
    added = abs(columns[0].completion.shape[1] - columns[1].completion.shape[1])
    return added < columns[0].prompt_length
