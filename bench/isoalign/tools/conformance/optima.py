"""Checks of the policy that an algorithm converges to, on a toy problem with a known optimum."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from isoalign.tools.conformance import toy
from isoalign.tools.conformance.algorithm_under_test import AlgorithmUnderTest, CheckFailed, NotApplicable, kl_field
from isoalign.tools.conformance.workbench import Bench
from isoalign.training import registry

STEPS, RATE, BATCH = 130, 3e-3, 48  # of training on the toy problem: DPO sees each of its verdicts three times
MIN_GAIN = 0.02  # of the possible gain in reward: a strong pull to the base leaves little, a flipped sign loses reward
COEFFICIENT = 0.5  # KL coefficient, at which the best policy is about a nat from the base


def learns(tested: AlgorithmUnderTest) -> str:
    """Its expected reward rises on a toy problem with countable answers."""
    if getattr(tested.algorithm, "suppresses", False):
        raise NotApplicable("it declares that it makes chosen answers less likely, too (suppresses)")
    _check_feedback(tested)
    problem = _problem(tested, 1.0)
    before, after = (float((logp.exp() * problem.rewards).sum(-1).mean()) for logp in (problem.base, _trained(tested, 1.0)))
    best = float(problem.rewards.max())
    if after < before + MIN_GAIN * (best - before):
        raise CheckFailed(f"from {before:.3f} to {after:.3f}, where {best:.3f} is possible: is a sign flipped?")
    return f"from {before:.3f} to {after:.3f} of at most {best:.3f}"


def _check_feedback(tested: AlgorithmUnderTest) -> None:
    """Raises NotApplicable for a method that declares that it learns from no feedback."""
    if getattr(tested.algorithm, "control", False):
        raise NotApplicable("it declares that it learns from no feedback (control)")


def zero_reward(tested: AlgorithmUnderTest) -> str:
    """It stays near its base if all answers are equally good."""
    _check_feedback(tested)
    samples = hasattr(tested.algorithm, "closed_form") and registry.uses_attribute(type(tested.algorithm), "generate")
    if not samples and not kl_field(tested.algorithm):
        raise NotApplicable("it declares no KL coefficient (kl_price)")
    equal, unequal = _kl(tested, 0.0), _kl(tested, 1.0)
    if equal > 0.25 * max(unequal, 0.1):
        raise CheckFailed(f"KL {equal:.3f} nats from the base for equal rewards, {unequal:.3f} for unequal ones")
    return f"KL {equal:.3f} nats, and {unequal:.3f} for unequal rewards"


def large_kl_coefficient(tested: AlgorithmUnderTest) -> str:
    """It stays at the SFT policy with a large KL coefficient."""
    field = kl_field(tested.algorithm)
    if not field:
        raise NotApplicable("it declares no KL coefficient (kl_price)")
    small, large = _kl(tested, 1.0), _kl(tested, 1.0, 100 * COEFFICIENT)
    if large > 0.5 * small:  # what a method imitates before it learns by reward has no price
        raise CheckFailed(f"KL {large:.3f} nats at {field}={100 * COEFFICIENT:g}, {small:.3f} at {COEFFICIENT:g}")
    return f"KL {large:.4f} nats at {field}={100 * COEFFICIENT:g}, {small:.3f} at {COEFFICIENT:g}"


def closed_form(tested: AlgorithmUnderTest) -> str:
    """It converges to the best policy, base x exp(reward / KL coefficient), on a toy problem with countable answers."""
    if not getattr(tested.algorithm, "closed_form", False) or not kl_field(tested.algorithm):
        raise NotApplicable("it does not declare closed_form: its objective has another optimum, or an unknown one")
    problem = _problem(tested, 1.0)
    best = toy.optimum(problem.base, problem.rewards, COEFFICIENT)
    end, start = toy.mean_kl(_trained(tested, 1.0), best), toy.mean_kl(problem.base, best)
    if end > 0.15 * start:
        raise CheckFailed(f"KL {end:.3f} nats from the best policy, of {start:.3f} at the start")
    return f"KL {end:.3f} nats from the best policy, of {start:.3f} at the start"


@dataclass(frozen=True)
class Problem:
    """The toy problem: its bench, rewards [16], and log pi of the base [2, 16]."""

    bench: Bench
    rewards: Tensor
    base: Tensor


def _problem(tested: AlgorithmUnderTest, scale: float) -> Problem:
    if ("problem", scale) not in tested.done:
        bench = toy.toy_bench(tested.bench, scale)
        base = toy.answer_logp(bench.language_model())
        tested.done["problem", scale] = Problem(bench, bench.source.the_judge.rewards, base)
    return tested.done["problem", scale]  # type: ignore[no-any-return]


def _kl(tested: AlgorithmUnderTest, scale: float, coefficient: float = COEFFICIENT) -> float:
    """KL from the base after training on the toy problem, in nats."""
    return toy.mean_kl(_trained(tested, scale, coefficient), _problem(tested, scale).base)


def _trained(tested: AlgorithmUnderTest, scale: float, coefficient: float = COEFFICIENT) -> Tensor:
    """log pi [2, 16] after training on the toy problem, with a KL coefficient if the algorithm has one."""
    if ("trained", scale, coefficient) not in tested.done:
        field = kl_field(tested.algorithm)
        changes = {"lr": RATE, "batch_size": BATCH} | ({field: coefficient} if field else {})
        known = {each.name for each in dataclasses.fields(tested.algorithm)}
        algorithm = dataclasses.replace(tested.algorithm, **{key: value for key, value in changes.items() if key in known})
        bench, folder = _problem(tested, scale).bench, tested.new_folder()
        tested.done["trained", scale, coefficient] = toy.train_policy(bench, algorithm, STEPS, folder)
    return tested.done["trained", scale, coefficient]  # type: ignore[no-any-return]
