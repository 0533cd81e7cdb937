"""Every registered algorithm, whatever it does, runs within its budget, repeats itself and leaves alone what isn't its own."""

import contextlib
import dataclasses
import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from workbench import Bench, algorithms, loops, same, small, weights

from bench import registry
from bench.errors import UserError
from bench.lab import Lab
from bench.meter import BudgetSpent
from bench.train import TrainConfig
from bench.types import Budget, Rollouts, Step

ITERATING = pytest.mark.parametrize(("name", "algorithm"), algorithms())
ALL = pytest.mark.parametrize(("name", "algorithm"), algorithms() + loops())
FLOPS = Budget(6e7)  # a few steps of the tiny model


def enough(algorithm: Any) -> Budget:
    """A few steps; a loop of TRL's pays for padding, prompts and a second pass of the head, too."""
    return FLOPS if hasattr(algorithm, "iteration") else Budget(2.4e8)


@ALL
@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("ends", [False, True], ids=["masked", "open"])
def test_it_spends_its_budget_and_no_more_and_stays_finite(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any, lora: int, ends: bool
) -> None:
    trainer = tiny_bench.but(lora=lora, ends=ends).trainer(algorithm, enough(algorithm), tmp_path)
    before = weights(trainer)
    trainer.run(name)
    meter = trainer.meter
    assert meter.flops <= meter.budget.flops
    assert meter.fraction > 0.5  # what is left does not pay for another round
    assert meter.steps == len(trainer.log) > 2
    assert trainer.skipped == 0
    assert all(math.isfinite(value) for row in trainer.log for value in row.values())
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))
    assert not same(before, [p.detach() for p in trainer.trained])
    assert [row["flops_spent"] for row in trainer.log] == sorted(row["flops_spent"] for row in trainer.log)
    json.dumps(meter.spent(), allow_nan=False)


@ALL
def test_the_same_seed_gives_the_same_weights_bill_and_log_and_another_seed_others(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any
) -> None:
    runs = []
    for place, seed in enumerate((3, 3, 4)):
        torch.manual_seed(place)  # what the caller did with the global state must not matter
        trainer = tiny_bench.trainer(algorithm, enough(algorithm), tmp_path, seed=seed)
        trainer.run(name)
        runs.append((weights(trainer), trainer.meter.spent() | {"seconds": 0}, trainer.log))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]
    assert not same(runs[0][0], runs[2][0])


@ALL
@pytest.mark.parametrize("lora", [0, 4])
def test_it_leaves_the_reference_and_the_callers_random_state_alone(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any, lora: int
) -> None:
    trainer = tiny_bench.but(lora=lora).trainer(algorithm, enough(algorithm), tmp_path)
    lab = trainer.lab
    batch = tiny_bench.shelf.feedback("annotator").pairs(torch.arange(4), 1).chosen

    def outside() -> list[Any]:
        with torch.no_grad(), lab._reference.adapter_off():
            said = lab._reference(batch).logp.clone()
        rewards = [p.clone() for reward in tiny_bench.shelf.rewards.values() for p in reward.model.parameters()]
        frozen = [p.clone() for p in lab._reference.inner.parameters() if not p.requires_grad]
        return [said, *rewards, *frozen, torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64))]

    before, python = outside(), random.getstate()
    trainer.run(name)
    assert same(before, outside())
    assert random.getstate() == python
    assert torch.is_grad_enabled()


@ITERATING
@pytest.mark.parametrize("lora", [0, 4])
def test_micro_batches_change_nothing(tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any, lora: int) -> None:
    found = []
    for rows in (100, 3, 1):
        config = TrainConfig(micro_batch=rows)
        trainer = tiny_bench.but(lora=lora, ends=True).trainer(algorithm, Budget(1e15), tmp_path, config=config)
        with torch.no_grad():  # away from the base, where the reference point and the ratios are not trivial
            generator = torch.Generator().manual_seed(5)
            for parameter in trainer.trained:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        step = next(iter(algorithm.iteration(trainer.lab)))
        assert len(step.batch) > 3
        loss = trainer._backward(step)
        every = [*trainer.trained, *(p for m in trainer.lab._modules.values() for p in m.parameters())]
        found.append((loss, [p.grad for p in every], trainer.meter.items))
    for loss, gradients, items in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for gradient, whole in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(gradient, whole, atol=2e-5, rtol=1e-4)
        assert items == found[0][2]


