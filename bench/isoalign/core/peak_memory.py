"""The memory that work on tensors takes at its peak, counted by storages: exact, also for fake tensors, which have no data."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

GIB = 2**30
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}
_ZERO = {torch.bool: False, torch.int32: 0, torch.int64: 0}  # any other type is read as a float


class PeakMemory(TorchDispatchMode):
    """Context that counts the bytes of every storage that is made in it, for as long as it lives.

    ``current`` and ``peak`` are bytes. What was there before, such as weights, is not counted; buffers inside an operation
    and copies of weights that oneDNN lays out for sampling are not seen. It works on tensors of any device. Within
    ``FakeTensorMode`` no memory is taken, a number read from a tensor is 0, and a mask that chooses entries is true
    everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count the storages that it makes."""
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return _ZERO.get(args[0].dtype, 0.0)
        if func in _INDEXED and isinstance(args[0], FakeTensor):
            args = (args[0], [each for index in args[1] for each in _places(index)], *args[2:])
        for storage in _storages((args, kwargs)):
            self._known[storage] = True  # a view of it takes no memory
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage not in self._known:
                self._known[storage] = True
                self.current += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.current)
        return out

    def _free(self, size: int) -> None:
        self.current -= size


def _places(index: torch.Tensor | None) -> list[torch.Tensor | None]:
    """An index; for a mask, as many indices as it has dimensions."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.zeros(index.numel(), dtype=torch.long) for _ in index.shape]


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    """The storages of all tensors in nested containers; weights in a layout of oneDNN's own have none."""
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    return (tensor.untyped_storage() for tensor in tensors if not tensor.is_mkldnn)
