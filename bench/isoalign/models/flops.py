"""FLOPs by formula, the unit of every budget: exact integers, equal on every machine.

A multiply-add is two FLOPs. A forward pass costs 2 per weight and token, 4 x width of attention per pair of a token and its
context (full, not causal, as kernels compute it), and the head only where it is applied. A backward pass costs twice the
forward pass for trained weights; frozen weights cost only the half for activations (LoRA). Padding is free: only real tokens
count, so the bill does not depend on batching.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter as counter
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Shape:
    """The sizes of an architecture that FLOPs depend on, in weights: ``body`` (multiplied for each token; embeddings and
    head left out), ``adapter`` (LoRA), ``head``; and ``attention`` = layers x heads x head size. ``first``: weights of body
    and adapter that read frozen embeddings, so that no gradient flows back through them."""

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
        """Decoding ``new`` tokens with a cache after prompts of ``contexts`` tokens; the first token comes from the
        prefill."""
        weights = 2 * (self.body + self.adapter * adapter) + 2 * self.head
        total = 0
        for context, tokens in zip(contexts, new, strict=True):
            steps = max(tokens - 1, 0)
            total += steps * weights + 4 * self.attention * (steps * context + steps * (steps + 1) // 2)
        return total


def shape_of(model: Any, head: nn.Module | None) -> Shape:
    """The Shape of a transformers model: all two-dimensional weights of linear layers, those of LoRA separate."""
    config = model.config
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    body = adapter = 0
    counted: list[nn.Module] = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if module is head or isinstance(module, nn.Embedding) or weight is None or weight.dim() != 2:
            continue
        if hasattr(module, "base_layer"):  # a LoRA wrapper exposes the weight of its inner layer
            continue
        counted.append(module)
        if ".lora_" in name:
            adapter += weight.numel()
        else:
            body += weight.numel()
    head_weights = sum(p.numel() for p in head.parameters() if p.dim() == 2) if head is not None else 0
    first = _without_input_gradient(model, counted) if adapter else 0
    return Shape(body, config.num_hidden_layers * heads * size, head_weights, adapter, first)


def _without_input_gradient(model: Any, modules: list[nn.Module]) -> int:
    """Weights of the modules whose input needs no gradient, from a pass of one token."""
    weights = 0

    def count_weights(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal weights
        if not inputs[0].requires_grad:
            weights += module.weight.numel()  # type: ignore[operator, union-attr]

    hooks = [module.register_forward_pre_hook(count_weights) for module in modules]
    try:
        with torch.enable_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return weights


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(counter.sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(counter.sdpa_backward_flop_count(grad, query, key, value))


def _products(first: Any, second: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(first)


# Formulas on shapes that PyTorch's counter lacks: attention on a CPU, products with a vector, and in-place products.
MISSING: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.mv: _products,
    torch.ops.aten.dot: _products,
    torch.ops.aten.addmm_: counter.addmm_flop.__wrapped__,  # type: ignore[attr-defined]  # unwrapped, as the others
    torch.ops.aten.baddbmm_: counter.baddbmm_flop.__wrapped__,  # type: ignore[attr-defined]
}
_FORMULAS = counter.flop_registry | {operation: counter.shape_wrapper(formula) for operation, formula in MISSING.items()}
UNSEEN = (nn.RNNBase, nn.Bilinear)  # use operations without a formula


class Counter(TorchDispatchMode):
    """Context that counts FLOPs by PyTorch's formulas, at a hundredth of the overhead of PyTorch's counter."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count its FLOPs."""
        out = func(*args, **(kwargs or {}))
        if (formula := _FORMULAS.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
