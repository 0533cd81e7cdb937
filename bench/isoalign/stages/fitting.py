"""Supervised training on fixed rows, of the SFT base and of reward models: AdamW, warm-up, linear decay, clipping."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from isoalign.core import sharing, world
from isoalign.core.batches import Batch
from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.core.memory import halving
from isoalign.core.progress import Steps
from isoalign.models.shards import Shards, full, whole_tree
from isoalign.training.gradients import add_up_gradients, make_optimizer

BETAS = (0.9, 0.95)
WARMUP = 0.1  # share of the steps
CLIP = 1.0  # of the norm of the gradient
EVERY = 5  # steps that a point of the loss curve is the mean of; the last one is of those that are left

Rows = TypeVar("Rows", bound=Batch)


@dataclass
class Fit:
    """``epochs`` over ``size`` rows, each in a new seeded order, in batches of ``batch_size``, which a run's processes share.
    ``micro_batch`` of their rows are read at a time: halved for good whenever memory runs out. ``lr_key``: the setting of
    ``lr``, and ``longer``: what makes more steps, for messages. ``shard``: whether they hold the weights together."""

    size: int
    batch_size: int
    micro_batch: int
    lr: float
    lr_key: str
    seed: int
    epochs: int = 1
    longer: str = "lower the batch size or raise the epochs"
    shard: bool = False
    shards: Shards | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    read: list[int] = field(default_factory=list)  # the rows, in the order in which they were read

    @property
    def steps(self) -> int:
        """Optimizer steps in all; the last batch of an epoch may be smaller."""
        return self.epochs * math.ceil(self.size / self.batch_size)

    def run(
        self,
        model: Any,
        gather: Callable[[Tensor], Rows],
        losses: Callable[[Rows], Tensor],
        label: str,
        *,
        weight: Callable[[Rows], int] = len,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train the parameters of ``model`` that require gradients.

        ``gather`` gives the rows of an index [B]. The loss of a batch is the sum of ``losses(rows)`` [B] over its ``weight``:
        the number of its rows, or of its tokens. Training ends early when ``stop()``, asked after each step, says so. Raises
        UserError if there is but one step, or the loss or the gradient is not finite, and OutOfMemory where one row does not
        fit.
        """
        if self.steps == 1:  # the schedule's factor is 0 at the first
            raise UserError(
                f"{label}: {self.size} rows in batches of {self.batch_size} are one step, at which the learning rate is still "
                f"0, so nothing would be trained; {self.longer}"
            )
        self.shards = Shards(model) if self.shard and world.size() > 1 else None
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(trained, BETAS, 0.0)
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP * self.steps), self.steps)
        recent: list[float] = []
        if world.rank():  # or dropout would hide the same units in every process
            torch.manual_seed(self.seed + world.rank())
        with Steps(label, self.steps) as bar:
            for index in self._batches():
                batch = gather(index)
                self.read += index.tolist()
                loss = self._gradients(batch, losses, weight(batch), optimizer)
                norm = full(torch.nn.utils.clip_grad_norm_(trained, CLIP))
                self.step += 1
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise UserError(
                        f"{label}: the loss or its gradient is not finite at step {self.step}; lower {self.lr_key}"
                    )
                optimizer.step()
                schedule.step()
                recent.append(loss)
                if self.step % EVERY == 0:
                    self.curve.append({"step": self.step, "loss": math.fsum(recent) / len(recent)})
                    recent.clear()
                bar.advance(loss)
                if stop():
                    break
        if recent:
            self.curve.append({"step": self.step, "loss": math.fsum(recent) / len(recent)})
        optimizer.zero_grad(set_to_none=True)

    def state(self, model: Any) -> dict[str, Tensor] | None:
        """The whole state dict of the trained model, in the first process, where weights are held together; all ask for it."""
        return whole_tree(model.state_dict()) if self.shards else None

    def _batches(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            yield from torch.randperm(self.size, generator=generator).split(self.batch_size)

    def _gradients(
        self, batch: Rows, losses: Callable[[Rows], Tensor], weight: int, optimizer: torch.optim.Optimizer
    ) -> float:
        """The mean loss of the batch; its gradients are in the parameters."""
        lengths = batch.lengths()
        order = torch.arange(len(batch)) if lengths is None else lengths.cpu().argsort(stable=True)  # little padding in a part
        mine = order[world.rank() :: world.size()]

        def accumulate(rows: int) -> float:
            optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for part in mine.split(rows) if len(mine) else ():
                loss = losses(batch[part]).sum() / weight
                loss.backward()
                total += loss.item()
            return total

        def in_step(shards: Shards) -> float:
            """The same, with as many passes as any process makes; those without rows have no effect."""
            rows, total = max(1, self.micro_batch), 0.0
            for start in range(0, -(-len(batch) // world.size()), rows):
                own = mine[start : start + rows]
                part = batch[own if len(own) else order[:1]]
                loss = shards.step(functools.partial(losses, part)).sum() * (len(own) > 0) / weight
                loss.backward()
                total += loss.item()
            return total

        def work() -> float:
            loss, self.micro_batch = halving(accumulate, max(1, self.micro_batch), len(mine))
            return loss

        if self.shards:
            optimizer.zero_grad(set_to_none=True)
            return sum(sharing.exchange(in_step(self.shards)))
        loss = sum(sharing.together(work))
        if world.size() > 1:
            add_up_gradients([parameter for group in optimizer.param_groups for parameter in group["params"]])
        return loss
