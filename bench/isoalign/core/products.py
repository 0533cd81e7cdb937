"""Products of fp32 matrices on AMD's processors with AVX-512, in about half of the time.

PyTorch hands them to MKL, which keeps to AVX2 on processors that are not Intel's; oneDNN, which PyTorch carries too, does not.
Both are exact to float error. Which one computes depends on the machine alone, so reruns give the same numbers.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoalign.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 2**16  # multiplications of a product that is worth the call
FEW = 64  # rows, of products in which laying out the weights takes a good part of the time
PACKED = 2**26  # numbers of weights of which a second copy is worth its memory


@functools.cache
def speed_up() -> bool:
    """Have oneDNN compute this process's fp32 products where it is the faster one. Returns whether it does."""
    if not _is_worth_it():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel of PyTorch's is replaced, which is what is wanted
        library = torch.library.Library("aten", "IMPL")
        library.impl("mm", product, "CPU")
        library.impl("addmm", product_and_sum, "CPU")
    _kept.append(library)
    return True


_kept: list[torch.library.Library] = []  # a library that is freed takes its kernels along


@functools.cache
def _ops() -> Any:
    return importlib.import_module("torch").ops  # which is no module that could be loaded lazily


def _is_worth_it() -> bool:
    """Whether this is an AMD processor with AVX-512 and a PyTorch with oneDNN."""
    if not hasattr(_ops().mkldnn, "_linear_pointwise") or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False


@contextmanager
def packed(module: torch.nn.Module, rows: int) -> Iterator[None]:
    """Context in which oneDNN lays out the weights of a module's linear layers once, for products of ``rows`` rows, instead of
    in each of them. Where that gains little, or the copy would be large, nothing is done.

    A weight that changes meanwhile is read as it is.
    """
    linear = [part.weight for part in module.modules() if isinstance(part, torch.nn.Linear)]
    weights = [w for w in linear if type(w.data) is torch.Tensor and w.dtype == torch.float32 and w.device.type == "cpu"]
    if rows > FEW or sum(weight.numel() for weight in weights) > PACKED or not speed_up():
        yield
        return
    before = dict(_packed)
    for w in weights:
        _packed[w.data_ptr()] = w, w._version, _ops().mkldnn._reorder_linear_weight(w.detach(), rows)
    try:
        yield
    finally:
        _packed.clear()
        _packed.update(before)


_packed: dict[int, tuple[Tensor, int, Tensor]] = {}  # by where a weight lies: it, its version, and its layout for oneDNN


def multiplies_bf16() -> bool:
    """Whether this processor multiplies in bf16; others do it in software, slower than in fp32."""
    abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def product(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] and [K, N] to [M, N]."""
    if _fits(a, b):
        return _by_onednn(a, b, None)
    return _ops().aten.mm.out(a, b, out=a.new_empty(a.shape[0], b.shape[1]))  # type: ignore[no-any-return]


def product_and_sum(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * c + alpha * (a @ b), where c may be any shape that expands to [M, N]."""
    if _fits(a, b) and alpha == beta == 1 and c.dtype == a.dtype and c.shape == b.shape[1:] and c.is_contiguous():
        return _by_onednn(a, b, c)
    return _ops().aten.addmm.out(c, a, b, beta=beta, alpha=alpha, out=a.new_empty(a.shape[0], b.shape[1]))  # type: ignore[no-any-return]


def _by_onednn(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    weight = b.t()
    own, version, laid_out = _packed.get(b.data_ptr(), (None, 0, weight)) if _packed else (None, 0, weight)
    if own is not None and own._version == version and own.shape == weight.shape and own.stride() == weight.stride():
        weight = laid_out
    return _ops().mkldnn._linear_pointwise(a, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def _fits(a: Tensor, b: Tensor) -> bool:
    """Whether both are fp32 matrices of plain layout that fit together and are large enough."""
    return (
        a.dtype == b.dtype == torch.float32
        and a.dim() == b.dim() == 2
        and a.shape[1] == b.shape[0]
        and a.shape[0] * a.shape[1] * b.shape[1] >= LEAST
        and _is_plain(b)
    )


def _is_plain(matrix: Tensor) -> bool:
    """Whether rows or columns lie in memory one after the other, without overlap."""
    (rows, columns), (down, along) = matrix.shape, matrix.stride()
    return (along == 1 and down >= columns) or (down == 1 and along >= rows)
