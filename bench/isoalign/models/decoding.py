"""Decoding with a cache: a prompt is read once for all of its completions, then each token as it is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isoalign.core.batches import Batch, Prompts, Rollouts
from isoalign.models.passes import Body, Predict


@dataclass(frozen=True)
class Draws(Batch):
    """Prompts with the random numbers of their completions: ``uniforms`` [B, K, T]."""

    prompts: Prompts
    uniforms: Tensor


class Decoder:
    """Completions in the making, ``repeats`` of each prompt and of at most ``steps`` tokens. ``logits`` [B, V]: of each next
    token."""

    def __init__(self, body: Body, predict: Predict, prompts: Prompts, repeats: int, steps: int) -> None:
        self._body, self._predict, self._cache = body, predict, body.cache()
        self._length, device = prompts.tokens.shape[1], prompts.tokens.device
        owner = torch.arange(len(prompts), device=device).repeat_interleave(repeats)
        self._tokens, self._chosen = prompts.tokens[owner], list[Tensor]()
        self._mask = torch.cat([prompts.mask[owner], torch.zeros(len(owner), steps, dtype=torch.bool, device=device)], 1)
        states = body(prompts.tokens, prompts.mask, self._cache)[:, -1:]
        self._cache.reorder_cache(owner)
        self.logits = predict(states)[owner, -1]

    def append(self, tokens: Tensor, real: Tensor) -> None:
        """Add a token [B] to each completion; where ``real`` [B] is false it is padding."""
        self._mask[:, self._length + len(self._chosen)] = real
        self._chosen.append(tokens)

    def advance(self) -> None:
        """Read the last tokens."""
        mask = self._mask[:, : self._length + len(self._chosen)]
        self.logits = self._predict(self._body(self._chosen[-1].unsqueeze(1), mask, self._cache))[:, -1]

    def rollouts(self) -> Rollouts:
        """The prompts with the completions, as wide as the longest of them."""
        width = self._length + int(self._mask[:, self._length :].sum(1).max())
        tokens = torch.cat([self._tokens, torch.stack(self._chosen, 1)], 1)
        return Rollouts(tokens[:, :width], self._mask[:, :width], self._length)


def sample_tokens(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF choice: logits [B, V] and uniforms [B] to tokens [B]."""
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniforms.to(cumulative.dtype).unsqueeze(-1) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return token.clamp(max=logits.shape[-1] - 1)
