"""Where an algorithm comes to, tried on the toy whose every answer, and so every optimum, is known."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from isoalign.tools.conformance import toy
from isoalign.tools.conformance.algorithm_under_test import AlgorithmUnderTest, CheckFailed, NotApplicable, declared, price_of
from isoalign.tools.conformance.workbench import Bench

STEPS, RATE = 250, 3e-3  # of the toy's trainings
LEARNT = 0.02  # of the reward that can be had: what pulls hard to its base gains little there, a flipped sign loses
PRICE = 0.5  # of a nat there, at which the best policy is about a nat from the base


def learns(tested: AlgorithmUnderTest) -> str:
    """On a toy whose answers can be counted, the reward that it expects rises."""
    bench = toy.toy(tested.bench, 1.0)
    rewards, base = bench.source.the_judge.rewards, toy.distribution(bench.language_model())
    before, after = (float((said.exp() * rewards).sum(-1).mean()) for said in (base, _on_toy(tested, bench)))
    if after < before + LEARNT * (float(rewards.max()) - before):
        raise CheckFailed(f"from {before:.3f} to {after:.3f}, where {float(rewards.max()):.3f} can be had: is a sign flipped?")
    return f"from {before:.3f} to {after:.3f} of at most {float(rewards.max()):.3f}"


def zero_reward(tested: AlgorithmUnderTest) -> str:
    """Where all answers are as good as each other, it stays near its base."""
    free, paid = _toy(tested, 0.0, PRICE), _toy(tested, 1.0, PRICE)
    if "closed_form" in declared(tested.algorithm) or price_of(tested.algorithm):
        if free > 0.25 * max(paid, 0.1):
            raise CheckFailed(f"KL {free:.3f} nats from the base where no answer is better, {paid:.3f} where some are")
        return f"KL {free:.3f} nats, and {paid:.3f} where some answers are better"
    raise NotApplicable(
        f"it declares no price on KL (kl_price); it went {free:.3f} nats, and {paid:.3f} where some answers are better"
    )


def large_price(tested: AlgorithmUnderTest) -> str:
    """At a large price on KL, the SFT policy comes back."""
    if not price_of(tested.algorithm):
        raise NotApplicable("it declares no price on KL (kl_price)")
    cheap, dear = _toy(tested, 1.0, PRICE), _toy(tested, 1.0, 100 * PRICE)
    if dear > 0.25 * cheap:
        raise CheckFailed(f"KL {dear:.3f} nats at {price_of(tested.algorithm)}={100 * PRICE:g}, {cheap:.3f} at {PRICE:g}")
    return f"KL {dear:.4f} nats at {price_of(tested.algorithm)}={100 * PRICE:g}, {cheap:.3f} at {PRICE:g}"


def closed_form(tested: AlgorithmUnderTest) -> str:
    """It comes to base x exp(reward / price), the best policy, on a toy whose answers can be counted."""
    if not declared(tested.algorithm).get("closed_form") or not price_of(tested.algorithm):
        raise NotApplicable("it does not declare closed_form: its objective has another optimum, or none that is known")
    bench = toy.toy(tested.bench, 1.0)
    base = toy.distribution(bench.language_model())
    best = toy.optimum(base, bench.source.the_judge.rewards, PRICE)
    far, start = toy.kl(_on_toy(tested, bench, PRICE), best), toy.kl(base, best)
    if far > 0.15 * start:
        raise CheckFailed(f"KL {far:.3f} nats from the best policy, of {start:.3f} at the start")
    return f"KL {far:.3f} nats from the best policy, of {start:.3f} at the start"


def _toy(tested: AlgorithmUnderTest, scale: float, price: float) -> float:
    """KL from the base after training on the toy."""
    bench = toy.toy(tested.bench, scale)
    return toy.kl(_on_toy(tested, bench, price), toy.distribution(bench.language_model()))


def _on_toy(tested: AlgorithmUnderTest, bench: Bench, price: float | None = None) -> Tensor:
    """log pi after training on the toy at a ``price`` on KL, by default the algorithm's own."""
    priced = {price_of(tested.algorithm): price} if price is not None and price_of(tested.algorithm) else {}
    changes: dict[str, Any] = {"lr": RATE} | priced
    return toy.trained(
        bench, dataclasses.replace(tested.algorithm, **changes), STEPS, tested.folder / f"toy-{next(tested.count)}"
    )
