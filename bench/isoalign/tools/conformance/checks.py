"""What every algorithm must do, each tried on a tiny model and reported in words.

A check returns what it saw. It raises `CheckFailed` where the algorithm does otherwise, `NotApplicable` where it does not
apply.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from isoalign.config.search_path import folders
from isoalign.config.training import TrainConfig
from isoalign.core import plugins
from isoalign.core.batches import Step
from isoalign.core.records import Budget
from isoalign.tools.conformance import optima
from isoalign.tools.conformance.algorithm_under_test import AlgorithmUnderTest, CheckFailed, NotApplicable, price_of
from isoalign.tools.conformance.workbench import Bench, same, weights
from isoalign.tools.conformance.workbench import odd as oddly
from isoalign.training import registry
from isoalign.training.process_state import preserved
from isoalign.training.trainer import Trainer

CONFIG = TrainConfig(warmup=2, checkpoint_seconds=1e9)


def settings(tested: AlgorithmUnderTest) -> str:
    """Its yaml has every field with its default and nothing else."""
    declared = registry.hyperparameters(type(tested.algorithm)())
    if price_of(tested.algorithm) and price_of(tested.algorithm) not in declared:
        raise CheckFailed(f"kl_price names {price_of(tested.algorithm)!r}, which is no field")
    files = [file for folder in folders() if (file := folder / "algorithm" / f"{tested.name}.yaml").exists()]
    package = plugins.distribution(type(tested.algorithm))
    if package and (empty := plugins.without_yaml(package[0])):
        raise CheckFailed(f"{empty} has no yaml: its pyproject.toml needs package-data, see docs/extending.md")
    if not files:
        raise NotApplicable("it has no yaml: its fields configure it")
    written = OmegaConf.to_container(OmegaConf.load(files[0]))
    if not isinstance(written, dict):
        raise CheckFailed(f"{files[0]} is no mapping of fields to values")
    if written.pop("name", None) != tested.name:
        raise CheckFailed(f"{files[0]}: name must be {tested.name}, as the file's is")
    unlike = [f"{key!r} is no field" for key in written if key not in declared]
    unlike += [f"{key} is missing" for key in declared if key not in written]
    unlike += [
        f"{key} is {written[key]!r} there and {value!r} in the class"
        for key, value in declared.items()
        if key in written and written[key] != (list(value) if isinstance(value, tuple) else value)
    ]
    if unlike:
        raise CheckFailed(f"{files[0]}: {', '.join(unlike)}")
    return f"{len(declared)} fields{f' of {package[0]}' if package else ''}"


def budget(tested: AlgorithmUnderTest) -> str:
    """It spends its budget and no more."""
    told = []
    for how, bench in tested.variants().items():
        limit = Budget(tested.price(bench))
        trainer = tested.trainer(limit, bench)
        before = weights(trainer)
        trainer.run(tested.name)
        meter = trainer.meter
        if meter.steps and trainer.skipped == meter.steps:
            raise CheckFailed(f"{how}: none of its {meter.steps} steps had a finite loss and gradient")
        if meter.flops > limit.flops:
            raise CheckFailed(f"{how}: {meter.flops:,} FLOPs spent of {limit.flops:,}")
        if meter.fraction < 0.5 or not meter.steps:
            raise CheckFailed(f"{how}: it ended with {meter.fraction:.0%} of its budget spent, after {meter.steps} steps")
        if same(before, weights(trainer)[: len(before)]):
            raise CheckFailed(f"{how}: the policy is what it was")
        told.append(f"{how} {meter.fraction:.0%} in {meter.steps} steps")
    return ", ".join(told)


def deterministic(tested: AlgorithmUnderTest) -> str:
    """The same seed gives the same weights, bill and log, and another seed another policy."""
    limit = Budget(tested.price())
    first, second, other = (tested.trainer(limit, seed=seed) for seed in (3, 3, 4))
    for place, trainer in enumerate((first, second, other)):
        torch.manual_seed(place)  # what the caller did with the global state must not matter
        trainer.run(tested.name)
    if unlike := _differences(first, second):
        raise CheckFailed(
            f"two runs with one seed differ in their {unlike}: chance must come from lab.generator, and nothing may be kept "
            "between calls but in lab.state and lab.module"
        )
    if same(weights(first), weights(other)):
        raise CheckFailed("another seed gives the very same policy")
    return "two runs with one seed are alike to the bit, another seed differs"


def finite(tested: AlgorithmUnderTest) -> str:
    """Batches of odd shapes leave everything finite."""
    bench = oddly(tested.bench).but(ends=True)
    trainer = tested.trainer(Budget(tested.price(bench)), bench, config=replace(CONFIG, micro_batch=1))
    trainer.run(tested.name)
    if trainer.skipped:
        raise CheckFailed(f"{trainer.skipped} of {trainer.meter.steps} steps had no finite loss and gradient")
    odd = sorted({name for row in trainer.log for name, value in row.items() if not math.isfinite(value)})
    if odd:
        raise CheckFailed(f"it logs {', '.join(odd[:3])} that are not finite")
    if not all(torch.isfinite(weight).all() for weight in weights(trainer)):
        raise CheckFailed("some weights are not finite")
    return "answers of one token, prompts of one token, single rows: all finite"


def resumes(tested: AlgorithmUnderTest) -> str:
    """A run that was killed goes on as if nothing had happened."""
    if tested.loops:
        raise NotApplicable("it brings a loop of its own: a killed run starts again")
    limit, often = Budget(tested.price()), replace(CONFIG, checkpoint_seconds=0)
    whole = tested.trainer(limit, config=often)
    whole.run(tested.name)
    work = tested.place()
    dying = tested.trainer(limit, work=work, config=often, algorithm=DiesAtStep(tested.small, whole.meter.steps // 2))
    with suppress(Killed):
        dying.run(tested.name)
    again = tested.trainer(limit, work=work, config=often)
    again.run(tested.name)
    if unlike := _differences(whole, again):
        raise CheckFailed(
            f"a resumed run ends with other {unlike}: what must survive belongs into lab.state or lab.module, and is to be "
            "read from there each time"
        )
    return f"killed after {whole.meter.steps // 2} of {whole.meter.steps} steps: weights, bill, log and state are the same"


def isolated(tested: AlgorithmUnderTest) -> str:
    """The reference, the reward models and the caller's random state are left alone."""
    for how, bench in tested.variants().items():
        with preserved():
            trainer = tested.trainer(Budget(tested.price(bench)), bench)
        np.random.random(), random.random()  # so that who seeds them anew is not where it was
        before, python = _process_state(bench, trainer), random.getstate()
        with preserved():
            trainer.run(tested.name)
        for what, first, second in zip(before, before.values(), _process_state(bench, trainer).values(), strict=True):
            if not same(first, second):
                raise CheckFailed(f"{how}: it changes {what}")
        if random.getstate() != python:
            raise CheckFailed(f"{how}: it uses Python's random numbers; chance comes from lab.generator")
    return "reference, reward models, random states of torch, numpy and Python are as they were"


