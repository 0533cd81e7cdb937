"""Passes over several completions of one prompt, which read the prompt once, as decoding does."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isoalign.core.batches import Rollouts
from isoalign.core.lazy import transformers
from isoalign.models.checkpointing import is_checkpointed
from isoalign.models.passes import Body, padded_states

EXACT, NEAR = 1e-3, 0.05  # of a gradient's norm: what fp32 may lose, and what bf16 or tf32 may


def read_states(body: Body, rollouts: Rollouts) -> Tensor:
    """The state that predicts each token of the completions [B, T, D], as ``body.read`` gives it. With gradients, only for a
    body that `differentiates` its cache."""
    columns = rollouts.completion.shape[1]
    trimmed = rollouts.trimmed()
    last = trimmed.tokens.shape[1] - 1
    states = _continued(body, Rollouts(trimmed.tokens[:, :last], trimmed.mask[:, :last], trimmed.prompt_length))
    return body.read(rollouts) if states is None else padded_states(states, columns)


def read_ends(body: Body, rollouts: Rollouts) -> Tensor | None:
    """The state of the last token of each row [B, D]; None where reading prompts once saves little or can't be done. With
    gradients, only for a body that `differentiates` its cache."""
    states = _continued(body, rollouts)
    if states is None:
        return None
    return states[torch.arange(len(rollouts), device=states.device), rollouts.completion_mask.sum(1)]


def differentiates(body: Body, embedding: nn.Module, precision: str = "float32") -> bool:
    """Whether gradients pass through the body's cache as they do through whole rows, by two rows of one prompt, in the
    ``precision`` of its passes. Some architectures detach what they keep, or write into it."""
    if is_checkpointed(body.module) or _empty_cache(body) is None:  # a layer that is recomputed would write into it again
        return False
    tokens = torch.arange(14, device=next(embedding.parameters()).device).view(2, 7)
    tokens[1, :4] = tokens[0, :4]
    rows = Rollouts(tokens, torch.ones_like(tokens, dtype=torch.bool), 4)
    try:
        shared = _prompt_gradient(lambda: _continued(body, rows), embedding)
        if shared is None:  # its mask has no numbers, as of fake tensors
            return False
        whole = _prompt_gradient(lambda: body(rows.tokens, rows.mask)[:, 3:], embedding)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of autograd
        return False
    assert whole is not None
    near = EXACT if precision == "float32" and whole.dtype == torch.float32 else NEAR
    size = float(whole.float().norm())
    return 0 < size < math.inf and float((whole - shared).float().norm()) <= near * size


def _prompt_gradient(read: Callable[[], Any], embedding: nn.Module) -> Tensor | None:
    """The gradient of a fixed sum of the states after the first one, which ``read()`` gives of two rows, with respect to the
    embeddings of their prompt of four tokens, together [4, D]; None without states."""
    found: list[Tensor] = []

    def keep(*call: Any) -> Tensor:
        found.append(call[2].detach().requires_grad_())
        return found[-1].clone()  # which may be written in place

    hook = embedding.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            states = read()
            if states is None:
                return None
            states = states[:, 1:].float()
            weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(states.device)
            return torch.autograd.grad((states * weights).sum(), found[0])[0][:, :4].sum(0)
    finally:
        hook.remove()


def _continued(body: Body, rollouts: Rollouts) -> Tensor | None:
    """The states of each prompt's last token and of the tokens after it [B, 1 + T, D], each distinct prompt read once.

    None where that saves little, where a prompt is empty, and where the cache holds more than keys and values of all tokens.
    """
    length = rollouts.prompt_length
    tokens, mask = rollouts.tokens[:, :length], rollouts.mask[:, :length]
    if rollouts.tokens.shape[1] == length or not mask[:, -1].all():
        return None
    distinct, owner = tokens.masked_fill(~mask, -1).unique(dim=0, return_inverse=True)
    cache = _empty_cache(body) if 2 * len(distinct) <= len(rollouts) else None
    if cache is None:
        return None
    real = distinct >= 0
    first = body(distinct.clamp(min=0), real, cache)[:, -1:]
    cache.reorder_cache(owner)
    rest = body(rollouts.tokens[:, length:], rollouts.mask, cache)
    return torch.cat([first[owner], rest], 1)


def _empty_cache(body: Body) -> Any:
    """An empty cache of keys and values alone; None for an architecture that keeps windows or states of a recurrence, which
    read several tokens after a prompt in other ways, or none at all."""
    if "past_key_values" not in inspect.signature(body.module.forward).parameters:
        return None
    config: Any = body.module.config
    cache = transformers.DynamicCache(config=config)
    return cache if all(type(layer) is transformers.cache_utils.DynamicLayer for layer in cache.layers) else None
