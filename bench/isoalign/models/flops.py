"""FLOPs by formula, the unit of every budget: exact integers, equal on every machine.

A multiply-add is two FLOPs. A forward pass costs 2 per weight and token, 4 x width of attention per pair of a token and its
context (full, not causal, as kernels compute it), and the head only where it is applied. Of a mixture of experts, the weights
that a token is sent to count; ``flop_rules.py`` says what each kind of parameter costs. A backward pass costs twice the
forward pass for trained weights; frozen weights cost only the half for activations (LoRA). Padding is free: only real tokens
count, so the bill does not depend on batching.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from isoalign.models.flop_counter import Counter
from isoalign.models.flop_rules import observe, weights_of

LENGTHS = (9, 24)  # tokens of the rows on which a bill is compared with the count


@dataclass(frozen=True)
class Shape:
    """The sizes of an architecture that FLOPs depend on, in weights: ``body`` (multiplied for each token; embeddings and
    head left out), ``adapter`` (LoRA), ``head``; and ``attention``, the sum of heads x head size of all layers (the mean size
    where keys and values differ). ``first``: weights of body and adapter that read frozen embeddings, so that no gradient
    flows back through them."""

    body: int
    attention: int
    head: int
    adapter: int = 0
    first: int = 0

    def forward(self, lengths: Iterable[int], heads: Iterable[int], adapter: bool = True) -> int:
        """A forward pass over rows of ``lengths`` tokens, with the head at ``heads`` positions of each."""
        weights = self.body + self.adapter * adapter
        body = sum(2 * weights * n + 4 * self.attention * n * n for n in lengths)
        return body + 2 * self.head * sum(heads)

    def backward(self, lengths: Iterable[int], heads: Iterable[int]) -> int:
        """The backward pass: all weights are trained, or only the adapter if there is one."""
        lengths, heads = list(lengths), list(heads)
        if not self.adapter:
            return 2 * self.forward(lengths, heads)
        weights = 2 * self.body + 4 * self.adapter - 2 * self.first
        body = sum(weights * n + 8 * self.attention * n * n for n in lengths)
        return body + 2 * self.head * sum(heads)

    def prefill(self, lengths: Iterable[int], adapter: bool = True) -> int:
        """Reading prompts before decoding; the head is applied once, at the end of each."""
        lengths = list(lengths)
        return self.forward(lengths, [1] * len(lengths), adapter)

    def decode(self, contexts: Iterable[int], new: Iterable[int], adapter: bool = True) -> int:
        """Decoding ``new`` tokens after prompts of ``contexts`` tokens, whose keys and values are cached in full; the first
        token comes from the prefill."""
        weights = 2 * (self.body + self.adapter * adapter) + 2 * self.head
        total = 0
        for context, tokens in zip(contexts, new, strict=True):
            steps = max(tokens - 1, 0)
            total += steps * weights + 4 * self.attention * (steps * context + steps * (steps + 1) // 2)
        return total


def shape_of(model: Any, head: nn.Module | None) -> Shape:
    """The Shape of a transformers model, with or without LoRA.

    ``head``: its output embedding, left out of the body; None for a model with another head, which is then part of the body.
    Weights by the rules of ``flop_rules.py``, attention from dry runs on tensors without values, so the figures depend on the
    architecture alone. Raises a UserError with the model's class and the parameter that no rule covers.
    """
    observed = observe(model)
    weights = weights_of(model, head, observed)
    head_weights = sum(p.numel() for p in head.parameters() if p.dim() == 2) if head is not None else 0
    return Shape(weights.body, -(-observed.pair // 4), head_weights, weights.adapter, weights.first)


@torch.no_grad()
def bill_error(model: Any, shape: Shape, heads: Sequence[int] = LENGTHS) -> float:
    """By how much the bill of a forward pass differs from what is counted on the model itself, relative to the count.

    Two rows of ``LENGTHS`` tokens, one after the other, on the model's device and in its present mode. ``shape``: of the model
    with its head, or of a model with a scalar head; ``heads``: positions of each row at which the head is applied.
    """
    counted = 0
    for length in LENGTHS:
        tokens = torch.arange(length, device=next(model.parameters()).device).unsqueeze(0)
        with Counter() as counter:
            model(input_ids=tokens % model.config.get_text_config().vocab_size)
        counted += counter.flops
    return shape.forward(LENGTHS, heads) / counted - 1
