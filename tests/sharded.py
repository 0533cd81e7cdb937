"""Checks in several processes what holds of weights that they hold together. Ends with 0 where all of it does.

python -m torch.distributed.run --nproc_per_node 2 tests/sharded.py BENCH
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from isoalign.core import devices, world
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.models.shards import is_cut, part_of
from isoalign.tools.conformance.workbench import Bench, tiny
from isoalign.training.lab import Lab
from isoalign.training.session import Session


def sharded(bench: Bench, lora: int = 0) -> Session:
    """A session whose policy and reference are held together."""
    made = bench.replace(lora=lora).session(Budget(1e18))
    for model in {made.policy, made.reference}:
        model.shard()
    return Session(made.policy, made.reference, made.source, made.meter, made.new_tokens, 0)


def each_process_holds_half_and_all_of_it_only_within_whole(bench: Bench) -> None:
    policy, model = sharded(bench).policy, bench.language_model()
    whole = sum(parameter.numel() for parameter in model.inner.parameters())
    parts = sum(part_of(weight).numel() for weight in policy.weights())
    assert abs(parts - whole / world.size()) < 0.01 * whole
    assert all(is_cut(parameter) for parameter in policy.inner.parameters())
    with policy.whole():
        for ours, theirs in zip(policy.inner.parameters(), model.inner.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert all(is_cut(parameter) for parameter in policy.inner.parameters())


def logits_are_refused_once_the_optimizer_has_changed_the_weights(bench: Bench) -> None:
    session = sharded(bench)
    predict, states = session.policy.predict_now(), torch.zeros(2, 3, session.policy.width)
    assert predict(states).shape == (2, 3, session.policy.vocabulary)
    optimizer = torch.optim.AdamW(session.policy.weights(), lr=1e-3)
    for weight in session.policy.weights():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    with pytest.raises(UserError, match="an optimizer step has changed the weights"):
        predict(states)


def passes_without_the_adapter_leave_its_gradients_on(bench: Bench) -> None:
    session = sharded(bench, lora=4)
    batch = Lab(session).pairs(4).chosen
    reference = session.read_by_reference(batch).logp
    assert torch.equal(reference, session.read_by_reference(batch).logp)
    session.loss_share = 1.0
    session.in_step(lambda: (session.read_by_policy(batch).logp - session.read_by_reference(batch).logp).sum()).backward()
    trained = [weight for weight in session.policy.weights() if weight.requires_grad]
    assert trained
    assert all(weight.grad is not None for weight in trained)


def main() -> None:
    """What is typed."""
    torch.set_num_threads(1)
    devices.use("cpu", several=True)
    bench = tiny(Path(sys.argv[1]) / str(world.local_rank()))
    world.join("cpu", {})
    each_process_holds_half_and_all_of_it_only_within_whole(bench)
    logits_are_refused_once_the_optimizer_has_changed_the_weights(bench)
    passes_without_the_adapter_leave_its_gradients_on(bench)
    world.done()
    world.leave()


if __name__ == "__main__":
    main()