@ALL
def test_a_budget_too_small_for_one_step_is_a_user_error(tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any) -> None:
    trainer = tiny_bench.trainer(algorithm, Budget(5000), tmp_path)
    before = weights(trainer)
    with pytest.raises(UserError, match="too small for one step"):
        trainer.run(name)
    assert trainer.meter.flops <= 5000
    assert trainer.meter.steps == 0
    assert same(before, weights(trainer))


def test_the_sft_row_has_nothing_to_train() -> None:
    assert dataclasses.fields(registry.algorithm("sft")) == ()
    assert not hasattr(registry.algorithm("sft"), "iteration")


# -- algorithms that misbehave -----------------------------------------------------------------------------------------


class Faulty:
    """Likelihood of the chosen answers, gone wrong at some steps."""

    lr = 1e-3

    def __init__(self, bad: set[int], how: str = "loss") -> None:
        self.bad, self.how, self.step = bad, how, 0

    def iteration(self, lab: Lab) -> Iterator[Step]:
        self.step += 1
        yield Step(lab.pairs(4).chosen, self.loss)

    def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
        losses = -lab.policy(rollouts).logp.sum(1)
        if self.step in self.bad:
            if self.how == "loss":
                return losses * float("nan")
            return (losses - losses.detach()).sqrt()  # 0, with an infinite gradient
        return losses


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_paid_and_counted_but_not_taken(tiny_bench: Bench, tmp_path: Path, how: str) -> None:
    trainer = tiny_bench.trainer(Faulty({1, 3}, how), Budget(1e15, steps=4), tmp_path)
    history = [weights(trainer)]
    note = trainer._note

    def watch(*row: Any) -> None:
        history.append(weights(trainer))
        note(*row)

    trainer._note = watch  # type: ignore[method-assign]
    trainer.run("faulty")
    assert [same(a, b) for a, b in itertools.pairwise(history)] == [True, False, True, False]
    assert (trainer.skipped, trainer.meter.steps) == (2, 4)
    spent = [row["flops_spent"] for row in trainer.log]
    assert all(b > a for a, b in itertools.pairwise(spent))
    assert ["loss" in row for row in trainer.log] == [False, True, False, True]
    json.dumps(trainer.log, allow_nan=False)


def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run(tiny_bench: Bench, tmp_path: Path) -> None:
    config = TrainConfig(patience=3)
    trainer = tiny_bench.trainer(Faulty(set(range(3, 100))), Budget(1e15, steps=50), tmp_path, config=config)
    with pytest.raises(UserError, match="Faulty: 3 steps in a row had no finite loss or gradient"):
        trainer.run("faulty")
    assert trainer.skipped == 3
    trainer = tiny_bench.trainer(Faulty({1, 2, 4, 5, 7, 8}), Budget(1e15, steps=9), tmp_path, config=config)
    trainer.run("faulty")  # never three in a row
    assert trainer.skipped == 6


def test_an_algorithm_that_spends_nothing_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    class Idle:
        lr = 1.0

        def iteration(self, lab: Lab) -> Iterator[Step]:
            yield from ()

    with pytest.raises(UserError, match="spent nothing"):
        tiny_bench.trainer(Idle(), FLOPS, tmp_path).run("idle")


def test_a_loss_that_is_not_one_value_a_row_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    class Mean(Faulty):
        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            return super().loss(lab, rollouts).mean()

    with pytest.raises(UserError, match=r"a loss must give one value a row: got \(\) for 4 rows"):
        tiny_bench.trainer(Mean(set()), FLOPS, tmp_path).run("mean")


def test_an_algorithm_cannot_swallow_the_end_of_its_budget(tiny_bench: Bench, tmp_path: Path) -> None:
    class Deaf(Faulty):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            with contextlib.suppress(BudgetSpent):
                yield from super().iteration(lab)

    trainer = tiny_bench.trainer(Deaf(set()), Budget(1e15, steps=2), tmp_path)
    trainer.run("deaf")
    assert trainer.meter.steps == 2


