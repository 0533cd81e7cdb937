"""Passes over several completions of one prompt, which read the prompt once, as decoding does."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from isoalign.core.batches import Rollouts
from isoalign.core.lazy import transformers
from isoalign.models.passes import Body


@torch.no_grad()
def read_states(body: Body, rollouts: Rollouts) -> Tensor:
    """The state that predicts each token of the completions [B, T, D], as ``body.read`` gives it, without gradients."""
    last = rollouts.tokens.shape[1] - 1
    states = _continued(body, Rollouts(rollouts.tokens[:, :last], rollouts.mask[:, :last], rollouts.prompt_length))
    return body.read(rollouts) if states is None else states


@torch.no_grad()
def read_ends(body: Body, rollouts: Rollouts) -> Tensor | None:
    """The state of the last token of each row [B, D]; None where reading prompts once saves little or can't be done."""
    states = _continued(body, rollouts)
    if states is None:
        return None
    return states[torch.arange(len(rollouts), device=states.device), rollouts.completion_mask.sum(1)]


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
