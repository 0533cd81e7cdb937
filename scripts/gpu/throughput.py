"""A random Llama of 0.6B parameters under autocast to bf16: tokens a second, share of the card's peak, peak memory."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import write

from isoalign.core import runtime
from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.lazy import transformers
from isoalign.models import loading
from isoalign.models.language import LanguageModel
from isoalign.stages.footprint import step_footprint

SIZES = {
    "cuda": {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 24,
             "num_key_value_heads": 8, "vocab_size": 32768},
    "cpu": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 4096},
}  # fmt: skip
ROWS = {"cuda": (16, 128, 512, 64, 128), "cpu": (4, 8, 16, 4, 16)}
"""Rows of a training step, their prompt and answer tokens; rows that are sampled, and new tokens of each."""
REPEATS = 3
PEAK = (  # dense bf16 TFLOP/s by the makers' data sheets; the first whose name is in the card's name
    ("B200", 2250.0), ("GH200", 989.4), ("H200", 989.4), ("H100 PCIe", 756.0), ("H100 NVL", 835.0), ("H100", 989.4),
    ("A100", 312.0), ("A40", 149.7), ("A30", 165.0), ("A10G", 70.0), ("A10", 125.0), ("L40S", 362.0), ("L40", 181.0),
    ("L4", 121.0), ("RTX 6000 Ada", 364.2), ("RTX A6000", 154.8), ("RTX 5090", 209.5), ("RTX 4090", 165.2), ("RTX 3090", 71.0),
)  # fmt: skip


def peak_of(card: str) -> float | None:
    """Peak dense bf16 FLOP/s of a card, None if it is not in the table."""
    return next((tera * 1e12 for name, tera in PEAK if name in card), None)


def config_of(device: str) -> Any:
    """The configuration of the model for a kind of device."""
    return transformers.AutoConfig.for_model(
        "llama", **SIZES[device], tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=1
    )


def make_model(device: str) -> LanguageModel:
    """A random model with nano's tokenizer, all weights trained."""
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config_of(device), dtype=torch.float32)
    return LanguageModel(model.eval(), loading.load_tokenizer("nano"), ends=False, precision="bfloat16")


def rows_of(rows: int, prompt: int, answer: int, device: str) -> Rollouts:
    """Random rows without padding."""
    tokens = torch.randint(2, 4096, (rows, prompt + answer), generator=torch.Generator().manual_seed(1))
    return Rollouts(tokens, torch.ones_like(tokens, dtype=torch.bool), prompt).to(device)


def estimated_peak(device: str, rows: int, prompt: int, answer: int) -> int:
    """Bytes that the preflight expects a training step to take at its peak: weights, the optimizer's two numbers for each, and
    the step."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config_of(device), dtype=torch.float32).eval()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    [step] = step_footprint(model, loading.load_tokenizer("nano"), [rows], (prompt, answer), "bfloat16")
    return 3 * weights + step


def timed(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Seconds of each of ``repeats`` calls, after one that warms up."""
    work()
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronise()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronise()
    return (time.perf_counter() - started) / repeats


def measure(device: str, card: str, out: Path) -> None:
    """Sampling, then training; each is written as soon as it is known."""
    rows, prompt, answer, drawn, new = ROWS[device]
    model = make_model(device)
    parameters = sum(p.numel() for p in model.inner.parameters())
    peak = peak_of(card)
    found: dict[str, Any] = {
        "parameters": parameters,
        "peak_flops": peak,
        "sizes": SIZES[device],
        "precision": "bf16 autocast",
    }

    prompts = rows_of(drawn, prompt, 0, device)
    batch = Prompts(prompts.tokens, prompts.mask, torch.arange(drawn, device=device))
    uniforms = torch.rand(drawn, new, generator=torch.Generator().manual_seed(2))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda: model.generate(batch, uniforms), device, 1)
    flops = model.shape.prefill([prompt] * drawn) + model.shape.decode([prompt] * drawn, [new] * drawn)
    found["sampling"] = {"rows": drawn, "prompt": prompt, "new": new} | rates(seconds, drawn * new, flops, peak, device)
    write(out, found)

    batch_of_rows = rows_of(rows, prompt, answer, device)
    model.inner.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.inner.parameters(), lr=1e-5)

    def step() -> None:
        (-model(batch_of_rows).logp.sum(-1).mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(step, device, REPEATS)
    lengths, heads = [prompt + answer] * rows, [answer] * rows
    flops = model.shape.forward(lengths, heads) + model.shape.backward(lengths, heads)
    found["training"] = {"rows": rows, "prompt": prompt, "answer": answer} | rates(
        seconds, rows * (prompt + answer), flops, peak, device
    )
    found["training"]["estimated_gib"] = in_gib(estimated_peak(device, rows, prompt, answer))
    write(out, found)


def rates(seconds: float, tokens: int, flops: int, peak: float | None, device: str) -> dict[str, Any]:
    """Speed of some work, and the memory that was allocated at its peak."""
    used = torch.cuda.max_memory_allocated() if device == "cuda" else None
    rate = flops / seconds
    return {
        "seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds), "flops": flops, "flops_per_second": rate,
        "share_of_peak": rate / peak if peak else None, "peak_gib": in_gib(used),
    }  # fmt: skip


def in_gib(size: float | None) -> float | None:
    return None if size is None else round(size / 2**30, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--card", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runtime.quiet()
    measure(arguments.device, arguments.card, arguments.out)


if __name__ == "__main__":
    main()
