"""The processes of one run, as `torchrun` and `accelerate launch` start them. Without them it is one, at no cost.

All processes run the same program in the same order. Work on rows is shared out and its results are gathered, so that every
process sees the same numbers and takes the same decisions. The first one alone writes, tracks and asks servers; while it works
alone, the others wait for what it tells them, however long that takes.
"""

from __future__ import annotations

import os
import pickle  # among processes of one run, which torch.distributed does as well
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from isoalign.core import complaint, progress
from isoalign.core.errors import MachineFailed, UserError, unforeseen
from isoalign.core.heartbeat import Heartbeat
from isoalign.core.lazy import torch
from isoalign.core.memory import machine_failure

JOIN = timedelta(seconds=120)  # for all processes to be there
PATIENCE = timedelta(minutes=30)  # with one that is alive and does not come to a collective
LISTEN = 0.25  # seconds between two looks at what the first process tells, at most
PLAIN = {
    "ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "false", "ACCELERATE_USE_MEGATRON_LM": "false",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "false", "ACCELERATE_MIXED_PRECISION": "no",
}  # fmt: skip

T = TypeVar("T")


@dataclass
class World:
    """What this process knows of the others."""

    rank: int
    size: int
    device: str  # of tensors on their way
    store: Any  # torch's, which all processes see
    heartbeat: Heartbeat
    alone: int = 0
    turns: int = 0
    done: bool = False


_worlds: list[World] = []  # none, or the one that this process has joined


def launched() -> int:
    """How many processes the launcher has started, by WORLD_SIZE; 1 without one."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdecimal() else 1


def local_rank() -> int:
    """The place of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("RANK") or 0)


def check_launcher() -> None:
    """Raise UserError for settings of a launcher that have no effect here; in one process TRL's trainers would read them."""
    if wrong := _has_no_effect():
        raise UserError(wrong)


def join(device: str, facts: dict[str, str]) -> None:
    """Meet the other processes, if there are several. ``device``: of the models; ``facts``: what must be the same in all.

    Raises UserError for settings of a launcher that have no effect here, for a fact that differs, and if not all come.
    """
    if launched() == 1 or _worlds:
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is {launched()}, but {', '.join(missing)} are not set; unset it, or start isoalign by torchrun or "
            "accelerate launch"
        )
    rank, size = int(os.environ["RANK"]), launched()
    distributed = torch.distributed
    try:
        store, _, _ = next(distributed.rendezvous("env://", rank=rank, world_size=size, timeout=JOIN))
        store.set_timeout(JOIN)
        _check(rank, size, store, facts)
        kind = "cuda" if device.startswith("cuda") else "cpu"
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        group = distributed.PrefixStore("group", store)
        distributed.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        raise MachineFailed(f"the {size} processes of this run did not find each other: {unforeseen(error)}") from error
    heartbeat = Heartbeat(rank, size, store.clone())
    _worlds.append(World(rank, size, device if kind == "cuda" else "cpu", store, heartbeat))
    speaks = store.clone()
    complaint.share(rank == 0, lambda: speaks.add("spoken", 1) == 1)
    progress.hide(rank > 0)
    heartbeat.start()


def _check(rank: int, size: int, store: Any, facts: dict[str, str]) -> None:
    """Raise UserError if the processes can't run together. The first one says it for all."""
    store.set(f"facts/{rank}", pickle.dumps(facts))
    wrong = _has_no_effect() or _differs([pickle.loads(store.get(f"facts/{other}")) for other in range(size)])
    if wrong and rank:
        store.get("refused")
        store.set(f"heard/{rank}", b"")
        raise SystemExit(2)
    if wrong:
        store.set("refused", b"")
        store.wait([f"heard/{other}" for other in range(1, size)], JOIN)  # its end may be the store's
        raise UserError(wrong)


