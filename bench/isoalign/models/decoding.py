"""Decoding with a cache: a prompt is read once for all of its completions, then each token as it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as constant_pad

from isoalign.core.batches import Batch, Prompts, Rollouts, joined
from isoalign.models.passes import Body, Predict

GREEDY = -1.0  # in place of all random numbers: the likeliest tokens
CROWDED = 0.75  # completions leave once no more than this share is unfinished: leaving copies the cache


@dataclass(frozen=True)
class Draws(Batch):
    """Prompts with the random numbers of their completions: ``uniforms`` [B, K, T]."""

    prompts: Prompts
    uniforms: Tensor


@dataclass(frozen=True)
class Sampled(Batch):
    """Completions with the states that predicted their tokens [B, T, D]."""

    rollouts: Rollouts
    states: Tensor


def joined_samples(parts: list[Sampled], pad: int) -> Sampled:
    """Samples of prompts of one width as one batch, as wide as the longest completion."""
    rollouts = joined([part.rollouts for part in parts], pad)
    width = rollouts.completion.shape[1]
    states = [constant_pad(part.states, (0, 0, 0, width - part.states.shape[1])) for part in parts]
    return Sampled(rollouts, torch.cat(states))


class Decoder:
    """Completions in the making, ``repeats`` of each prompt and of at most ``steps`` tokens.

    ``rows`` [b]: the completions that are being written, at first all. ``logits`` [b, V]: of the next token of each.
    """

    def __init__(self, body: Body, predict: Predict, prompts: Prompts, repeats: int, steps: int, pad: int = 0) -> None:
        self._body, self._predict, self._cache = body, predict, body.cache(steps)
        self._length, self._step = prompts.tokens.shape[1], 0
        owner = torch.arange(len(prompts), device=prompts.tokens.device).repeat_interleave(repeats)
        self.rows = torch.arange(len(owner), device=owner.device)
        self._tokens = torch.cat([prompts.tokens[owner], prompts.tokens.new_full((len(owner), steps), pad)], 1)
        self._mask = torch.cat([prompts.mask[owner], prompts.mask.new_zeros(len(owner), steps)], 1)
        states = body(prompts.tokens, prompts.mask, self._cache)[:, -1:]
        self._states = states.new_zeros(len(owner), steps, states.shape[-1])
        self._states[:, 0] = states[owner, 0]
        self.logits = predict(states)[:, -1]
        if repeats > 1:
            self._cache.reorder_cache(owner)
            self.logits = self.logits[owner]

    def append(self, tokens: Tensor, real: Tensor | None = None) -> None:
        """Add a token [b] to each completion being written; where ``real`` [b] is false it is padding."""
        column = self._length + self._step
        self._tokens[self.rows, column] = tokens
        self._mask[self.rows, column] = True if real is None else real
        self._step += 1

    def leave(self, unfinished: Tensor) -> None:
        """Go on with the completions where ``unfinished`` [b] is true, at least one; to be called before ``advance``."""
        self.rows = self.rows[unfinished]
        self._cache.reorder_cache(unfinished.nonzero().squeeze(1))

    def advance(self) -> None:
        """Read the last tokens."""
        end = self._length + self._step
        tokens, mask = self._tokens[self.rows, end - 1], self._mask[self.rows, :end]
        states = self._body(tokens.unsqueeze(1), mask, self._cache)
        self._states[self.rows, self._step] = states[:, -1]
        self.logits = self._predict(states)[:, -1]

    def samples(self) -> Sampled:
        """The prompts with the completions, as wide as the longest of them, and the states that predicted each token."""
        width = int(self._mask[:, self._length :].sum(1).max())
        columns = slice(self._length + width)
        return Sampled(Rollouts(self._tokens[:, columns], self._mask[:, columns], self._length), self._states[:, :width])


@dataclass(frozen=True)
class Beside:
    """A model, an `isoalign.models.language.LanguageModel` without its adapter, whose logits a decoder mixes into its own: the
    probability of each token is then own^(1 - share) x the model's^share, normalised. ``share`` lies in (0, 1)."""

    model: Any
    share: float


class MixedDecoder:
    """A decoder whose logits are mixed with those of another one, which reads the same completions within a ``context``."""

    def __init__(
        self, own: Decoder, other: Decoder, share: float, context: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._own, self._other, self._share, self._context = own, other, share, context

    @property
    def rows(self) -> Tensor:
        """The completions that are being written [b]."""
        return self._own.rows

    @property
    def logits(self) -> Tensor:
        """Of the next token of each completion [b, V]; softmax normalises the product of powers."""
        return (1 - self._share) * self._own.logits + self._share * self._other.logits

    def append(self, tokens: Tensor, real: Tensor | None = None) -> None:
        """Add a token [b] to each completion."""
        self._own.append(tokens, real)
        self._other.append(tokens, real)

    def leave(self, unfinished: Tensor) -> None:
        """Go on with the completions where ``unfinished`` [b] is true."""
        self._own.leave(unfinished)
        self._other.leave(unfinished)

    def advance(self) -> None:
        """Read the last tokens."""
        self._own.advance()
        with self._context():
            self._other.advance()

    def samples(self) -> Sampled:
        """The completions, with the states of the first decoder."""
        return self._own.samples()


def sample_tokens(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF choice: logits [B, V] and uniforms [B] to tokens [B]."""
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniforms.to(cumulative.dtype).unsqueeze(-1) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return token.clamp(max=logits.shape[-1] - 1)