def metered(tested: AlgorithmUnderTest) -> str:
    """No model runs that the meter does not know."""
    trainer = tested.trainer(Budget(tested.price()))
    trainer.run(tested.name)
    if trainer.guard.models:
        found = ", ".join(f"{name} ({count:,} parameters)" for name, count in trainer.guard.models.items())
        raise CheckFailed(f"it ran {found} beside the lab; use lab.module for modules of your own")
    return "none was seen"


def pure(tested: AlgorithmUnderTest) -> str:
    """Its loss is a function of the rows: micro-batches change nothing."""
    if tested.loops:
        raise NotApplicable("it brings a loop of its own")
    bench, found = tested.bench.but(ends=True), []
    for rows in (10**6, 3, 1):
        trainer = tested.trainer(Budget(1e18), bench, config=TrainConfig(micro_batch=rows))
        _nudge(trainer)
        step = next(trainer.steps(), None)
        if step is None:
            raise CheckFailed("its first iteration yields no step")
        if len(step.batch) < 2:
            raise NotApplicable("its batches have a single row")
        loss = trainer.backward(step)
        found.append((loss, [p.grad for p in _everything(trainer)], trainer.meter.items))
    for loss, gradients, items in found[1:]:
        far = max(
            (float((a - b).abs().max()) for a, b in zip(gradients, found[0][1], strict=True) if a is not None), default=0
        )
        if abs(loss - found[0][0]) > 1e-5 * max(1.0, abs(loss)) or far > 1e-3:
            raise CheckFailed(
                f"cut into micro-batches its loss is {loss:.6g} instead of {found[0][0]:.6g}, gradients differ by up to "
                f"{far:.2g}: what couples rows belongs into iteration(), as a column of the batch, and nothing is kept "
                "between calls"
            )
        if items != found[0][2]:
            raise CheckFailed("cut into micro-batches it costs another sum")
    return "loss, gradients and bill are the same in one piece, by threes and by single rows"


CHECKS: dict[str, Callable[[AlgorithmUnderTest], str]] = {
    check.__name__: check
    for check in (
        settings, budget, deterministic, finite, resumes, isolated, metered, pure,
        optima.learns, optima.zero_reward, optima.large_price, optima.closed_form,
    )
}  # fmt: skip


class Killed(Exception):
    """Stands for a signal."""


class DiesAtStep:
    """An algorithm that dies at its n-th step, in the midst of an iteration where that has several."""

    def __init__(self, algorithm: Any, steps: int) -> None:
        self.algorithm, self.left, self.lr = algorithm, steps, algorithm.lr

    def iteration(self, lab: Any) -> Iterator[Step]:
        """One iteration, or what there is of it."""
        for step in self.algorithm.iteration(lab):
            if not self.left:
                raise Killed
            self.left -= 1
            yield step


def _differences(first: Trainer, second: Trainer) -> str:
    """In what two runs differ, in words."""

    def plain(trainer: Trainer) -> dict[str, Any]:
        bill = trainer.meter.spent() | {"seconds": 0}
        return {"bill": bill, "log": trainer.log, "state": trainer.lab.state}

    unlike = [] if same(weights(first), weights(second)) else ["weights"]
    unlike += [name for name, value in plain(first).items() if value != plain(second)[name]]
    return " and ".join(unlike)


def _everything(trainer: Trainer) -> list[Any]:
    return [*trainer.trained, *(p for module in trainer.session.modules.values() for p in module.parameters())]


def _nudge(trainer: Trainer) -> None:
    """Move the policy away from its base, where ratios and reference points are not trivial."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.trained:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def _process_state(bench: Bench, trainer: Trainer) -> dict[str, list[Tensor]]:
    reference, batch = trainer.session.reference, bench.source.feedback("annotator").pairs(torch.arange(4), 1).chosen
    with torch.no_grad(), reference.adapter_off():
        said = reference(batch).logp.clone()
    models = [model.model for model in bench.source.rewards.values()]
    return {
        "the reference": [said, *(p.clone() for p in reference.inner.parameters() if not p.requires_grad)],
        "a reward model": [p.clone() for model in models for p in model.parameters()],
        "torch's random state": [torch.get_rng_state()],
        "numpy's random state": [torch.tensor(np.random.get_state()[1].astype(np.int64))],  # type: ignore[union-attr, index]
    }
