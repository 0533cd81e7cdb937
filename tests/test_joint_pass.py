"""What a step's loss reads of the same prompts is one pass, with the losses, gradients and bill of several."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isoalign import Batch, Lab, Pairs, Rollouts, Step
from isoalign.baselines.dpo import DPO
from isoalign.baselines.dpop import DPOP
from isoalign.baselines.grpo import GRPO
from isoalign.baselines.kto import KTO
from isoalign.baselines.orpo import ORPO
from isoalign.baselines.rloo import RLOO
from isoalign.baselines.tr_dpo import TRDPO
from isoalign.config.training import TrainConfig
from isoalign.core.records import Budget
from isoalign.models.passes import Body
from workbench import Bench

Loss = Callable[[Lab, Pairs], Tensor]


class Trained:
    """A loss on pairs."""

    lr = 1e-3

    def __init__(self, loss: Loss, change: Callable[[Pairs], Pairs] = lambda pairs: pairs) -> None:
        self.loss, self.change = loss, change

    def iteration(self, lab: Lab) -> Iterator[Step]:
        yield Step(self.change(lab.pairs(4)), self.loss)


def train(bench: Bench, folder: Path, algorithm: Any, shared: bool = True, steps: int = 3, **settings: Any) -> Any:
    trainer = bench.trainer(
        algorithm, Budget(1e15, steps=steps), folder, config=TrainConfig(warmup=2, checkpoint_seconds=1e9, **settings)
    )
    trainer.policy.shares_prompts = shared
    trainer.run("joint")
    return trainer


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each pass with gradients."""
    read: list[int] = []
    call = Body.__call__

    def note(body: Body, tokens: Tensor, *arguments: Any) -> Tensor:
        if torch.is_grad_enabled():
            read.append(len(tokens))
        return call(body, tokens, *arguments)

    monkeypatch.setattr(Body, "__call__", note)
    return read


