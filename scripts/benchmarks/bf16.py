"""What bf16 gives on a processor, and what it changes: passes and training steps of a model under autocast beside fp32.

    python scripts/benchmarks/bf16.py [--rounds 5] [--model nano]

CPU seconds of one thread, all in turn, as medians of ratios with their spread: beside fp32 as a run has it, and as PyTorch
computes its products, which is slower on some processors. Changes are of log-probabilities of sampled answers, in nats a
token, of the KL that rounding alone makes, and of a DPO training in the same order from the same weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch.nn.functional import logsigmoid

from isoalign.core import products, runtime
from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.display import grid
from isoalign.models.kl import compare
from isoalign.models.language import LanguageModel
from isoalign.models.loading import load_model
from isoalign.models.precision import cast_frozen_weights

CASES = [(64, 24, 20), (64, 128, 128)]
PRECISIONS = ("float32", "bfloat16")
STEPS, PAIRS, RATE, BETA = 16, 16, 3e-5, 0.1


def models(name: str, trained: bool) -> dict[str, LanguageModel]:
    """The model in each precision; frozen weights are cast once, as a run does."""
    found = {}
    for precision in PRECISIONS:
        model, tokenizer = load_model(name)
        if trained:
            model.requires_grad_(True)
        elif precision == "bfloat16":
            cast_frozen_weights(model)
        found[precision] = LanguageModel(model, tokenizer, ends=False, precision=precision)
    return found


def prompts_of(rows: int, length: int, model: LanguageModel) -> Prompts:
    tokens = torch.randint(10, model.vocabulary - 10, (rows, length), generator=torch.Generator().manual_seed(0))
    return Prompts(tokens, torch.ones_like(tokens).bool(), torch.arange(rows))


def seconds(work: Mapping[str, Callable[[], object]], rounds: int) -> list[str]:
    """Medians of each after one call, and of the last one's ratios to the others."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, call in work.items():
            start = time.process_time()
            call()
            if turn:
                taken[name].append(time.process_time() - start)
    *others, last = taken.values()
    ratios = [[a / b for a, b in zip(each, last, strict=True)] for each in others]
    return [
        *(f"{statistics.median(each):.3f}" for each in taken.values()),
        *(f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in ratios),
    ]


@contextmanager
def torch_products() -> Iterator[None]:
    """Products of fp32 matrices as PyTorch computes them."""
    ours = products._fits
    products._fits = lambda a, b: False
    try:
        yield
    finally:
        products._fits = ours


def speeds(name: str, rounds: int) -> list[list[str]]:
    rows = []
    frozen, trained = models(name, trained=False), models(name, trained=True)
    for count, length, new in CASES:
        drawn = frozen["float32"].generate(prompts_of(count, length, frozen["float32"]), torch.rand(count, new))

        def read(model: LanguageModel, drawn: Rollouts = drawn) -> None:
            with torch.no_grad():
                _ = model(drawn).logp

        def train(model: LanguageModel, drawn: Rollouts = drawn) -> None:
            model(drawn).logp.sum().backward()
            model.inner.zero_grad()

        for title, work, sides in [("pass", read, frozen), ("forward and backward", train, trained)]:
            calls = {name: partial(work, model) for name, model in sides.items()}
            by_torch = torch_products()(calls["float32"])
            rows.append([title, f"{count} rows of {length}+{new}", *seconds({"torch": by_torch, **calls}, rounds)])
    return rows


@torch.no_grad()
def changes(name: str) -> list[list[str]]:
    policies = models(name, trained=False)
    exact, rounded = policies.values()
    prompts = prompts_of(256, 24, exact)
    uniforms = torch.rand(256, 20, generator=torch.Generator().manual_seed(1))
    drawn, other = (model.generate(prompts, uniforms) for model in (exact, rounded))
    same = (other.tokens == drawn.tokens).all(1).float().mean()
    gaps = rounded(drawn).logp - exact(drawn).logp
    of_answers = gaps.sum(1)
    kl = compare(rounded, exact, drawn).kl
    return [
        ["log-probability of a token, mean change (nats)", f"{gaps.abs().mean():.4f}"],
        ["its largest change", f"{gaps.abs().max():.3f}"],
        [
            "log-probability of an answer of 20 tokens, mean change (deviation)",
            f"{of_answers.mean():+.3f} ({of_answers.std():.3f})",
        ],
        ["KL(bf16, fp32) of the same weights (nats a token)", f"{kl.mean():.5f}"],
        ["answers that the same random numbers make the same, in bf16 and fp32", f"{same:.0%}"],
    ]


def trained(name: str) -> list[list[str]]:
    """DPO on made-up pairs, sampled by the model itself: losses and margins, and the KL from the base, in fp32, at the end."""
    base = models(name, trained=False)["float32"]
    prompts = prompts_of(4 * PAIRS, 24, base)
    uniforms = torch.rand(2, 4 * PAIRS, 20, generator=torch.Generator().manual_seed(2))
    chosen, rejected = (base.generate(prompts, each) for each in uniforms)
    found: dict[str, list[float]] = {}
    for precision, policy in models(name, trained=True).items():
        reference = models(name, trained=False)[precision]
        optimizer = torch.optim.AdamW(policy.inner.parameters(), lr=RATE)
        losses = []
        for step in range(STEPS):
            part = slice(step % 4 * PAIRS, (step % 4 + 1) * PAIRS)
            margins = []
            for side in (chosen[part], rejected[part]):
                with torch.no_grad():
                    known = reference(side).logp.sum(1)
                margins.append(policy(side).logp.sum(1) - known)
            loss = -logsigmoid(BETA * (margins[0] - margins[1])).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.inner.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        end = LanguageModel(policy.inner, policy.tokenizer, ends=False)
        with torch.no_grad():
            kl = compare(end, base, end.generate(prompts, uniforms[0])).kl.sum(1).mean().item()
        found[precision] = [losses[0], losses[STEPS // 2], losses[-1], kl]
    names = ["first loss", f"loss of step {STEPS // 2 + 1}", f"loss of step {STEPS}", "KL from the base at the end (nats)"]
    return [[what, *(f"{found[precision][place]:.4f}" for precision in PRECISIONS)] for place, what in enumerate(names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    runtime.quiet()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not products.multiplies_bf16():
        print("This processor has no bf16.\n")
    titles = ["work", "rows", "fp32 by PyTorch (s)", "fp32 (s)", "bf16 (s)", "times as fast as PyTorch's fp32", "as fp32"]
    print(grid(titles, speeds(arguments.model, arguments.rounds)), "\n")
    print(grid(["what bf16 changes", "by"], changes(arguments.model)), "\n")
    print(grid(["DPO", "fp32", "bf16"], trained(arguments.model)))


if __name__ == "__main__":
    main()
