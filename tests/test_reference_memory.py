"""What is known of the reference is what a pass gives, costs what a pass costs, and goes when the reference changes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isoalign.core.batches import Pairs, Rollouts, Step
from isoalign.core.records import Budget
from isoalign.training import reference_memory
from isoalign.training.lab import Lab, session_of
from workbench import Bench, nudge, same, small, weights


def counted(lab: Lab) -> list[int]:
    """The rows of each pass that the reference makes from now on."""
    session, passes = session_of(lab), list[int]()
    own = session.reference_passes

    def reference_passes(parts: Sequence[Rollouts]) -> Any:
        passes.append(sum(map(len, parts)))
        return own(parts)

    session.reference_passes = reference_passes  # type: ignore[method-assign]
    return passes


def widened(rollouts: Rollouts, left: int, right: int) -> Rollouts:
    """The same rows with more padding."""
    tokens = torch.nn.functional.pad(rollouts.tokens, (left, right), value=1)
    mask = torch.nn.functional.pad(rollouts.mask, (left, right), value=False)
    return Rollouts(tokens, mask, rollouts.prompt_length + left)


@pytest.mark.parametrize("lora", [0, 4])
@torch.no_grad()
def test_feedback_is_read_once_and_known_in_any_order_and_padding(tiny_bench: Bench, lora: int) -> None:
    lab = nudge(tiny_bench.replace(lora=lora).lab())
    passes, pairs = counted(lab), lab.pairs(6)
    first = lab.reference(pairs.chosen)
    again = lab.reference(widened(pairs.chosen[torch.tensor([4, 0, 5])], 2, 3))
    assert passes == [6]
    assert torch.equal(again.logp[:, : first.logp.shape[1]], first.logp[torch.tensor([4, 0, 5])])
    assert again.logp.shape[1] == first.logp.shape[1] + 3
    assert (again.logp[:, first.logp.shape[1] :] == 0).all()
    (own,) = session_of(lab).reference_passes([pairs.rejected])
    for _ in range(2):
        found = lab.reference(pairs.rejected)
        torch.testing.assert_close(found.logp, own.logp, atol=1e-5, rtol=0)
    for name in ("hidden", "logits", "entropy"):  # which are not kept
        torch.testing.assert_close(getattr(found, name), getattr(own, name), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_hit_costs_what_a_miss_costs(tiny_bench: Bench) -> None:
    lab = tiny_bench.lab()
    meter, labels = session_of(lab).meter, lab.labels(4)
    bills = []
    for _ in range(3):
        before = meter.flops
        lab.reference(labels.rollouts)
        bills.append(meter.flops - before)
    assert bills[0] == bills[1] == bills[2] > 0


@torch.no_grad()
def test_changed_tokens_samples_and_odd_padding_are_read_anew(tiny_bench: Bench) -> None:
    lab = tiny_bench.lab()
    passes, pairs = counted(lab), lab.pairs(4)
    lab.reference(pairs.chosen)
    changed = pairs.chosen.tokens.clone()
    changed[:, pairs.chosen.prompt_length] += 1
    shifted = widened(pairs.chosen, 0, 0)  # the same tokens, of which one more belongs to the completion
    moved = Rollouts(shifted.tokens, shifted.mask, shifted.prompt_length - 1)
    holes = pairs.chosen.mask.clone()
    holes[0, pairs.chosen.prompt_length] = False
    others = [replace(pairs.chosen, tokens=changed), moved, replace(pairs.chosen, mask=holes)]
    samples = lab.generate(lab.prompts(3))
    for rollouts in (*others, samples):
        for _ in range(2):
            torch.testing.assert_close(
                lab.reference(rollouts).logp, session_of(lab).reference(rollouts).logp, atol=1e-5, rtol=0
            )
    assert passes == [4] * 7 + [3] * 2


@pytest.mark.parametrize("lora", [0, 4])
@torch.no_grad()
def test_a_changed_reference_is_read_anew(tiny_bench: Bench, lora: int) -> None:
    lab = tiny_bench.replace(lora=lora).lab()
    pairs, reference = lab.pairs(4), session_of(lab).reference
    before = lab.reference(pairs.chosen).logp
    frozen = [p for p in reference.inner.parameters() if not p.requires_grad]
    for change in (lambda p: p.add_(0.1), lambda p: setattr(p, "data", p.data + 0.1)):
        change(frozen[0])
        after = lab.reference(pairs.chosen).logp
        assert (after - before).abs().max() > 1e-3
        before = after
    reference.banned = torch.arange(200, 210)
    assert (lab.reference(pairs.chosen).logp - before).abs().max() > 1e-4


@torch.no_grad()
def test_no_more_is_kept_than_fits(tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_memory, "MOST", 7)
    lab = tiny_bench.lab()
    for _ in range(4):
        lab.reference(lab.pairs(5).chosen)
    state = session_of(lab).remembered.state()
    assert 0 < state["values"].numel() <= 7
    assert int(state["lengths"].sum()) == state["values"].numel()


class Forgetful:
    """An algorithm whose reference remembers nothing: the plain path."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm, self.lr = algorithm, algorithm.lr

    def iteration(self, lab: Lab) -> Iterator[Step]:
        session_of(lab).remembered.expect = lambda *_: None  # type: ignore[method-assign]
        yield from self.algorithm.iteration(lab)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_a_run_ends_with_the_bill_and_weights_of_one_that_remembers_nothing(
    tiny_bench: Bench, tmp_path: Path, name: str
) -> None:
    ends = []
    for place, algorithm in enumerate((small(name), Forgetful(small(name)))):
        work = tmp_path / str(place)
        work.mkdir()
        trainer = tiny_bench.trainer(algorithm, Budget(2.5e8), work)
        trainer.run(name)
        ends.append((trainer.meter.spent() | {"seconds": 0}, weights(trainer), [row["loss"] for row in trainer.log]))
    (bill, tensors, losses), (plain_bill, plain_tensors, plain_losses) = ends
    assert bill == plain_bill
    assert losses == pytest.approx(plain_losses, abs=1e-4)
    for mine, plain in zip(tensors, plain_tensors, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-3, rtol=0)


def test_what_is_known_survives_a_checkpoint(tiny_bench: Bench) -> None:
    lab, other = tiny_bench.lab(), tiny_bench.lab()
    pairs: Pairs = lab.pairs(6)
    lab.reference(pairs.chosen)
    session_of(other).remembered.restore(session_of(lab).remembered.state())
    passes = counted(other)
    found: Tensor = other.reference(pairs.chosen).logp
    assert passes == []
    assert same([found], [lab.reference(pairs.chosen).logp])
    session_of(other).remembered.restore(session_of(tiny_bench.lab()).remembered.state())  # of nothing
    other.reference(pairs.chosen)
    assert passes == [6]
