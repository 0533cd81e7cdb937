"""Checks of the policy that an algorithm converges to, on a toy problem with a known optimum."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from isoalign.tools.conformance import toy
from isoalign.tools.conformance.algorithm_under_test import AlgorithmUnderTest, CheckFailed, NotApplicable, kl_field
from isoalign.tools.conformance.workbench import Bench

STEPS, RATE = 250, 3e-3  # of training on the toy problem
MIN_GAIN = 0.02  # of the possible gain in reward: a strong pull to the base leaves little, a flipped sign loses reward
COEFFICIENT = 0.5  # KL coefficient, at which the best policy is about a nat from the base


def learns(tested: AlgorithmUnderTest) -> str:
    """Its expected reward rises on a toy problem with countable answers."""
    if getattr(tested.algorithm, "suppresses", False):
        raise NotApplicable("it declares that it makes chosen answers less likely, too (suppresses)")
    if getattr(tested.algorithm, "control", False):
        raise NotApplicable("it declares that it learns from no feedback (control)")
    bench = toy.toy_bench(tested.bench, 1.0)
    rewards, base = bench.source.the_judge.rewards, toy.answer_logp(bench.language_model())
    before, after = (float((logp.exp() * rewards).sum(-1).mean()) for logp in (base, _train_on_toy(tested, bench)))
    best = float(rewards.max())
    if after < before + MIN_GAIN * (best - before):
        raise CheckFailed(f"from {before:.3f} to {after:.3f}, where {best:.3f} is possible: is a sign flipped?")
    return f"from {before:.3f} to {after:.3f} of at most {best:.3f}"


def zero_reward(tested: AlgorithmUnderTest) -> str:
    """It stays near its base if all answers are equally good."""
    equal, unequal = _kl_on_toy(tested, 0.0, COEFFICIENT), _kl_on_toy(tested, 1.0, COEFFICIENT)
    if hasattr(tested.algorithm, "closed_form") or kl_field(tested.algorithm):
        if equal > 0.25 * max(unequal, 0.1):
            raise CheckFailed(f"KL {equal:.3f} nats from the base for equal rewards, {unequal:.3f} for unequal ones")
        return f"KL {equal:.3f} nats, and {unequal:.3f} for unequal rewards"
    raise NotApplicable(
        f"it declares no KL coefficient (kl_price); KL {equal:.3f} nats for equal rewards, {unequal:.3f} for unequal ones"
    )


def large_kl_coefficient(tested: AlgorithmUnderTest) -> str:
    """It stays at the SFT policy with a large KL coefficient."""
    field = kl_field(tested.algorithm)
    if not field:
        raise NotApplicable("it declares no KL coefficient (kl_price)")
    small, large = _kl_on_toy(tested, 1.0, COEFFICIENT), _kl_on_toy(tested, 1.0, 100 * COEFFICIENT)
    if large > 0.25 * small:
        raise CheckFailed(f"KL {large:.3f} nats at {field}={100 * COEFFICIENT:g}, {small:.3f} at {COEFFICIENT:g}")
    return f"KL {large:.4f} nats at {field}={100 * COEFFICIENT:g}, {small:.3f} at {COEFFICIENT:g}"


def closed_form(tested: AlgorithmUnderTest) -> str:
    """It converges to the best policy, base x exp(reward / KL coefficient), on a toy problem with countable answers."""
    if not getattr(tested.algorithm, "closed_form", False) or not kl_field(tested.algorithm):
        raise NotApplicable("it does not declare closed_form: its objective has another optimum, or an unknown one")
    bench = toy.toy_bench(tested.bench, 1.0)
    base = toy.answer_logp(bench.language_model())
    best = toy.optimum(base, bench.source.the_judge.rewards, COEFFICIENT)
    end, start = toy.mean_kl(_train_on_toy(tested, bench, COEFFICIENT), best), toy.mean_kl(base, best)
    if end > 0.15 * start:
        raise CheckFailed(f"KL {end:.3f} nats from the best policy, of {start:.3f} at the start")
    return f"KL {end:.3f} nats from the best policy, of {start:.3f} at the start"


def _kl_on_toy(tested: AlgorithmUnderTest, scale: float, coefficient: float) -> float:
    """KL from the base after training on the toy problem."""
    bench = toy.toy_bench(tested.bench, scale)
    return toy.mean_kl(_train_on_toy(tested, bench, coefficient), toy.answer_logp(bench.language_model()))


def _train_on_toy(tested: AlgorithmUnderTest, bench: Bench, coefficient: float | None = None) -> Tensor:
    """log pi after training on the toy problem with a KL coefficient, by default the algorithm's."""
    field = kl_field(tested.algorithm)
    changes: dict[str, Any] = {"lr": RATE} | ({field: coefficient} if coefficient is not None and field else {})
    return toy.train_policy(
        bench, dataclasses.replace(tested.algorithm, **changes), STEPS, tested.folder / f"toy-{next(tested.count)}"
    )
