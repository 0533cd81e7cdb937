"""The precision of passes, and of weights that only autocast reads."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

VERSION = 2  # of what bf16 passes compute on a processor
SHORT = 256  # tokens of texts whose attention a processor computes faster in fp32, its backward pass in a third of the time


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context of a pass on a device: ``float32``, ``tf32`` (of products, where the device has it) or ``bfloat16``
    (autocast; on a processor, attention over short texts stays in fp32)."""
    if precision == "bfloat16":
        if device.type == "cpu":
            _register_attention()
        return torch.autocast(device.type, torch.bfloat16)
    return _tf32() if precision == "tf32" else nullcontext()


def precision_recipe(precision: str) -> dict[str, Any]:
    """What keys have of the precision of passes; nothing of float32."""
    if precision == "float32":
        return {}
    return {"precision": precision} | ({"autocast": VERSION} if precision == "bfloat16" else {})


@functools.cache
def _register_attention() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel of PyTorch's is replaced, which is what is wanted
        library = torch.library.Library("aten", "IMPL")
        library.impl("scaled_dot_product_attention", _attention, "AutocastCPU")
    _kept.append(library)


_kept: list[torch.library.Library] = []  # a library that is freed takes its kernels along


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **named: Any) -> Tensor:
    kind = torch.float32 if key.shape[-2] <= SHORT else torch.get_autocast_dtype("cpu")
    mask = attn_mask if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask.to(kind)
    with torch.autocast("cpu", enabled=False):
        return scaled_dot_product_attention(query.to(kind), key.to(kind), value.to(kind), mask, *rest, **named)


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cast_frozen_weights(model: nn.Module) -> None:
    """Cast the frozen weights of linear layers to bf16 once: autocast, which multiplies in bf16, would do it in every pass."""
    for part in model.modules():
        if isinstance(part, nn.Linear):
            for name, parameter in list(part.named_parameters(recurse=False)):
                if not parameter.requires_grad:  # a new parameter, as embeddings may share the old one
                    setattr(part, name, nn.Parameter(parameter.bfloat16(), requires_grad=False))
