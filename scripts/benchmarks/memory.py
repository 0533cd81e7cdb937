"""Memory that passes take above the weights, on fake tensors with the shapes of Llama-3.2-1B and Llama-3-8B.

    python scripts/benchmarks/memory.py [--checkpointing] [--fp32]

Rows have 128 + 512 tokens, weights are fp32, passes run under autocast to bf16 as with ``task.model.bf16=true``. Nothing is
computed: every storage that would be alive is counted, so it takes seconds and no memory. Buffers inside a kernel, the
optimizer (two numbers a weight) and a second model are not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from isoalign.core import runtime
from isoalign.core.batches import Rollouts
from isoalign.core.display import grid
from isoalign.core.lazy import transformers
from isoalign.core.peak_memory import GIB, PeakMemory
from isoalign.evaluation.samples import score_rollouts
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.language import LanguageModel
from isoalign.models.loading import load_tokenizer

PROMPT, ANSWER = 128, 512
LLAMAS: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "Llama-3-8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False,
    },
}  # fmt: skip


def language_model(sizes: dict[str, Any], autocast: bool = True, checkpointing: bool = False) -> LanguageModel:
    """A Llama of the given sizes, all weights trained, made of fake tensors within ``FakeTensorMode``."""
    tokenizer = load_tokenizer("nano")  # any: it says which tokens end, pad and are banned
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**sizes, max_position_embeddings=8192))
    model.config.pad_token_id = tokenizer.pad_token_id
    if checkpointing:
        checkpoint_layers(model)
    return LanguageModel(model, tokenizer, ends=True, precision="bfloat16" if autocast else "float32")


def rollouts(rows: int, prompt: int = PROMPT, answer: int = ANSWER) -> Rollouts:
    """Rows without padding, of different prompts."""
    tokens = torch.arange(rows * (prompt + answer)).view(rows, -1) % 1000
    return Rollouts(tokens, torch.ones_like(tokens, dtype=torch.bool), prompt)


def train(model: LanguageModel, rows: Rollouts) -> None:
    """Forward and backward pass of a policy gradient."""
    loss = -model(rows).logp.sum(-1).mean()
    loss.backward()


@torch.no_grad()
def read(model: LanguageModel, rows: Rollouts) -> None:
    """Log-probabilities without gradients, as of a reference."""
    model(rows)


def score(model: LanguageModel, rows: Rollouts) -> None:
    """Log-probabilities under policy and reference, their KL and the policy's entropy, as evaluation takes them."""
    score_rollouts(rows, model, model)


PASSES: dict[str, tuple[Callable[[LanguageModel, Rollouts], None], int]] = {
    "training step, 16 rows": (train, 16),
    "log-probabilities, 64 rows": (read, 64),
    "scoring, 64 rollouts": (score, 64),
}


def peak(work: Callable[[LanguageModel, Rollouts], None], model: LanguageModel, rows: Rollouts) -> int:
    """Bytes at the peak of a pass."""
    with PeakMemory() as memory:
        work(model, rows)
    model.inner.zero_grad()
    return memory.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--fp32", action="store_true", help="without autocast")
    arguments = parser.parse_args()
    runtime.quiet()
    columns: list[list[str]] = [["(the weights)", *PASSES]]
    for sizes in LLAMAS.values():
        with FakeTensorMode():
            model = language_model(sizes, not arguments.fp32, arguments.checkpointing)
            weights = sum(parameter.numel() * parameter.element_size() for parameter in model.inner.parameters())
            found = [weights] + [peak(work, model, rollouts(rows)) for work, rows in PASSES.values()]
        columns.append([f"{number / GIB:.1f}" for number in found])
    print(grid(["GiB above the weights", *LLAMAS], [list(row) for row in zip(*columns, strict=True)]))


if __name__ == "__main__":
    main()
