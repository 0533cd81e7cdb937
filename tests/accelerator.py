"""A pretend accelerator: the device ``pretend``, whose tensors hold CPU tensors and refuse what CUDA refuses.

An operation on tensors of two devices raises, unless the tensors of the other device are numbers (0-dim) of the CPU or CPU
indices; so do CPU generators for its tensors, ``.numpy()`` and pinning. Arithmetic is the CPU's, so figures are those of a
CPU to the last digits: what differs is a fault. Once installed it stays the accelerator of its process, so tests use it in
processes of their own: ``python tests/accelerator.py run algorithm=dpo ...`` is the command isoalign on this device.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor, aten._foreach_copy_.default}
FACTORIES = [
    "empty.memory_format", "empty_strided", "_efficientzerotensor",
    "arange", "arange.start", "arange.start_step",  # which else resize an empty tensor below its wrapper
]  # fmt: skip
INDEXED = {
    aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default, aten._unsafe_index_put.default,
}  # fmt: skip
LARGEST = int(os.environ.get("PRETEND_BYTES", "0"))  # of one tensor; a larger one is out of memory


class PretendTensor(Tensor):
    """A tensor of the pretend accelerator, around a tensor of the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> PretendTensor:
        return PretendTensor(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():  # a view of an ordinary tensor must be one itself
            with torch.inference_mode(False), torch.no_grad():
                parts = operation.decompose(*args, **kwargs or {})  # which inference mode leaves whole
                return parts if parts is not NotImplemented else run(operation, args, kwargs or {})
        return run(operation, args, kwargs or {})

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"PretendTensor({self.held})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().__reduce_ex__(protocol)  # a file holds the values and names the device beside them

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy: Tensor = PretendTensor(self.held.clone()).requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copy = torch.nn.Parameter(copy, requires_grad=self.requires_grad)
            memo[id(self)] = copy
        return memo[id(self)]  # type: ignore[no-any-return]

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert pretend:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        self.numpy()

    def pin_memory(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("cannot pin 'PretendTensor': only dense CPU tensors can be pinned")

    def tolist(self) -> Any:
        return self.held.tolist()


def run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation as the accelerator would: check its devices, compute on the CPU, and wrap what comes out."""
    if operation is aten._fused_sdp_choice.default:
        return 0  # plain mathematics
    if operation is aten._has_compatible_shallow_copy_type.default:
        return False
    if operation is aten._pin_memory.default:
        raise RuntimeError("cannot pin a tensor of pretend: only dense CPU tensors can be pinned")
    _check(operation, args, kwargs)
    goal = kwargs.get("device")
    inner_args, inner = pytree.tree_map_only(PretendTensor, lambda each: each.held, (args, kwargs))
    if goal is not None:
        inner["device"] = "cpu"
    out = operation(*inner_args, **inner)
    if goal is not None and torch.device(goal).type != NAME:
        return out
    if LARGEST and any(isinstance(each, Tensor) and each.nbytes > LARGEST for each in pytree.tree_leaves(out)):
        raise torch.OutOfMemoryError(f"{NAME} out of memory")
    return _wrapped(args, kwargs, out)


def _check(operation: Any, args: Any, kwargs: dict[str, Any]) -> None:
    generators = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Generator)]
    if any(each.device.type == "cpu" for each in generators):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    if operation in COPIES:
        return
    checked = (args[0], *args[2:]) if operation in INDEXED else args
    leaves = pytree.tree_leaves((checked, kwargs))
    other = [each for each in leaves if isinstance(each, Tensor) and not isinstance(each, PretendTensor) and each.dim()]
    if other:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! ({operation})"
        )
    if operation in INDEXED and not isinstance(args[0], PretendTensor):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if not operation._schema.is_mutable:
        return
    written = [value for spec, value in zip(operation._schema.arguments, args, strict=False) if spec.is_write]
    if any(isinstance(each, Tensor) and not isinstance(each, PretendTensor) for each in written):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu! ({operation})")


def _wrapped(args: Any, kwargs: dict[str, Any], out: Any) -> Any:
    given = {id(each.held): each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, PretendTensor)}
    plain = {id(each) for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)}

    def wrap(each: Tensor) -> Tensor:
        if id(each) in plain:  # a tensor of the CPU that was written to
            return each
        return given[id(each)] if id(each) in given else PretendTensor(each)

    return pytree.tree_map_only(Tensor, wrap, out)


class Module:
    """What ``torch.pretend`` offers, as a module of a backend does."""

    def __init__(self) -> None:
        self.state = torch.Generator().manual_seed(0).get_state()

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, _: Any) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        self.state = torch.Generator().manual_seed(seed).get_state()

    manual_seed = manual_seed_all

    def get_rng_state(self, *_: Any) -> Tensor:
        return self.state.clone()

    def set_rng_state(self, state: Tensor, *_: Any) -> None:
        self.state = state.clone()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, *_: Any) -> None:
        pass

    def empty_cache(self) -> None:
        pass


def _make(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """A factory's result: no tensor of the device is an argument, from which the device would follow."""
    return run(operation, args, kwargs)


def _copy_from(source: Tensor, target: PretendTensor, non_blocking: bool = False) -> Tensor:
    """What ``torch.tensor(values, device=...)`` ends with, below Python's dispatch."""
    target.held.copy_(source.held if isinstance(source, PretendTensor) else source)
    return target


_library: list[Any] = []


def install() -> torch.device:
    """Register the backend in this process; it can't be unregistered."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = NAME  # for the trainers of transformers and TRL
    if not _library:
        _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
        operations, everything = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
        for name in FACTORIES:
            operation = getattr(getattr(aten, name.partition(".")[0]), name.partition(".")[2] or "default")
            operations.impl(name, functools.partial(_make, operation), "PrivateUse1")
        operations.impl("_copy_from", _copy_from, "PrivateUse1")
        everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # autocast leaves dtypes as they are
        _library.extend([operations, everything])
    return torch.device(NAME)


if __name__ == "__main__":
    from isoalign.core import runtime

    runtime.quiet()
    install()
    from isoalign.cli.main import main

    main()
