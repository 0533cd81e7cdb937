"""Checks in several processes what holds of weights that they hold together. Ends with 0 where all of it does.

python -m torch.distributed.run --nproc_per_node 2 tests/sharded.py BENCH [die]

With ``die`` the second process is killed while it writes its part of a second checkpoint.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from isoalign.core import devices, sharing, world
from isoalign.core.errors import MachineFailed, UserError
from isoalign.core.records import Budget
from isoalign.models.shards import full, is_cut, part_of
from isoalign.tools.conformance.workbench import Bench, tiny
from isoalign.training import parts
from isoalign.training.checkpoint import load_checkpoint, save_checkpoint
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


def mesh() -> Any:
    """All processes."""
    return torch.distributed.device_mesh.init_device_mesh("cpu", (world.size(),))


def cut(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, of which each process has some rows."""
    made: torch.Tensor = torch.distributed.tensor.distribute_tensor(tensor, mesh(), src_data_rank=None)
    return made


def tree(number: int) -> dict[str, Any]:
    """What a checkpoint may hold: rows that do not divide, fewer than processes, none, and tensors that are not cut."""
    state = {0: {"step": torch.tensor(float(number)), "m": cut(torch.arange(15.0).view(5, 3) + number)}}
    weights = [cut(torch.full((1, 2), number, dtype=torch.bfloat16)), cut(torch.empty(0, 3)), torch.arange(3) + number]
    return {"policy": weights, "optimizers": {"state": state, "groups": [{"params": [0], "betas": (0.9, 0.95)}]}}


def equal(one: Any, other: Any) -> bool:
    """Whether two trees have the same types, keys and numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(full(one), full(other))
    return bool(one == other)


def a_checkpoint_comes_back_cut_or_whole_and_damage_to_a_part_is_the_whole_checkpoints(work: Path) -> None:
    def load(over: Any) -> int:
        """The number of the checkpoint that is loaded; 0 for none."""
        loaded = load_checkpoint(work, over)
        if loaded is None:
            return 0
        assert equal(loaded[0], tree(loaded[1]["n"]))
        assert is_cut(loaded[0]["optimizers"]["state"][0]["m"]) == (over is not None)
        return int(loaded[1]["n"])

    def save(number: int) -> list[Path]:
        """The files of a checkpoint that is saved now."""
        save_checkpoint(work, tree(number), {"n": number})
        assert load(None) == load(mesh()) == number
        return world.of_first(lambda: sorted(work.glob(f"checkpoint/{number:06d}/*")))

    def harm(what: Any, *arguments: Any) -> None:
        world.of_first(lambda: what(*arguments) and None)

    assert load(None) == load(mesh()) == 0
    assert [file.suffix for file in save(1)] == [".safetensors"] * world.size()
    first, last = save(2)
    harm(last.write_bytes, first.read_bytes())  # of the right form, with wrong numbers
    assert load(mesh()) == 1
    first, last = save(2)
    harm(last.unlink)
    assert load(None) == 1
    first, _ = save(2)
    harm(shutil.copy, first, first.with_name("more.safetensors"))
    assert load(mesh()) == 1
    harm(shutil.copytree, work / "checkpoint" / "000001", work / "checkpoint" / "000002")  # of a process that was killed
    assert load(mesh()) == 1
    save(2)
    save(3)
    assert sorted(file.name[:6] for file in work.glob("checkpoint/*.pt")) == ["000002", "000003"]
    assert not (work / "checkpoint" / "000001").exists()


def a_disk_that_is_full_for_one_process_keeps_the_last_checkpoint_and_is_told_to_all(work: Path) -> None:
    save_checkpoint(work, tree(1), {"n": 1})
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 if world.rank() else most[0], most[1]))
    with pytest.raises((OSError, UserError), match="File too large"):
        save_checkpoint(work, tree(2), {"n": 2})
    resource.setrlimit(resource.RLIMIT_FSIZE, most)
    world.of_first(lambda: None)
    assert [file.name[:6] for file in sorted(work.glob("checkpoint/*"))] == ["000001", "000001"]
    loaded = load_checkpoint(work)
    assert loaded
    assert loaded[1] == {"n": 1}


def a_process_that_saves_holds_no_more_than_a_part(work: Path) -> None:
    size, parts.FILE = 2**20, 2**21
    tensors = {str(number): cut(torch.ones(size // 4)) for number in range(64)}
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before = peak()
    save_checkpoint(work, tensors, {})
    assert peak() - before < 16 * size, "less than a process's part, which is 32 of them"
    loaded = load_checkpoint(work, mesh())
    assert loaded
    assert sum(part_of(tensor).nbytes for tensor in loaded[0].values()) == 32 * size
    assert len(list(work.glob("checkpoint/000001/*"))) == 2 * 16


def peak() -> int:
    """The most bytes that this process has held."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def die_while_saving(work: Path) -> None:
    """Save once, and be killed while the second checkpoint is written; the other process says so."""
    save_checkpoint(work, tree(1), {"n": 1})
    if world.rank():
        parts.flush = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(MachineFailed, match="another process of this run has ended"):
        save_checkpoint(work, tree(2), {"n": 2})
    (work / "said").touch()


def main() -> None:
    """What is typed."""
    torch.set_num_threads(1)
    devices.use("cpu", several=True)
    root = Path(sys.argv[1])
    bench = tiny(root / str(world.local_rank()))
    world.join("cpu", {})
    if sys.argv[2:]:
        die_while_saving(root)
        return
    each_process_holds_half_and_all_of_it_only_within_whole(bench)
    logits_are_refused_once_the_optimizer_has_changed_the_weights(bench)
    passes_without_the_adapter_leave_its_gradients_on(bench)
    for number, check in enumerate(CHECKPOINTS):
        work = root / f"work{number}"
        world.of_first(work.mkdir)
        check(work)
        sharing.exchange(None)
    world.done()
    world.leave()


CHECKPOINTS = (
    a_checkpoint_comes_back_cut_or_whole_and_damage_to_a_part_is_the_whole_checkpoints,
    a_disk_that_is_full_for_one_process_keeps_the_last_checkpoint_and_is_told_to_all,
    a_process_that_saves_holds_no_more_than_a_part,
)


if __name__ == "__main__":
    main()