def _has_no_effect() -> str:
    """What a launcher was told in vain."""
    for name, plain in PLAIN.items():
        if os.environ.get(name, plain).lower() != plain:
            return (
                f"{name}={os.environ[name]} has no effect: launch without it, and set task.model.shard=true for FSDP, "
                "task.model.bf16=true for bf16, task.model.lora=16 or task.training.gradient_checkpointing=true to save memory"
            )
    return ""


def _differs(facts: list[dict[str, str]]) -> str:
    """The first fact in which a process differs from the first one."""
    for other, theirs in enumerate(facts):
        for name in sorted(theirs.keys() | facts[0].keys()):
            first, second = (each.get(name, "nothing") for each in (facts[0], theirs))
            if first != second:
                return (
                    f"process {other} of this run differs from process 0 in {name}: {second[:60]} instead of {first[:60]}; "
                    "start all with the same command, code and packages"
                )
    return ""


def leave() -> None:
    """This process has no part in what is left to do, or has failed. Called at its end, also without others."""
    if _worlds:
        world = _worlds.pop()
        world.heartbeat.leave(failed=not world.done)


def done() -> None:
    """This process has done all that several do together; what is left the first one does alone."""
    for world in _worlds:
        world.done, world.alone = True, world.alone + (world.rank == 0)


def current() -> World | None:
    """The world as work sees it: none in one process, and while the first one works alone."""
    return _worlds[-1] if _worlds and not _worlds[-1].alone else None


def size() -> int:
    """How many processes share the work."""
    return world.size if (world := current()) else 1


def rank() -> int:
    """The place of this process among them."""
    return world.rank if (world := current()) else 0


@contextmanager
def alone() -> Iterator[None]:
    """Context in which the first process does all of the work by itself."""
    for world in _worlds:
        world.alone += 1
    try:
        yield
    finally:
        for world in _worlds:
            world.alone -= 1


# -- what the first process tells the others ------------------------------------------------------------------------------


def tell(what: str, value: Any = None) -> None:
    """Tell the others something, for good."""
    if world := current():
        world.store.set(f"told/{what}", pickle.dumps(value))


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Context in which the first process does what the others wait for: they are told when it is done, or how it failed."""
    try:
        yield
    except Exception as error:
        tell(what, as_told(error))
        raise
    tell(what)


def heard(what: str, until: Callable[[], bool] = lambda: False) -> Any:
    """Wait for what the first process tells; None if, before that, ``until()`` becomes true. Raises an error that it told."""
    world = current()
    assert world is not None
    key = f"told/{what}"
    wait = 0.001
    while not world.store.check([key]):  # its own wait() warns whenever it is over
        if until():
            return None
        time.sleep(wait := min(2 * wait, LISTEN))
    told = pickle.loads(world.store.get(key))
    if isinstance(told, Told):
        raise told.error()
    return told


def was_told(what: str) -> bool:
    """Whether the first process has told it."""
    world = current()
    return world is not None and bool(world.store.check([f"told/{what}"]))


def of_first(work: Callable[[], T]) -> T:
    """What ``work()`` returned in the first process, which alone does it. All processes must come here in the same order."""
    world = current()
    if world is None:
        return work()
    world.turns += 1
    what = f"turn/{world.turns}"
    if world.rank:
        result: T = heard(what)
        return result
    try:
        with alone():
            result = work()
    except Exception as error:
        tell(what, as_told(error))
        raise
    tell(what, result)
    return result


@dataclass(frozen=True)
class Told:
    """An error on its way to another process."""

    kind: type[UserError]
    line: str

    def error(self) -> UserError:
        """The error as it is raised there."""
        return self.kind(self.line)


def as_told(error: Exception) -> Told:
    """An error as the others are told of it."""
    error = machine_failure(error) or error
    if isinstance(error, UserError):
        kind = next(each for each in type(error).__mro__ if each.__module__ == UserError.__module__)
        return Told(kind, str(error))
    return Told(UserError, unforeseen(error))
