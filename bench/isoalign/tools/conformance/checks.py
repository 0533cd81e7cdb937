"""The checks that every algorithm must pass, on a tiny model.

A check's docstring is its demand. It returns what it observed, and raises `CheckFailed` if the algorithm does not meet the
demand, `NotApplicable` if the check does not apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from isoalign.config.search_path import folders
from isoalign.config.training import TrainConfig
from isoalign.core import plugins
from isoalign.core.batches import Step
from isoalign.core.records import Budget
from isoalign.tools.conformance import optima
from isoalign.tools.conformance.algorithm_under_test import (
    MAX_FLOPS,
    STEPS,
    AlgorithmUnderTest,
    CheckFailed,
    NotApplicable,
    kl_field,
)
from isoalign.tools.conformance.workbench import same, weights, with_odd_shapes
from isoalign.training import registry
from isoalign.training.trainer import Trainer

CONFIG = TrainConfig(warmup=2, checkpoint_seconds=1e9)


def settings(tested: AlgorithmUnderTest) -> str:
    """Its yaml has every field with its default and nothing else."""
    defaults = registry.stated_settings(type(tested.algorithm))
    if kl_field(tested.algorithm) and kl_field(tested.algorithm) not in defaults:
        raise CheckFailed(f"kl_price names {kl_field(tested.algorithm)!r}, which is not a field")
    files = [file for folder in folders() if (file := folder / "algorithm" / f"{tested.name}.yaml").exists()]
    package = plugins.distribution(type(tested.algorithm))
    if package and (empty := plugins.without_yaml(package[0])):
        raise CheckFailed(f"{empty} has no yaml: its pyproject.toml needs package-data, see docs/extending.md")
    if not files:
        raise NotApplicable("it has no yaml: its fields configure it")
    values = OmegaConf.to_container(OmegaConf.load(files[0]))
    if not isinstance(values, dict):
        raise CheckFailed(f"{files[0]} is not a mapping of fields to values")
    if values.pop("name", None) != tested.name:
        raise CheckFailed(f"{files[0]}: name must be {tested.name}, the name of the file")
    values.pop("of", None)
    differences = [f"{key!r} is not a field" for key in values if key not in defaults]
    differences += [f"{key} is missing" for key in defaults if key not in values]
    differences += [
        f"{key} is {values[key]!r} in the file and {default!r} in the class"
        for key, default in defaults.items()
        if key in values and values[key] != (list(default) if isinstance(default, tuple) else default)
    ]
    if differences:
        raise CheckFailed(f"{files[0]}: {', '.join(differences)}")
    return f"{len(defaults)} fields{f' of {package[0]}' if package else ''}"


def budget(tested: AlgorithmUnderTest) -> str:
    """It spends its budget and no more."""
    details = []
    for variant in tested.variants():
        run = tested.run(variant)
        meter, limit = run.trainer.meter, run.limit
        if meter.steps and run.trainer.skipped == meter.steps:
            raise CheckFailed(f"{variant}: none of its {meter.steps} steps had a finite loss and gradient")
        if meter.flops > limit.flops:
            raise CheckFailed(f"{variant}: {meter.flops:,} FLOPs spent of {limit.flops:,}")
        if meter.fraction < 0.5 or not meter.steps:
            raise CheckFailed(f"{variant}: it ended with {meter.fraction:.0%} of its budget spent, after {meter.steps} steps")
        if same(run.before, weights(run.trainer)[: len(run.before)]):
            raise CheckFailed(f"{variant}: the policy did not change")
        details.append(f"{variant} {meter.fraction:.0%} in {meter.steps} steps")
    return ", ".join(details)


def deterministic(tested: AlgorithmUnderTest) -> str:
    """The same seed gives the same weights, bill and log, and another seed another policy."""
    first = tested.run().trainer
    second, other = (tested.trainer(tested.limit(), seed=seed) for seed in (0, 1))
    for global_seed, trainer in enumerate((second, other)):
        torch.manual_seed(global_seed)  # the global random state must not matter
        trainer.run(tested.name)
    if differences := _differences_between(first, second):
        raise CheckFailed(
            f"two runs with one seed differ in their {differences}: use lab.generator for all randomness, and keep state "
            "between calls only in lab.state and lab.module"
        )
    if same(weights(first), weights(other)):
        raise CheckFailed("another seed gives the same policy")
    return "two runs with one seed are bitwise equal, another seed differs"


def finite(tested: AlgorithmUnderTest) -> str:
    """Everything stays finite on batches of unusual shapes."""
    bench = with_odd_shapes(tested.bench).replace(ends=True)
    trainer = tested.trainer(Budget(MAX_FLOPS, steps=2 * STEPS), bench, config=replace(CONFIG, micro_batch=1))
    trainer.run(tested.name)
    if trainer.skipped:
        raise CheckFailed(f"{trainer.skipped} of {trainer.meter.steps} steps had no finite loss and gradient")
    names = sorted({name for row in trainer.log for name, value in row.items() if not math.isfinite(value)})
    if names:
        raise CheckFailed(f"it logs values of {', '.join(names[:3])} that are not finite")
    if not all(torch.isfinite(weight).all() for weight in weights(trainer)):
        raise CheckFailed("some weights are not finite")
    return "answers of one token, prompts of one token, single rows: all finite"


def resumes(tested: AlgorithmUnderTest) -> str:
    """A killed run resumes with the same result."""
    if tested.has_own_loop:
        raise NotApplicable("it has its own training loop, whose checkpoints are the harness's")
    complete, limit, every_step = tested.run().trainer, tested.limit(), replace(CONFIG, checkpoint_seconds=0)
    work, half = tested.new_folder(), complete.meter.steps // 2
    killed = tested.trainer(limit, work=work, config=every_step, algorithm=DiesAtStep(tested.small, half))
    with suppress(Killed):
        killed.run(tested.name)
    resumed = tested.trainer(limit, work=work, config=every_step)
    resumed.run(tested.name)
    if differences := _differences_between(complete, resumed):
        raise CheckFailed(
            f"a resumed run differs in its {differences}: keep what must survive in lab.state or lab.module, and read it "
            "from there each time"
        )
    return f"killed after {half} of {complete.meter.steps} steps: weights, bill, log and state are the same"


def isolated(tested: AlgorithmUnderTest) -> str:
    """The reference, the reward models and the caller's random state do not change."""
    for variant in tested.variants():
        if changed := tested.run(variant).changed:
            raise CheckFailed(f"{variant}: it changes {changed[0]}")
    return "reference, reward models and the random states of torch, numpy and Python are unchanged"


