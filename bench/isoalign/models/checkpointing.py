"""Gradient checkpointing: the layers of a model recompute their activations in the backward pass instead of keeping them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers


def checkpoint_layers(model: nn.Module) -> None:
    """Checkpoint every layer of a model of transformers, in passes with gradients only.

    transformers' own switch works in training mode only, which also turns dropout on, and drops the cache of a sampling
    pass. A layer gets a subclass of its class, so copies of the model are checkpointed too. Raises UserError for an
    architecture without layers that can be checkpointed.
    """
    layers = [part for part in model.modules() if isinstance(part, transformers.modeling_layers.GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"{type(model).__name__} has no layers that can be checkpointed; set task.training.gradient_checkpointing=false"
        )
    for layer in layers:
        layer.__class__ = _checkpointed(type(layer))  # type: ignore[arg-type]


def is_checkpointed(model: nn.Module) -> bool:
    """Whether layers of a model are checkpointed."""
    return any(getattr(part, "recomputed", False) for part in model.modules())


@functools.cache
def _checkpointed(kind: Any) -> type:
    def call(layer: Any, *arguments: Any, **named: Any) -> Any:
        run = functools.partial(kind.__call__, layer)
        if torch.is_grad_enabled():
            return checkpoint(run, *arguments, use_reentrant=False, **named)
        return run(*arguments, **named)

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__, "recomputed": True})
