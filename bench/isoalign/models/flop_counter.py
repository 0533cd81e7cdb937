"""Counted FLOPs: PyTorch's formulas on the operations that a pass runs. The bill of ``flops.py`` is checked with them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter as counter
from torch.utils._python_dispatch import TorchDispatchMode


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(counter.sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(counter.sdpa_backward_flop_count(grad, query, key, value))


def _products(first: Any, second: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(first)


def _grouped(first: Any, second: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Rows that are sorted by expert, each multiplied by the matrix of its own one; the gradients have the same formula."""
    return 2 * math.prod(first) * int(second[-1])


def _grouped_backward(first: Any, second: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * _grouped(first, second)


def _convolution_backward(
    grad: Any, inputs: Any, weight: Any, _bias: Any, _stride: Any, _padding: Any, _dilation: Any, transposed: bool,
    _output_padding: Any, _groups: int, mask: Any, out_shape: Any = None, **__: Any,
) -> int:  # fmt: skip
    """The forward pass once for the input's gradient and once for the weight's, of which PyTorch's formula forgets groups."""
    forward = counter.conv_flop_count(inputs, weight, grad, transposed=transposed)
    return int(forward * (mask[0] + mask[1]))


GROUPED = torch.ops.aten._grouped_mm

# Formulas on shapes that PyTorch's counter lacks: attention on a CPU, products with a vector, in-place products, those of
# mixtures of experts, and convolutions by groups.
MISSING: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.mv: _products,
    torch.ops.aten.dot: _products,
    GROUPED: _grouped,
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.aten.addmm_: counter.addmm_flop.__wrapped__,  # type: ignore[attr-defined]  # unwrapped, as the others
    torch.ops.aten.baddbmm_: counter.baddbmm_flop.__wrapped__,  # type: ignore[attr-defined]
}
_FORMULAS = counter.flop_registry | {operation: counter.shape_wrapper(formula) for operation, formula in MISSING.items()}
# Those of transformers for a GPU that has no grouped product, by name, because they are there only once it is imported.
_OF_TRANSFORMERS = {
    "transformers.grouped_mm_fallback": counter.shape_wrapper(_grouped),
    "transformers.grouped_mm_fallback_backward": counter.shape_wrapper(_grouped_backward),
}
UNSEEN = (nn.RNNBase, nn.Bilinear)  # use operations without a formula


@functools.cache
def _formula(operation: Any) -> Callable[..., int] | None:
    return _FORMULAS.get(operation) or _OF_TRANSFORMERS.get(str(operation))


class Counter(TorchDispatchMode):
    """Context that counts FLOPs by PyTorch's formulas, at a hundredth of the overhead of PyTorch's counter."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count its FLOPs."""
        if torch.is_inference_mode_enabled():  # autograd, which is off, would have taken a linear layer apart
            with self:
                if (out := func.decompose(*args, **(kwargs or {}))) is not NotImplemented:
                    return out
        out = func(*args, **(kwargs or {}))
        if (formula := _formula(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


class DryRun(Counter):
    """Counts a pass on the meta device, where tensors have shapes and no values, so that nothing is computed.

    What a model asks of values is answered with zeros: conditions are false, and no element is nonzero.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the operation's FLOPs without running it."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_empty((0, args[0].dim()), dtype=torch.long)
        if func is GROUPED.default:  # on meta tensors it takes bfloat16 alone
            first, second = args[:2]
            self.flops += _grouped(first.shape, second.shape)
            return first.new_empty((*second.shape[:-2] * (first.dim() - 2), first.shape[-2], second.shape[-1]))
        return super().__torch_dispatch__(func, types, args, kwargs)
