"""Measures what tensors take in each process of a run that holds weights together, and writes it beside what a plan says.

python -m torch.distributed.run --nproc_per_node 2 tests/shard_memory.py OUT METHOD:LORA:MICRO_BATCH...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from isoalign.core import devices, sharing, world
from isoalign.core.records import Budget
from isoalign.core.store import Store
from isoalign.models import loading
from isoalign.models.language import LanguageModel
from isoalign.runs.overrides import task_named
from isoalign.stages.sft import with_adapter
from isoalign.tools.plan.plan import Assumed, TaskPlan
from isoalign.training import registry
from isoalign.training.meter import Meter
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer

LEAST = 2**15  # bytes of a storage that is looked at


class Held(TorchDispatchMode):
    """The most bytes that storages have had behind any operation. FSDP empties and fills its own, which keep their number."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._storages = 0, WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count."""
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, out)):
            if isinstance(each, torch.Tensor):
                local = each.to_local() if hasattr(each, "to_local") else each
                if not (local.is_mkldnn or local.is_meta) and (storage := local.untyped_storage()).nbytes() > LEAST:
                    self._storages[storage] = True
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self._storages))
        return out


def measured(name: str, lora: int, micro_batch: int, folder: Path) -> dict[str, float]:
    """Bytes at the peak of two steps, and what a plan says of them."""
    task = task_named(
        "nano", ["task.constitution.file=kindness", f"task.model.lora={lora}", f"task.training.micro_batch={micro_batch}"]
    )
    plan = TaskPlan(task, Store(folder / "store"), Assumed(shards=world.launched()))
    [row] = plan.methods([name], {"tiny": 3e12})
    assert row.footprint, row.problem
    with Held() as held:
        models = []
        for trained in (False, True)[: 1 if lora else 2]:
            model, tokenizer = loading.load_model("nano")
            model = with_adapter(model.requires_grad_(False), lora) if lora else model.requires_grad_(trained)
            models.append(LanguageModel(model, tokenizer, False, rows=task.training.rows))
            models[-1].shard()
            del model
        plan.source.round = 0
        session = Session(models[-1], models[0], plan.source, Meter(Budget(1e15, steps=2)), task.model.new_tokens, 0)
        work = folder / name
        work.mkdir(parents=True)
        Trainer(registry.default_algorithm(name), session, task.training, work).run("a run")
    beside = row.footprint.beside
    return {"taken": held.peak, "planned": row.footprint.on(world.size()) - beside, **vars(row.footprint)}


def main() -> None:
    """What is typed."""
    out, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    devices.use("cpu", several=True)
    world.join("cpu", {})
    found = {}
    for place, case in enumerate(cases):
        name, lora, rows = case.split(":")
        found[case] = sharing.exchange(measured(name, int(lora), int(rows), Path(out).parent / f"{world.rank()}-{place}"))
    if not world.rank():
        Path(out).write_text(json.dumps(found, indent=1))
    world.done()
    world.leave()


if __name__ == "__main__":
    main()