# -- what the harness alone decides ------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_then_falls_to_nothing_with_the_budget(tiny_bench: Bench, tmp_path: Path) -> None:
    config = TrainConfig(warmup=4)
    trainer = tiny_bench.trainer(small("dpo", lr=0.5), Budget(1e15, steps=20), tmp_path, config=config)
    trainer.run("dpo")
    rates = [row["lr"] for row in trainer.log]
    hoped = [0.5 * min(1, (step + 1) / 4) * (1 - step / 20) for step in range(20)]
    assert rates == pytest.approx(hoped)


def test_what_is_paid_before_the_first_step_does_not_shorten_the_schedule(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = tiny_bench.trainer(small("ppo", lr=0.5), FLOPS, tmp_path, config=TrainConfig(warmup=0))
    trainer.run("ppo")
    assert trainer.lab._start > 0
    assert trainer.log[0]["lr"] == 0.5
    assert trainer.log[-1]["lr"] < 0.25


def test_gradients_are_clipped_in_the_policy_and_in_each_module_apart(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = tiny_bench.trainer(small("ppo"), Budget(1e15, steps=1), tmp_path, config=TrainConfig(clip=1e-3))
    norms, clip = {}, trainer._norm

    def watch(parameters: list[nn.Parameter]) -> float:
        found = clip(parameters)
        norms[len(parameters)] = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in parameters if p.grad is not None))
        return found

    trainer._norm = watch  # type: ignore[method-assign]
    trainer.run("ppo")
    assert len(norms) == 2
    assert all(norm <= 1.001e-3 for norm in norms.values())


def test_scalars_of_one_step_are_averaged_and_belong_to_that_step(tiny_bench: Bench, tmp_path: Path) -> None:
    class Talks(Faulty):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            lab.log(seen=10.0 * self.step)
            yield from super().iteration(lab)

        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            lab.log(rows=float(len(rollouts)))
            return super().loss(lab, rollouts)

    config = TrainConfig(micro_batch=3)
    trainer = tiny_bench.trainer(Talks(set()), Budget(1e15, steps=2), tmp_path, config=config)
    trainer.run("talks")
    assert [row["seen"] for row in trainer.log] == [0.0, 10.0]
    assert [row["rows"] for row in trainer.log] == [2.0, 2.0]  # micro-batches of 3 and 1


def test_a_loss_may_gather_logits_at_tokens(tiny_bench: Bench, tmp_path: Path) -> None:
    class Gatherer:
        lr = 1e-3

        def iteration(self, lab: Lab) -> Iterator[Step]:
            yield Step(lab.pairs(4).chosen, self.loss)

        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            tokens = rollouts.completion.unsqueeze(-1)
            return -lab.policy(rollouts).logits.gather(-1, tokens).squeeze(-1).sum(1)

    trainer = tiny_bench.trainer(Gatherer(), Budget(1e15, steps=2), tmp_path)
    trainer.run("gatherer")
    assert trainer.meter.steps == 2


@pytest.mark.parametrize("what", ["prompts", "pairs", "labels", "revisions"])
@pytest.mark.parametrize("count", [0, -3])
def test_asking_for_nothing_is_refused(tiny_bench: Bench, what: str, count: int) -> None:
    with pytest.raises(UserError, match=f"^asked for {count} {what};"):
        getattr(tiny_bench.lab(), what)(count)


def test_the_judge_prefers_by_the_odds_of_acceptability(tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tiny_bench.lab()
    monkeypatch.setattr(lab, "judge_score", torch.tensor)
    # odds of 9, 3 and 1 against 1, 1 and 1: they win 9 of 10, 3 of 4, 1 of 2
    first: Any = [0.9, 0.75, 0.5, 1.0]
    second: Any = [0.5, 0.5, 0.5, 0.0]
    *some, certain = lab.judge(first, second).tolist()
    assert some == pytest.approx([0.9, 0.75, 0.5])
    assert 0.99 < certain < 1, "no verdict is quite certain"