def metered(tested: AlgorithmUnderTest) -> str:
    """It runs no model that the meter does not count."""
    if models := tested.run().trainer.guard.models:
        names = ", ".join(f"{name} ({count:,} parameters)" for name, count in models.items())
        raise CheckFailed(f"it ran {names} outside the lab; create its own modules with lab.module")
    return "no such model was run"


def pure(tested: AlgorithmUnderTest) -> str:
    """Its loss is a function of each row: micro-batches do not change it."""
    if tested.has_own_loop:
        raise NotApplicable("it has its own training loop")
    bench, results = tested.bench.replace(ends=True), []
    for rows in (10**6, 3, 1):
        trainer = tested.trainer(Budget(1e18), bench, config=TrainConfig(micro_batch=rows))
        _nudge(trainer)
        step = next(trainer.steps(), None)
        if step is None:
            raise CheckFailed("its first iteration yields no step")
        if len(step.batch) < 2:
            raise NotApplicable("its batches have a single row")
        loss = trainer.gradients.accumulate(step)
        results.append((loss, [p.grad for p in _all_parameters(trainer)], trainer.meter.items))
    expected_loss, expected_gradients, expected_items = results[0]
    for loss, gradients, items in results[1:]:
        pairs = [(a, b) for a, b in zip(gradients, expected_gradients, strict=True) if a is not None or b is not None]
        difference = max((_apart(a, b) for a, b in pairs), default=0.0)
        size = max((float(b.abs().max()) for _, b in pairs if b is not None), default=0.0)
        # the optimizer makes nothing of the size of gradients, so a loss over a large constant trains as any other
        if abs(loss - expected_loss) > 1e-5 * max(1.0, abs(loss)) or difference > 1e-3 * min(1.0, size):
            raise CheckFailed(
                f"in micro-batches its loss is {loss:.6g} instead of {expected_loss:.6g}, and gradients differ by up to "
                f"{difference:.2g}: compute what depends on several rows in iteration(), as a column of the batch, and keep "
                "nothing between calls of the loss"
            )
        if items != expected_items:
            raise CheckFailed("in micro-batches its cost is different")
    return "loss, gradients and bill are the same in one batch, in micro-batches of three and in single rows"


def _apart(one: Tensor | None, other: Tensor | None) -> float:
    """The largest difference of two gradients; one that is not there is 0."""
    if one is None or other is None:
        return float((one if other is None else other).abs().max())  # type: ignore[union-attr]
    return float((one - other).abs().max())


CHECKS: dict[str, Callable[[AlgorithmUnderTest], str]] = {
    check.__name__: check
    for check in (
        settings, budget, deterministic, finite, resumes, isolated, metered, pure,
        optima.learns, optima.zero_reward, optima.large_kl_coefficient, optima.closed_form,
    )
}  # fmt: skip


class Killed(Exception):
    """Simulates a signal that kills the run."""


class DiesAtStep:
    """An algorithm that dies at its n-th step, within an iteration if that has several steps."""

    def __init__(self, algorithm: Any, steps: int) -> None:
        self.algorithm, self.left, self.lr = algorithm, steps, algorithm.lr

    def iteration(self, lab: Any) -> Iterator[Step]:
        """One iteration, up to the step at which it dies."""
        for step in self.algorithm.iteration(lab):
            if not self.left:
                raise Killed
            self.left -= 1
            yield step


def _differences_between(first: Trainer, second: Trainer) -> str:
    """The names of what differs between two runs."""

    def records(trainer: Trainer) -> dict[str, Any]:
        bill = trainer.meter.spent() | {"seconds": 0}
        return {"bill": bill, "log": trainer.log, "state": trainer.lab.state}

    different = [] if same(weights(first), weights(second)) else ["weights"]
    different += [name for name, value in records(first).items() if value != records(second)[name]]
    return " and ".join(different)


def _all_parameters(trainer: Trainer) -> list[Any]:
    return [*trainer.trained, *(p for module in trainer.session.modules.values() for p in module.parameters())]


def _nudge(trainer: Trainer) -> None:
    """Move the policy away from its base, so that ratios and reference points are not trivial."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.trained:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
