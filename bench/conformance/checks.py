"""What every algorithm must do, each tried on a tiny model and reported in words.

A check returns what it saw. It raises `Broken` where the algorithm does otherwise, `Exempt` where the demand is none of its.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.conformance import toy
from bench.conformance.workbench import Bench, same, small, weights
from bench.conformance.workbench import odd as oddly
from bench.train import TrainConfig, Trainer
from bench.types import Budget, Step

STEPS, RATE = 250, 3e-3  # of the toy's trainings
PRICE = 0.5  # of a nat there, at which the best policy is about a nat from the base
STEPS_EACH = 4  # optimizer steps, which a run of the other checks lasts
LEAST, MOST = 60_000_000, 10**10  # FLOPs of such a run: later stages of a method have their turn, and it has an end
CONFIG = TrainConfig(warmup=2, checkpoint_seconds=1e9)


class Broken(Exception):
    """The algorithm does otherwise; the text says how."""


class Exempt(Exception):
    """The demand is none of this algorithm's; the text says why."""


@dataclass(frozen=True)
class Subject:
    """An algorithm under examination, on a bench, with a folder for what its runs leave. ``small``: its batches cut down."""

    name: str
    algorithm: Any
    bench: Bench
    folder: Path
    count: Iterator[int] = field(default_factory=itertools.count)

    @property
    def small(self) -> Any:
        """The algorithm with batches that a tiny bench holds."""
        return small(self.algorithm)

    def trainer(self, budget: Budget, bench: Bench | None = None, **options: Any) -> Trainer:
        """A trainer on a new lab, in a new folder unless ``work`` is given."""
        work = options.pop("work", None) or self.place()
        return (bench or self.bench).trainer(options.pop("algorithm", self.small), budget, work, **options)

    def place(self) -> Path:
        """A new folder."""
        work = self.folder / str(next(self.count))
        work.mkdir(parents=True)
        return work

    def price(self, bench: Bench | None = None) -> int:
        """FLOPs of a few steps, what is paid once included."""
        trainer = self.trainer(Budget(MOST, steps=STEPS_EACH), bench)
        trainer.run(self.name)
        return max(trainer.meter.flops, LEAST)

    def variants(self) -> dict[str, Bench]:
        """The bench in the ways in which a task may be set up."""
        return {"all weights": self.bench, "LoRA": self.bench.but(lora=4), "open end of text": self.bench.but(ends=True)}

    @property
    def loops(self) -> bool:
        """Whether it brings a training loop of its own."""
        return hasattr(self.algorithm, "train")


def budget(subject: Subject) -> str:
    """It spends its budget and no more."""
    told = []
    for how, bench in subject.variants().items():
        limit = Budget(subject.price(bench))
        trainer = subject.trainer(limit, bench)
        before = weights(trainer)
        trainer.run(subject.name)
        meter = trainer.meter
        if meter.flops > limit.flops:
            raise Broken(f"{how}: {meter.flops:,} FLOPs spent of {limit.flops:,}")
        if meter.fraction < 0.5 or not meter.steps:
            raise Broken(f"{how}: it ended with {meter.fraction:.0%} of its budget spent, after {meter.steps} steps")
        if same(before, weights(trainer)[: len(before)]):
            raise Broken(f"{how}: the policy is what it was")
        told.append(f"{how} {meter.fraction:.0%} in {meter.steps} steps")
    return ", ".join(told)


def deterministic(subject: Subject) -> str:
    """The same seed gives the same weights, bill and log, and another seed another policy."""
    limit = Budget(subject.price())
    first, second, other = (subject.trainer(limit, seed=seed) for seed in (3, 3, 4))
    for place, trainer in enumerate((first, second, other)):
        torch.manual_seed(place)  # what the caller did with the global state must not matter
        trainer.run(subject.name)
    if unlike := _differences(first, second):
        raise Broken(f"two runs with one seed differ in their {unlike}: chance must come from lab.generator")
    if same(weights(first), weights(other)):
        raise Broken("another seed gives the very same policy")
    return "two runs with one seed are alike to the bit, another seed differs"


