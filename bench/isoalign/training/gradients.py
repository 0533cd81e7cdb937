"""Gradients of a step: the mean loss of its batch, in parts that fit into memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from isoalign.core import sharing, world
from isoalign.core.batches import Batch, Step
from isoalign.core.errors import UserError
from isoalign.core.memory import halving
from isoalign.models.shards import as_cut, is_cut
from isoalign.training.checkpoint import type_name
from isoalign.training.lab import Lab
from isoalign.training.session import Session

FUSED = ("cuda", "mps", "xpu")  # device types on which AdamW has one kernel for all weights


def _backward(loss: Tensor) -> None:
    """Raises UserError for a loss on a pass whose gradients were taken before."""
    try:
        loss.backward()
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise UserError(
            "the loss uses a pass with gradients that an earlier step, or part of its rows, has used too, or took gradients "
            "itself; make passes in the loss, or under torch.no_grad() in iteration()"
        ) from None


class Gradients:
    """Accumulates the gradients of a step. ``rows``: of one backward pass; halved for good whenever memory runs out.

    ``groups``: the trained parameters by name, to which modules may be added later.
    """

    def __init__(self, session: Session, lab: Lab, groups: Mapping[str, Sequence[nn.Parameter]], rows: int) -> None:
        self.session, self.lab, self.groups, self.rows = session, lab, groups, rows

    def accumulate(self, step: Step) -> float:
        """The mean loss of the batch; its gradients are in the parameters.

        Where memory runs out, bill, log and random state are put back and the step is tried again with half of the rows.
        Raises OutOfMemory where one row does not fit, and UserError for a loss that is no tensor [B] with a gradient.
        """
        rows = self.session.sandboxed(len, step.batch)
        with self.session.held_progress():
            loss = self._own_rows(step, rows, rows) if world.size() == 1 else self._shared(step, rows)
        self._check_trained()
        return loss

    def _check_trained(self) -> None:
        """Raises UserError for a gradient of a module's weight that no optimizer has."""
        known = {id(parameter) for group in self.groups.values() for parameter in group}
        for name, module in self.session.modules.items():
            if any(each.grad is not None and id(each) not in known for each in module.parameters()):
                raise UserError(
                    f"weights of lab.module {name!r} were frozen when it was made and have a gradient now, but no optimizer; "
                    "leave them trainable in its factory, and detach what they give for as long as they stay"
                )

    def _shared(self, step: Step, rows: int) -> float:
        """The same, each process of a run on its own rows: loss, gradients, bill and log are those of the whole batch."""
        session = self.session
        if world.size() > rows and not session.meter.steps:
            raise UserError(
                f"{world.size()} processes share steps of {rows} rows; start at most {rows}, or train larger batches"
            )
        logged, session.logged = session.logged, {}
        count = len(range(world.rank(), rows, world.size()))

        cut = bool(session.shards)

        def work() -> tuple[Any, ...]:
            with session.meter.share() as bill:
                loss = self._own_rows(step, rows, count) if count or cut else 0.0
            return loss, bill, session.logged, session.remembered.news()

        # an error ends a process at once where the others wait for it in the middle of a pass
        outcomes = sharing.exchange(work()) if cut else sharing.together(work)
        losses, bills, logs, known = zip(*outcomes, strict=True)
        session.logged = logged
        for name, values in (each for log in logs for each in log.items()):
            logged.setdefault(name, []).extend(values)
        for news in known:
            session.remembered.learn(news)
        add_up_gradients([parameter for group in self.groups.values() for parameter in group])
        session.meter.settle(bills)
        return sum(losses)

    def _own_rows(self, step: Step, rows: int, count: int) -> float:
        """The sum of the losses of this process's ``count`` rows, over the ``rows`` of the batch, with its gradients."""
        if self.session.shards:  # no process can make more passes than the others
            return self._accumulate(step, rows, count, self.rows)
        restore = self._restorer()

        def accumulate(at_a_time: int) -> float:
            if at_a_time < self.rows:  # again
                restore()
            return self._accumulate(step, rows, count, at_a_time)

        loss, self.rows = halving(accumulate, self.rows, count)
        return loss

    def _accumulate(self, step: Step, rows: int, count: int, at_a_time: int) -> float:
        total, order = 0.0, self._order(step, rows, at_a_time)
        for start in range(0, count, at_a_time):
            place = slice(start, start + at_a_time)
            part = self.session.sandboxed(step.batch.__getitem__, place if order is None else order[place])
            before = self._versions() if start else []
            losses = self.session.in_step(functools.partial(self._losses, step, part, rows))
            if self._versions() != before:
                raise UserError("its own code called backward(); return the loss, and the harness computes the gradients")
            if not isinstance(losses, Tensor):
                raise UserError(f"a loss must return a tensor [B] of one value per row, not {type_name(losses)}")
            if losses.shape != (len(part),):
                raise UserError(f"a loss must return one value per row: got {tuple(losses.shape)} for {len(part)} rows")
            if not losses.requires_grad:
                raise UserError("the loss has no gradient: it is detached, computed under no_grad, or uses no trained model")
            loss = losses.sum() / rows
            _backward(loss)
            total += loss.item()
        if self.session.shards:
            passes, most = (len(range(0, each, at_a_time)) for each in (count, -(-rows // world.size())))
            for _ in range(most - passes):
                self._keep_pace(step, rows)
        return total

    def _keep_pace(self, step: Step, rows: int) -> None:
        """A pass without effect, neither paid nor logged: the other processes wait for this one's parts of the weights."""
        session = self.session
        logged = {name: list(values) for name, values in session.logged.items()}
        part = session.sandboxed(step.batch.__getitem__, slice(0, 1))
        with session.meter.paused():
            losses = session.in_step(functools.partial(self._losses, step, part, rows))
            losses.backward(torch.zeros_like(losses))
        session.logged = logged

    def _losses(self, step: Step, part: Batch, rows: int) -> Any:
        self.session.loss_share = len(part) / rows
        # which columns go together depends on rows, and processes that gather weights make their passes in one order
        joint = nullcontext() if self.session.shards else self.session.joint.over(part)
        try:
            with joint:
                return self.session.sandboxed(step.loss, self.lab, part)
        finally:
            self.session.loss_share = 0.0

    def _order(self, step: Step, rows: int, at_a_time: int) -> Tensor | None:
        """This process's rows by length, so that those of a part are of similar length and little of it is padding; None for
        all rows as they are."""
        if world.size() == 1 and rows <= at_a_time:
            return None
        lengths = step.batch.lengths()
        order = None if lengths is None else lengths.cpu().argsort(stable=True)
        if world.size() == 1:
            return order
        return (torch.arange(rows) if order is None else order)[world.rank() :: world.size()]

    def _versions(self) -> list[int]:
        """How often each existing gradient has been written."""
        trained = (parameter.grad for group in self.groups.values() for parameter in group)
        return [gradient._version for gradient in trained if gradient is not None]

    def _restorer(self) -> Callable[[], None]:
        """Puts back what a step changes before its gradients are whole; the time that it took stays spent."""
        session = self.session
        meter, generator = session.meter.state(), session.generator.get_state()
        logged: dict[str, Any] = {name: list(values) for name, values in session.logged.items()}

        def restore() -> None:
            session.meter.restore(meter | {"seconds": session.meter.seconds})
            session.generator.set_state(generator)
            session.logged.clear()
            session.logged.update(logged)
            for group in self.groups.values():
                for parameter in group:
                    parameter.grad = None

        return restore


def add_up_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients of all processes of a run. One without a gradient of a parameter adds 0; where none has one, it stays
    so. Those of weights that are cut are sums already."""
    parameters = [parameter for parameter in parameters if not is_cut(parameter)]
    written = sharing.exchange([parameter.grad is not None for parameter in parameters])
    used = [parameter for parameter, *has in zip(parameters, *written, strict=True) if any(has)]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    sharing.add_up([parameter.grad for parameter in used])


def make_optimizer(parameters: list[nn.Parameter], betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW whose rate each step sets; in one kernel for all weights where the device has one."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=betas, weight_decay=weight_decay, fused=_fused(parameters))


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore an optimizer's state, saved on this device or on another one."""
    fused = optimizer.param_groups[0]["fused"]
    groups = [group | {"fused": fused} for group in saved["param_groups"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        place: {name: as_cut(value, parameters[place]) for name, value in numbers.items()}
        for place, numbers in saved["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _fused(parameters: list[nn.Parameter]) -> bool | None:
    """None, torch's default, on a CPU: its figures must not change."""
    return True if all(parameter.device.type in FUSED for parameter in parameters) else None
