"""Forward and backward pass over several completions of each prompt: a prompt read once, and whole rows, in turn.

    python scripts/benchmarks/prompts.py [--rounds 5] [--models nano]

CPU milliseconds of one thread, in one process. The completions of a prompt are those of a pair, each a batch of its own, or of
a group in one batch. SmolLM2 (smollm2) has LoRA of rank 16, and takes some minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from isoalign.core import runtime
from isoalign.core.batches import Rollouts
from isoalign.core.display import grid
from isoalign.core.lazy import peft
from isoalign.models.language import LanguageModel
from isoalign.models.loading import load_model
from isoalign.stages.sft import lora_config

CASES = [(32, 2, 24, 20), (8, 8, 24, 20), (8, 2, 128, 128), (2, 8, 128, 128), (4, 2, 256, 64)]  # prompts, completions, tokens
LORA = {"smollm2": 16}


def policy(name: str) -> LanguageModel:
    """A model whose weights, or whose adapter, are trained."""
    model, tokenizer = load_model(name)
    if rank := LORA.get(name, 0):
        return LanguageModel(peft.get_peft_model(model, lora_config(rank, "CAUSAL_LM")), tokenizer, ends=False)
    return LanguageModel(model.requires_grad_(True), tokenizer, ends=False)


def batches(prompts: int, completions: int, length: int, new: int) -> list[Rollouts]:
    """Two batches for pairs, else one with all completions of a prompt in a row."""
    generator = torch.Generator().manual_seed(0)
    asked = torch.randint(100, 4000, (prompts, length), generator=generator).repeat_interleave(completions, 0)
    tokens = torch.cat([asked, torch.randint(100, 4000, (len(asked), new), generator=generator)], 1)
    rollouts = Rollouts(tokens, torch.ones_like(tokens, dtype=torch.bool), length)
    return [rollouts[0::2], rollouts[1::2]] if completions == 2 else [rollouts]


def taken(model: LanguageModel, parts: list[Rollouts], shared: bool) -> float:
    """CPU seconds of log-probabilities and their gradients."""
    model.shares_prompts = shared
    start = time.process_time()
    torch.stack([outputs.logp.sum() for outputs in model.read_together(parts)]).sum().backward()
    model.inner.zero_grad()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=["nano"])
    arguments = parser.parse_args()
    runtime.quiet()
    runtime.threads(1)
    rows: list[list[Any]] = []
    for name in arguments.models:
        model = policy(name)
        if not model.shares_prompts:
            raise SystemExit(f"{name} reads whole rows")
        for prompts, completions, length, new in CASES:
            parts = batches(prompts, completions, length, new)
            taken(model, parts, True)
            each = [(taken(model, parts, True), taken(model, parts, False)) for _ in range(arguments.rounds)]
            ours, whole = (1000 * statistics.median(side) for side in zip(*each, strict=True))
            ratios = [b / a for a, b in each]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append([name, prompts, completions, f"{length}+{new}", f"{ours:.0f}", f"{whole:.0f}", spread])
    titles = ["model", "prompts", "completions of each", "tokens", "prompt once (ms)", "whole rows (ms)", "times as fast"]
    print(grid(titles, [list(map(str, row)) for row in rows]))


if __name__ == "__main__":
    main()