def finite(subject: Subject) -> str:
    """Batches of odd shapes leave everything finite."""
    bench = oddly(subject.bench).but(ends=True)
    trainer = subject.trainer(Budget(subject.price(bench)), bench, config=replace(CONFIG, micro_batch=1))
    trainer.run(subject.name)
    odd = [name for row in trainer.log for name, value in row.items() if not math.isfinite(value)]
    if trainer.skipped or odd:
        raise Broken(f"{trainer.skipped} of {trainer.meter.steps} steps had no finite loss or gradient, and so had {odd[:3]}")
    if not all(torch.isfinite(weight).all() for weight in weights(trainer)):
        raise Broken("some weights are not finite")
    return "answers of one token, prompts of one token, single rows: all finite"


def resumes(subject: Subject) -> str:
    """A run that was killed goes on as if nothing had happened."""
    if subject.loops:
        raise Exempt("it brings a loop of its own: a killed run starts again")
    limit, often = Budget(subject.price()), replace(CONFIG, checkpoint_seconds=0)
    whole = subject.trainer(limit, config=often)
    whole.run(subject.name)
    work = subject.place()
    dying = subject.trainer(limit, work=work, config=often, algorithm=Mortal(subject.small, whole.meter.steps // 2))
    with suppress(Killed):
        dying.run(subject.name)
    again = subject.trainer(limit, work=work, config=often)
    again.run(subject.name)
    if unlike := _differences(whole, again):
        raise Broken(f"a resumed run ends with other {unlike}: what must survive belongs into lab.state or lab.module")
    return f"killed after {whole.meter.steps // 2} of {whole.meter.steps} steps: weights, bill, log and state are the same"


def isolated(subject: Subject) -> str:
    """The reference, the reward models and the caller's random state are left alone."""
    for how, bench in subject.variants().items():
        trainer = subject.trainer(Budget(subject.price(bench)), bench)
        np.random.random(), random.random()  # so that who seeds them anew is not where it was
        before, python = _surroundings(bench, trainer), random.getstate()
        trainer.run(subject.name)
        for what, first, second in zip(before, before.values(), _surroundings(bench, trainer).values(), strict=True):
            if not same(first, second):
                raise Broken(f"{how}: it changes {what}")
        if random.getstate() != python:
            raise Broken(f"{how}: it uses Python's random numbers; chance comes from lab.generator")
        if not torch.is_grad_enabled():
            raise Broken(f"{how}: it leaves gradients switched off")
    return "reference, reward models, random states of torch, numpy and Python are as they were"


def metered(subject: Subject) -> str:
    """No model runs that the meter does not know."""
    trainer = subject.trainer(Budget(subject.price()))
    trainer.run(subject.name)
    if trainer.guard.models:
        found = ", ".join(f"{name} ({count:,} parameters)" for name, count in trainer.guard.models.items())
        raise Broken(f"it ran {found} beside the lab; use lab.module for modules of your own")
    return "none was seen"


def pure(subject: Subject) -> str:
    """Its loss is a function of the rows: micro-batches change nothing."""
    if subject.loops:
        raise Exempt("it brings a loop of its own")
    bench, found = subject.bench.but(ends=True), []
    for rows in (10**6, 3, 1):
        trainer = subject.trainer(Budget(1e18), bench, config=TrainConfig(micro_batch=rows))
        _nudge(trainer)
        step = next(trainer._iteration())
        loss = trainer._backward(step)
        found.append((loss, [p.grad for p in _everything(trainer)], trainer.meter.items))
    if len(step.batch) < 2:
        raise Exempt("its batches have a single row")
    for loss, gradients, items in found[1:]:
        far = max(
            (float((a - b).abs().max()) for a, b in zip(gradients, found[0][1], strict=True) if a is not None), default=0
        )
        if abs(loss - found[0][0]) > 1e-5 * max(1.0, abs(loss)) or far > 1e-3:
            raise Broken(
                f"cut into micro-batches its loss is {loss:.6g} instead of {found[0][0]:.6g}, gradients differ by up to "
                f"{far:.2g}: what couples rows belongs into iteration(), as a column of the batch"
            )
        if items != found[0][2]:
            raise Broken("cut into micro-batches it costs another sum")
    return "loss, gradients and bill are the same in one piece, by threes and by single rows"


def zero_reward(subject: Subject) -> str:
    """Where all answers are as good as each other, it stays near its base."""
    free, paid = _toy(subject, 0.0, PRICE), _toy(subject, 1.0, PRICE)
    if "closed_form" in _declared(subject) or _price(subject):
        if free > 0.25 * max(paid, 0.1):
            raise Broken(f"KL {free:.3f} nats from the base where no answer is better, {paid:.3f} where some are")
        return f"KL {free:.3f} nats, and {paid:.3f} where some answers are better"
    raise Exempt(
        f"it declares no price on KL (kl_price); it went {free:.3f} nats, and {paid:.3f} where some answers are better"
    )


def large_price(subject: Subject) -> str:
    """At a large price on KL, the SFT policy comes back."""
    if not _price(subject):
        raise Exempt("it declares no price on KL (kl_price)")
    cheap, dear = _toy(subject, 1.0, PRICE), _toy(subject, 1.0, 100 * PRICE)
    if dear > 0.25 * cheap:
        raise Broken(f"KL {dear:.3f} nats at {_price(subject)}={100 * PRICE:g}, {cheap:.3f} at {PRICE:g}")
    return f"KL {dear:.4f} nats at {_price(subject)}={100 * PRICE:g}, {cheap:.3f} at {PRICE:g}"


def closed_form(subject: Subject) -> str:
    """It comes to base x exp(reward / price), the best policy, on a toy whose answers can be counted."""
    if not _declared(subject).get("closed_form") or not _price(subject):
        raise Exempt("it does not declare closed_form: its objective has another optimum, or none that is known")
    bench = toy.toy(subject.bench, 1.0)
    base = toy.distribution(bench.language_model())
    best = toy.optimum(base, bench.shelf.the_judge.rewards, PRICE)
    far, start = toy.kl(_on_toy(subject, bench, PRICE), best), toy.kl(base, best)
    if far > 0.15 * start:
        raise Broken(f"KL {far:.3f} nats from the best policy, of {start:.3f} at the start")
    return f"KL {far:.3f} nats from the best policy, of {start:.3f} at the start"


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check
    for check in (
        budget, deterministic, finite, resumes, isolated, metered, pure, zero_reward, large_price, closed_form,
    )
}  # fmt: skip


class Killed(Exception):
    """Stands for a signal."""


class Mortal:
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


def _toy(subject: Subject, scale: float, price: float) -> float:
    """KL from the base after training on the toy."""
    bench = toy.toy(subject.bench, scale)
    return toy.kl(_on_toy(subject, bench, price), toy.distribution(bench.language_model()))


def _on_toy(subject: Subject, bench: Bench, price: float) -> Tensor:
    changes: dict[str, Any] = {"lr": RATE} | ({_price(subject): price} if _price(subject) else {})
    return toy.trained(
        bench, dataclasses.replace(subject.algorithm, **changes), STEPS, subject.folder / f"toy-{next(subject.count)}"
    )


def _declared(subject: Subject) -> dict[str, Any]:
    return {name: getattr(subject.algorithm, name) for name in ("closed_form", "kl_price") if hasattr(subject.algorithm, name)}


def _price(subject: Subject) -> str:
    return str(_declared(subject).get("kl_price", ""))


def _differences(first: Trainer, second: Trainer) -> str:
    """In what two runs differ, in words."""

    def plain(trainer: Trainer) -> dict[str, Any]:
        bill = trainer.meter.spent() | {"seconds": 0}
        return {"bill": bill, "log": trainer.log, "state": trainer.lab.state}

    unlike = [] if same(weights(first), weights(second)) else ["weights"]
    unlike += [name for name, value in plain(first).items() if value != plain(second)[name]]
    return " and ".join(unlike)


def _everything(trainer: Trainer) -> list[Any]:
    return [*trainer.trained, *(p for module in trainer.lab._modules.values() for p in module.parameters())]


def _nudge(trainer: Trainer) -> None:
    """Move the policy away from its base, where ratios and reference points are not trivial."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.trained:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def _surroundings(bench: Bench, trainer: Trainer) -> dict[str, list[Tensor]]:
    reference, batch = trainer.lab._reference, bench.shelf.feedback("annotator").pairs(torch.arange(4), 1).chosen
    with torch.no_grad(), reference.adapter_off():
        said = reference(batch).logp.clone()
    models = [model.model for model in bench.shelf.rewards.values()]
    return {
        "the reference": [said, *(p.clone() for p in reference.inner.parameters() if not p.requires_grad)],
        "a reward model": [p.clone() for model in models for p in model.parameters()],
        "torch's random state": [torch.get_rng_state()],
        "numpy's random state": [torch.tensor(np.random.get_state()[1].astype(np.int64))],  # type: ignore[union-attr, index]
    }
