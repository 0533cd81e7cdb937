"""Sampling beside transformers' ``generate``: CPU seconds of one thread, the two in turn, and their ratio.

    python scripts/benchmarks/sampling.py [--rounds 3] [--model nano]

Each side runs in a process of its own, ``generate`` with our allocator setting and transformers' own products. Every row has
all of its new tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from isoalign.core import runtime
from isoalign.core.batches import Prompts
from isoalign.core.display import grid
from isoalign.core.lazy import transformers
from isoalign.models.language import LanguageModel
from isoalign.models.loading import load_model, load_tokenizer, model_path

CASES = [(rows, 24, 20, draws) for draws in (1, 8) for rows in (16, 64, 256)] + [(64, 128, 128, 1), (64, 128, 128, 8)]
SIDES = ("ours", "generate")


def side(name: str, model: str) -> Callable[[Prompts, int, int], Any]:
    """A function that samples a number of tokens, and of draws, of each prompt."""
    if name == "ours":
        policy = LanguageModel(*load_model(model), ends=False)
        return lambda prompts, new, draws: policy.generate(prompts, torch.rand(len(prompts) * draws, new))
    tokenizer = load_tokenizer(model)
    peer = transformers.AutoModelForCausalLM.from_pretrained(model_path(model)).eval()
    return lambda prompts, new, draws: peer.generate(
        input_ids=prompts.tokens, attention_mask=prompts.mask.long(), do_sample=True, top_k=0, max_new_tokens=new,
        min_new_tokens=new, num_return_sequences=draws, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def one(name: str, model: str) -> list[float]:
    """CPU seconds of each case, the best of three."""
    torch.set_num_threads(1)
    sample, seconds = side(name, model), []
    for rows, length, new, draws in CASES:
        tokens = torch.randint(10, 4000, (rows // draws, length), generator=torch.Generator().manual_seed(0))
        prompts = Prompts(tokens, torch.ones_like(tokens).bool(), torch.arange(len(tokens)))
        taken = []
        for _ in range(4):
            start = time.process_time()
            sample(prompts, new, draws)
            taken.append(time.process_time() - start)
        seconds.append(min(taken[1:]))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    runtime.quiet()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.model)))
        return
    found: dict[str, list[list[float]]] = {name: [] for name in SIDES}
    for _ in range(arguments.rounds):
        for name in SIDES:
            command = [sys.executable, __file__, "--one", name, "--model", arguments.model]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for place, (batch, length, new, draws) in enumerate(CASES):
        ours, theirs = ([seconds[place] for seconds in found[name]] for name in SIDES)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        times = [f"{statistics.median(ours):.3f}", f"{statistics.median(theirs):.3f}"]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([str(batch), f"{length}+{new}", str(draws), *times, spread])
    print(grid(["rows", "tokens", "draws", "ours (s)", "generate (s)", "times as fast"], rows))


if __name__ == "__main__":
    main()
