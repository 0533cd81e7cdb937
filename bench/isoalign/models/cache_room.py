"""Room in a cache of keys and values: a new token is written behind the old ones, where transformers copies them all."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from isoalign.core.lazy import transformers


def make_room(cache: Any, steps: int) -> Any:
    """The cache, whose attention layers reserve room for ``steps`` tokens after the prompt. Layers of other kinds, such as
    states of a recurrence or quantised ones, stay as they are."""
    kinds = transformers.cache_utils
    for layer in cache.layers:
        if type(layer) in (kinds.DynamicLayer, kinds.DynamicSlidingWindowLayer):
            layer.update = _Update(layer, steps)
    return cache


class _Update:
    """``update`` of a layer: what transformers' own gives, without the copy of what is there. Not for gradients.

    It does not own the layer, which owns it: the memory of a circle stays until Python looks for circles."""

    def __init__(self, layer: Any, steps: int) -> None:
        self._layer, self._own = weakref.ref(layer), type(layer).update
        self._keys, self._values = _Room(steps), _Room(steps)
        self._kept = slice(1 - window if (window := getattr(layer, "sliding_window", 0)) else None, None)

    def __call__(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        layer: Any = self._layer()
        if not layer.is_initialized or torch.is_grad_enabled():
            return self._own(layer, keys, values)  # type: ignore[no-any-return]
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length += keys.shape[-2]
        keys, layer.keys = self._keys.append(layer.keys, keys, self._kept)
        values, layer.values = self._values.append(layer.values, values, self._kept)
        return keys, values


class _Room:
    """A buffer with room for ``steps`` tokens after what it was made for; made anew where that was changed or is full."""

    def __init__(self, steps: int) -> None:
        self._steps, self._buffer, self._kept, self._end = steps, torch.empty(0), torch.empty(0), 0

    def append(self, old: Tensor, new: Tensor, kept: slice) -> tuple[Tensor, Tensor]:
        """Both in one [B, H, n, D], and those of its tokens that are ``kept``, which come back as the next ``old``."""
        before, count = old.shape[-2], new.shape[-2]
        if old is not self._kept or self._end + count > self._buffer.shape[-2]:
            self._buffer = old.new_empty(*old.shape[:-2], before + max(count, self._steps), old.shape[-1])
            self._buffer[..., :before, :] = old
            self._end = before
        self._buffer[..., self._end : self._end + count, :] = new
        self._end += count
        whole = self._buffer[..., self._end - before - count : self._end, :]
        self._kept = whole[..., kept, :]
        return whole, self._kept
