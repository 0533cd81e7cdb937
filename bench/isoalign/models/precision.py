"""The precision of passes, and of weights that only autocast reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context of a pass on a device: ``float32``, ``tf32`` (of products, where the device has it) or ``bfloat16``
    (autocast)."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return _tf32() if precision == "tf32" else nullcontext()


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
