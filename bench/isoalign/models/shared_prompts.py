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
BY_LENGTH = ("longrope", "dynamic")


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
    ``precision`` of its passes. Some architectures detach what they keep, or write into it; never where dropout may be on, as
    each row has masks of its own."""
    if body.module.training or is_checkpointed(body.module):  # a layer that is recomputed would write into the cache again
        return False
    if _empty_cache(body) is None:
        return False
    zeros = torch.zeros(2, 7, dtype=torch.long, device=next(embedding.parameters()).device)
    rows = Rollouts(zeros, zeros == 0, 4)  # the embeddings are random
    try:
        shared = _prompt_gradient(lambda: _continued(body, rows), embedding)
        if shared is None:  # its mask has no numbers, as of fake tensors
            return False
        whole = _prompt_gradient(lambda: body(rows.tokens, rows.mask)[:, 3:], embedding)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError):  # of autograd, or of a model that reads fewer tokens
        return False
    assert whole is not None
    near = EXACT if precision == "float32" and whole.dtype == torch.float32 else NEAR
    size = float(whole.float().norm())
    return 0 < size < math.inf and float((whole - shared).float().norm()) <= near * size


def _prompt_gradient(read: Callable[[], Any], embedding: nn.Module) -> Tensor | None:
    """The gradient of a fixed sum of the states after the first one, which ``read()`` gives of two rows, with respect to the
    embeddings of their prompt of four tokens, together [4, D]; None without states. Embeddings are random numbers: those of a
    padding token may be 0."""
    generator, found, begun = torch.Generator().manual_seed(0), list[Tensor](), 0

    def replaced(*call: Any) -> Tensor:
        nonlocal begun
        given: Tensor = call[2].detach()
        size = float(given.float().std(correction=0)) or 1.0
        texts = size * torch.randn(2, 7, given.shape[-1], generator=generator.manual_seed(0))
        texts[1, :4] = texts[0, :4]
        found.append(texts[: len(given), begun : begun + given.shape[1]].to(given).requires_grad_())
        begun += given.shape[1]
        return found[-1].clone()  # which may be written in place

    hook = embedding.register_forward_hook(replaced)
    try:
        with torch.enable_grad():
            states = read()
            if states is None:
                return None
            states = states[:, 1:].float()
            weights = torch.randn(states.shape, generator=generator.manual_seed(1)).to(states.device)
            return torch.autograd.grad((states * weights).sum(), found[0])[0][:, :4].sum(0)
    finally:
        hook.remove()


def _continued(body: Body, rollouts: Rollouts) -> Tensor | None:
    """The states of each prompt's last token and of the tokens after it [B, 1 + T, D], each distinct prompt read once.

    None where that saves little, where a prompt is empty, and where the cache holds more than keys and values of all tokens.
    """
    length = rollouts.prompt_length
    tokens, mask = rollouts.tokens[:, :length], rollouts.mask[:, :length]
    if rollouts.tokens.shape[1] <= length or not mask[:, -1].all():
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
    read several tokens after a prompt in other ways, or none at all, and where keys are turned by the length of the pass."""
    if "past_key_values" not in inspect.signature(body.module.forward).parameters or _turns_by_length(body.module):
        return None
    config: Any = body.module.config
    cache = transformers.DynamicCache(config=config)
    return cache if all(type(layer) is transformers.cache_utils.DynamicLayer for layer in cache.layers) else None


def _turns_by_length(module: nn.Module) -> bool:
    """Whether rotary embeddings of a model depend on how long a text is: a prompt alone gets other keys than in whole rows."""
    kinds = [getattr(part, "rope_type", "") for part in module.modules()]
    return any(kind in BY_LENGTH for each in kinds for kind in (each.values() if isinstance(each, dict) else [each]))