@pytest.mark.parametrize(
    "algorithm",
    [DPO(batch_size=4), DPOP(batch_size=4), TRDPO(batch_size=4), ORPO(batch_size=4), KTO(batch_size=4), RLOO(), GRPO()],
    ids=str,
)
@pytest.mark.parametrize("micro_batch", [64, 3])
def test_training_is_that_of_separate_passes_on_whole_rows(
    tiny_bench: Bench, tmp_path: Path, algorithm: Any, micro_batch: int
) -> None:
    shared, plain = (
        train(tiny_bench, tmp_path / str(shared), algorithm, shared, steps=2, micro_batch=micro_batch)
        for shared in (True, False)
    )
    assert shared.meter.items == plain.meter.items
    for mine, theirs in zip(shared.log, plain.log, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for weight, other in zip(shared.trained, plain.trained, strict=True):
        torch.testing.assert_close(weight, other, atol=3e-5, rtol=1e-3)


def both(lab: Lab, pairs: Pairs) -> Tensor:
    return lab.policy(pairs.rejected).logp.sum(1) - lab.policy(pairs.chosen).logp.sum(1)


def test_both_answers_of_a_pair_are_one_pass(tiny_bench: Bench, tmp_path: Path, rows_read: list[int]) -> None:
    train(tiny_bench, tmp_path, Trained(both), steps=1)
    assert rows_read[-2:] == [4, 8]  # four prompts, then both answers of each
    assert sum(rows_read) - 12 == sum(rows_read[:-2])


class CutWeights(list[Any]):
    """Weights that processes hold together, of which there are none to gather."""

    def __bool__(self) -> bool:
        return True


@pytest.mark.parametrize("cut", [False, True])
def test_processes_that_gather_weights_make_passes_in_the_order_of_the_loss(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    order: list[str] = []

    def noted(lab: Lab, pairs: Pairs) -> Tensor:
        order.clear()
        return lab.log_ratio(pairs.chosen) - lab.log_ratio(pairs.rejected)

    trainer = tiny_bench.trainer(Trained(noted), Budget(1e15, steps=1), tmp_path, config=TrainConfig(warmup=2))
    monkeypatch.setattr(type(trainer.session), "shards", property(lambda _: CutWeights() if cut else []))
    for name in ("policy", "reference"):
        model = getattr(trainer.session, name)
        monkeypatch.setattr(model, "_pass", functools.partial(lambda own, name, parts: [order.append(name), own(parts)][1],
                                                              model._pass, name))  # fmt: skip
    trainer.run("order")
    assert order == (["policy", "reference"] * 2 if cut else ["policy", "reference"])


def test_what_a_loss_does_not_read_with_gradients_is_not_read(tiny_bench: Bench, tmp_path: Path, rows_read: list[int]) -> None:
    def chosen(lab: Lab, pairs: Pairs) -> Tensor:
        with torch.no_grad():
            known = lab.policy(pairs.rejected).logp.sum(1)
        return known - lab.policy(pairs.chosen).logp.sum(1)

    train(tiny_bench, tmp_path, Trained(chosen), steps=1)
    assert rows_read[-1:] == [4]
    assert 8 not in rows_read


def test_what_is_read_again_is_a_pass_of_its_own(tiny_bench: Bench, tmp_path: Path, rows_read: list[int]) -> None:
    def thrice(lab: Lab, pairs: Pairs) -> Tensor:
        return both(lab, pairs) + both(lab, pairs)

    train(tiny_bench, tmp_path, Trained(thrice), steps=1)
    assert rows_read[-4:] == [4, 8, 4, 4]


def test_answers_to_other_prompts_are_passes_of_their_own(tiny_bench: Bench, tmp_path: Path, rows_read: list[int]) -> None:
    def shifted(pairs: Pairs) -> Pairs:
        other = pairs.rejected
        return Pairs(pairs.chosen, Rollouts(other.tokens.roll(1, 0), other.mask.roll(1, 0), other.prompt_length), pairs.index)

    train(tiny_bench, tmp_path, Trained(both, shifted), steps=1)
    assert rows_read[-2:] == [4, 4]
    assert 8 not in rows_read


def test_equal_models_have_a_log_ratio_of_exactly_zero(tiny_bench: Bench, tmp_path: Path) -> None:
    """Or a loss with a kink there, as DPOP's, would differ by how many rows are read at a time."""
    found: list[Tensor] = []

    def ratios(lab: Lab, pairs: Pairs) -> Tensor:
        chosen, rejected = lab.log_ratio(pairs.chosen), lab.log_ratio(pairs.rejected, to="anchor")
        lab.log_ratio(pairs.rejected)
        lab.log_ratio(pairs.chosen, to="anchor")
        found.extend([chosen.detach(), rejected.detach()])
        return rejected - chosen

    train(tiny_bench, tmp_path, Trained(ratios), steps=1, micro_batch=3)
    assert len(found) > 4
    assert all(not ratio.any() for ratio in found)


def test_a_short_answer_is_not_padded_by_more_than_its_prompt_saves(
    tiny_bench: Bench, tmp_path: Path, rows_read: list[int]
) -> None:
    def longer(pairs: Pairs) -> Pairs:
        prompt, (tokens, mask) = pairs.chosen.prompt_length, (pairs.chosen.tokens, pairs.chosen.mask)
        more = torch.ones(len(tokens), 2 * prompt, dtype=torch.bool)
        wide = Rollouts(torch.cat([tokens, more + 6], 1), torch.cat([mask, more], 1), prompt)
        return Pairs(wide, pairs.rejected, pairs.index)

    train(tiny_bench, tmp_path, Trained(both, longer), steps=1)
    assert rows_read[-2:] == [4, 4]


def test_columns_that_are_one_or_are_left_out_of_a_part_are_read_alone(
    tiny_bench: Bench, tmp_path: Path, rows_read: list[int]
) -> None:
    @dataclass(frozen=True)
    class Odd(Batch):
        first: Rollouts
        second: Rollouts | None

        def __getitem__(self, rows: Any) -> Any:
            return Odd(self.first[rows], None)

    class Twice(Trained):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            chosen = lab.pairs(4).chosen
            yield Step(Odd(chosen, chosen), lambda lab, rows: -lab.policy(rows.first).logp.sum(1))

    train(tiny_bench, tmp_path, Twice(both), steps=1)
    assert rows_read[-1:] == [4]


def test_a_batch_within_a_batch_is_seen(tiny_bench: Bench, tmp_path: Path, rows_read: list[int]) -> None:
    @dataclass(frozen=True)
    class Weighed(Batch):
        pairs: Pairs
        weight: Tensor

    class Nested(Trained):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            yield Step(Weighed(lab.pairs(4), torch.ones(4)), lambda lab, rows: rows.weight * both(lab, rows.pairs))

    train(tiny_bench, tmp_path, Nested(both), steps=1)
    assert rows_read[-2:] == [4, 8]
