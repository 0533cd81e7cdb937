"""Trains algorithms on a tiny bench, in as many processes as a launcher starts, and writes down what came of each.

python -m torch.distributed.run --nproc_per_node 2 tests/processes.py BENCH OUT NAME[:LORA][+ENGINE]...
"""

from __future__ import annotations

import copy
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isoalign.config.training import TrainConfig
from isoalign.core import devices, world
from isoalign.core.records import Budget
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.samplers.engine import make_sampler
from isoalign.models.shards import full
from isoalign.tools.conformance.checks import DiesAtStep, Killed
from isoalign.tools.conformance.workbench import IDLE_SECONDS, Bench, tiny
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer
from workbench import small, weights

BUDGET = Budget(1.2e8)
ODD = {"batch_size": 5, "minibatch": 5}  # of no number of processes a multiple; the last minibatch of 6 has one row


def trainer_of(bench: Bench, name: str, work: Path) -> Trainer:
    """The trainer of ``NAME[-MODE][:LORA][+ENGINE][@LAYOUT][!STEPS]``, in a folder in which it may go on from a checkpoint.

    ``LAYOUT``: letters, ``s`` for weights that the processes hold together, ``b`` for bf16, ``c`` for gradient checkpointing,
    ``d`` for fp64.
    """
    name, _, steps = name.partition("!")
    name, _, layout = name.partition("@")
    name, _, engine = name.partition("+")
    name, _, lora = name.partition(":")
    name, _, mode = name.partition("-")
    algorithm = small(name, **{"mode": mode} if mode else {})
    algorithm = replace(algorithm, **{key: value for key, value in ODD.items() if hasattr(algorithm, key)})
    work.mkdir(parents=True, exist_ok=True)
    along = {"snapshots": (0.5,), "kl_snapshots": (0.001, 0.01, 0.1, 1.0)}
    config = TrainConfig(warmup=2, checkpoint_seconds=0 if steps else 1e9, micro_batch=2, **along)  # type: ignore[arg-type]
    dying = DiesAtStep(algorithm, int(steps)) if steps else algorithm
    if "d" in layout:
        bench = in_double(bench)
    session = bench.replace(lora=int(lora or 0), ends=True).session(BUDGET)
    for model in {session.policy, session.reference}:
        model.precision = "bfloat16" if "b" in layout else "float32"
        if "d" in layout:
            model.inner.double()
        if set(layout) & {"d", "b"}:  # whole rows in every layout: after one reading of a prompt, states round otherwise
            model.shares_prompts = False
        if "c" in layout:
            checkpoint_layers(model.inner)
        if "s" in layout:
            model.shard()
    session = Session(session.policy, session.reference, session.source, session.meter, session.new_tokens, 0)
    trainer = Trainer(dying, session, replace(config, idle_seconds=IDLE_SECONDS), work)
    if engine:
        trainer.session.engine = make_sampler(engine, trainer.policy, 12)
    return trainer


def in_double(bench: Bench) -> Bench:
    """The same bench, whose reward models compute in fp64."""
    source: Any = copy.copy(bench.source)
    source.rewards = copy.deepcopy(source.rewards)
    for reward in source.rewards.values():
        reward.model.double()
    return bench.replace(source=source)


def outcome(bench: Bench, name: str, work: Path) -> dict[str, Any]:
    """Bill, log, weights and state of an algorithm after a budget, or when it is killed."""
    trainer = trainer_of(bench, name, work)
    with suppress(Killed):
        trainer.run(name)
    spent = {key: value for key, value in trainer.meter.spent().items() if key != "seconds"}
    return {
        "spent": spent,
        "log": trainer.log,
        "weights": [full(weight) for weight in weights(trainer)],
        "state": trainer.lab.state,
        "snapshots": trainer.snapshots,
    }


def main() -> None:
    """What is typed."""
    bench, out, *names = sys.argv[1:]
    torch.set_num_threads(1)
    devices.use("cpu", several=True)
    made = tiny(Path(bench) / str(world.local_rank()))
    world.join("cpu", {"names": str(names)})
    found = {name: outcome(made, name, Path(out).parent / name.partition("!")[0]) for name in names}
    if not world.rank():
        torch.save(found, out)
    world.done()
    world.leave()


if __name__ == "__main__":
    main()
