"""What a loss, and the modules of an algorithm, must not do: each is refused in a line, as it would change results untold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoalign import Batch, Lab, Rollouts, Step
from isoalign.config.training import TrainConfig
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from workbench import Bench


@dataclass(frozen=True)
class Weighed(Batch):
    """Rollouts with a weight each."""

    rollouts: Rollouts
    weight: Tensor


STEPS = Budget(1e15, steps=3)


class Simple:
    """Likelihood of chosen answers, by weights of 1; ``first`` is done in each iteration, ``more`` is added to each loss."""

    lr = 1e-3

    def __init__(
        self, more: Callable[[Lab, Weighed], Any] = lambda *_: 0.0, first: Callable[[Lab], Any] = lambda _: None
    ) -> None:
        self.more, self.first = more, first

    def iteration(self, lab: Lab) -> Iterator[Step]:
        self.first(lab)
        rollouts = lab.pairs(4).chosen
        yield Step(Weighed(rollouts, torch.ones(len(rollouts))), self.loss)

    def loss(self, lab: Lab, rows: Weighed) -> Tensor:
        more = self.more(lab, rows)
        return more - rows.weight * lab.policy(rows.rollouts).logp.sum(1)


def run(bench: Bench, folder: Path, algorithm: Any, budget: Budget = STEPS, **settings: Any) -> Any:
    config = TrainConfig(warmup=2, checkpoint_seconds=1e9, **settings)
    trainer = bench.trainer(algorithm, budget, folder, config=config)
    trainer.run("simple")
    return trainer


def draws(lab: Lab, _: Weighed) -> float:
    return float(torch.rand((), generator=lab.generator))


def drops(lab: Lab, rows: Weighed) -> Tensor:
    head = lab.module("v", lambda width: nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 1)))
    found: Tensor = head(lab.policy(rows.rollouts).hidden).sum((1, 2))
    return found


def remembers(lab: Lab, rows: Weighed) -> float:
    lab.state.setdefault("seen", []).append(len(rows))
    return 0.0


def writes(_: Lab, rows: Weighed) -> float:
    rows.weight.sub_(0.25)
    return 0.0


def pads(_: Lab, rows: Weighed) -> float:
    rows.rollouts.mask[:, -1] = False
    return 0.0


@pytest.mark.parametrize("what", [draws, drops, remembers, writes, pads])
def test_what_a_loss_would_do_once_more_for_its_quote_is_refused(what: Any, tiny_bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a loss draws random .* or writes lab\.state or its rows, and it is called twice"):
        run(tiny_bench, tmp_path, Simple(what))


def test_progress_stays_what_it_is_within_a_step(tiny_bench: Bench, tmp_path: Path) -> None:
    """Whatever parts the rows are read in: a schedule in a loss is one of steps."""
    scheduled = Simple(lambda lab, _: 100 * lab.progress)
    logs = [run(tiny_bench, tmp_path / str(micro), scheduled, Budget(1e8), micro_batch=micro).log for micro in (4, 1)]
    whole, parts = ([row["loss"] for row in log] for log in logs)
    assert len(whole) > 3
    assert parts == pytest.approx(whole, rel=1e-4)


class Head(nn.Module):
    """A head on a layer that it is given."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 1)


@pytest.mark.parametrize(("owner", "trained"), [("the policy", True), ("lab.module 'shared'", True), ("", False)])
def test_weights_that_two_optimizers_would_move_are_refused(
    owner: str, trained: bool, tiny_bench: Bench, tmp_path: Path
) -> None:
    def make(lab: Lab) -> None:
        shared = lab.module("shared", lambda width: nn.Linear(width, width).requires_grad_(trained))
        layer = lab._session.policy.head if owner == "the policy" else shared
        lab.module("q", lambda width: Head(width, layer))

    if owner:
        with pytest.raises(UserError, match=f"'q' has weights of {owner}, so both would train them"):
            run(tiny_bench, tmp_path, Simple(first=make))
    else:
        assert run(tiny_bench, tmp_path, Simple(first=make)).meter.steps == 3


def test_a_module_that_is_made_trainable_after_it_was_made_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    def value(lab: Lab, rows: Weighed) -> Tensor:
        head = lab.module("v", lambda width: nn.Linear(width, 1).requires_grad_(False)).requires_grad_(lab.progress > 0.3)
        found: Tensor = head(lab.policy(rows.rollouts).hidden).sum((1, 2))
        return found

    with pytest.raises(UserError, match=r"weights of lab\.module 'v' were frozen when it was made and have a gradient now"):
        run(tiny_bench, tmp_path, Simple(value))


def test_a_pass_with_gradients_that_two_steps_use_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    class Twice(Simple):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            (step,) = super().iteration(lab)
            logp = lab.policy(step.batch.rollouts).logp.sum(1)  # type: ignore[attr-defined]
            for _ in range(2):
                yield Step(Weighed(step.batch.rollouts, logp), lambda lab, rows: self.loss(lab, rows))  # type: ignore[attr-defined]

    with pytest.raises(UserError, match="a pass with gradients that an earlier step, or part of its rows, has used too"):
        run(tiny_bench, tmp_path, Twice())


def test_a_column_named_as_a_method_of_batches_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Measured(Batch):
        rollouts: Rollouts
        lengths: Tensor  # type: ignore[assignment]

    class Named(Simple):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            rollouts = lab.pairs(4).chosen
            yield Step(Measured(rollouts, torch.ones(4)), lambda lab, rows: -lab.policy(rows.rollouts).logp.sum(1))

    with pytest.raises(UserError, match="a batch has a field lengths, but lengths is a method of every Batch"):
        run(tiny_bench, tmp_path, Named())
