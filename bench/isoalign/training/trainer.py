"""The training loop. All methods share it, so optimizer, schedule, clipping, accounting and stopping cannot differ."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isoalign.config.training import TrainConfig
from isoalign.core import sharing, stopping
from isoalign.core.batches import Batch, Step, check_columns
from isoalign.core.complaint import say
from isoalign.core.errors import UserError
from isoalign.core.progress import Progress
from isoalign.models.shards import as_cut, full, part_of
from isoalign.training import checkpoint
from isoalign.training.agreement import agreed_to_save
from isoalign.training.checkpoint import changing_state, find_non_json, type_name
from isoalign.training.gradients import Gradients, load_optimizer, make_optimizer
from isoalign.training.guard import Guard
from isoalign.training.lab import Lab
from isoalign.training.meter import BudgetSpent
from isoalign.training.quoting import without_trace
from isoalign.training.session import Session
from isoalign.training.snapshots import SnapshotPlan

SAVE_COST = 20  # a checkpoint every so many times as long as the last one took


class Trainer:
    """Runs an algorithm's iterations until the budget is spent. Checkpoints are written between iterations.

    ``snapshots``: where along the budget the policy was saved, each under ``snapshots/<steps>`` of the work directory.
    ``rounds``: where a feedback round began, and what was spent by then. ``guard``: watches the algorithm's code and records
    models that it runs outside the lab. ``loop``: name of the training loop if it is not this one. ``forbidden``: folders that
    the algorithm's code must not read. ``follow``: gets the log after each step.
    """

    def __init__(
        self, algorithm: Any, session: Session, config: TrainConfig, work: Path, forbidden: Iterable[Path] = (),
        follow: Callable[[list[dict[str, Any]]], None] = lambda log: None,
    ) -> None:  # fmt: skip
        self.algorithm, self.session, self.config, self.work = algorithm, session, config, work
        self.follow, self.lab, self.policy, self.meter = follow, Lab(session), session.policy, session.meter
        self.log: list[dict[str, float]] = []
        self.snapshots, self.rounds = list[dict[str, Any]](), list[dict[str, Any]]()
        self.plan, self.loop = SnapshotPlan(session, config.snapshots, config.kl_snapshots), ""
        self.skipped = self.skipped_in_a_row = 0
        self.save_seconds, self.saved_at = 0.0, time.monotonic()  # of the last checkpoint
        self.trained = [p for p in self.policy.weights() if p.requires_grad]
        self.parameters, self.optimizers = dict[str, list[nn.Parameter]](), dict[str, torch.optim.Optimizer]()
        self.frozen: dict[str, dict[str, checkpoint.Sums]] = {}  # of modules, as they were made
        self.gradients = Gradients(session, self.lab, self.parameters, config.micro_batch)
        self.saved: checkpoint.Tensors = {}
        self.loop_state: Callable[[], dict[str, Any]] = dict  # what another training loop keeps, for checkpoints
        session.adopt_module, session.trainer = self._adopt, self
        weights = [*self.policy.weights(), *session.reference.weights()]
        self.guard = session.guard = Guard(self.meter, session.modules.values, forbidden, config.idle_seconds, weights)
        self.budget, self.steps_begun = self.meter.budget, 0
        self._add_optimizer("policy", self.trained)

    def run(self, label: str) -> None:
        """Train until the budget is spent, from the last checkpoint if there is one.

        Raises UserError if the budget does not cover one step, and if the algorithm fails or ends before the budget.
        """
        if hasattr(self.algorithm, "train"):
            self._run_own_loop(label)
            return
        self.resume()
        bar = Progress("training")
        with stopping.finishing():
            while True:
                self.begin_round()
                before = self.meter.fractions
                try:
                    with closing(self.steps()) as steps:
                        for step in steps:
                            self._step(step)
                            bar.show(self.session.fraction, self.log[-1])
                            self.meter.require(steps=1)  # before the next ones are sampled for
                except BudgetSpent as spent:
                    reason = str(spent)
                    break
                if self.meter.fractions == before:
                    raise UserError("an iteration spent none of the budget, so the run would never end")
                self._check_state()
                self.save_if_due()
        bar.close()
        self._check_end(label, reason)

    def _run_own_loop(self, label: str) -> None:
        """Run an algorithm that has its own training loop."""
        try:
            with self.guard.sandboxed():
                self.algorithm.train(self.lab)
        except BudgetSpent as spent:
            self._check_end(label, str(spent))
        else:
            raise UserError("its training loop returned before the budget was spent; only the meter ends a run")

    def _check_end(self, label: str, reason: str) -> None:
        """Check that the meter ended the run, after at least one step, with finite weights and no violation."""
        self.guard.raise_if_violated()
        if reason not in self.meter.refused or self.meter.budget != self.budget:
            raise UserError("it ended its run itself; only the meter ends a run")
        if not all(sharing.exchange(all(torch.isfinite(part_of(weight)).all() for weight in self.trained))):
            raise UserError("the policy's weights are not finite after a step with finite loss and gradient; try a smaller lr")
        if not self.meter.steps:
            limit = reason.partition(":")[0]
            no_yield = not self.steps_begun and self.meter.flops and not hasattr(self.algorithm, "train")
            advice = f"raise budget.{limit}" + (", or check that iteration() yields a step" if no_yield else "")
            raise UserError(f"the budget is too small for one step of {label}: {reason}; {advice}")

    def begin_round(self) -> None:
        """Begin a feedback round if one is due. A checkpoint comes first, so that a resumed run samples the same policy."""
        session = self.session
        if self.meter.steps and session.fetch(session.source.round_due, session.fraction):
            self._save()
            with self.policy.whole():
                session.fetch(session.source.begin_round, self.policy)
            labels = {source: len(read) for source, read in self.meter.labels.items()}
            place = {"fraction": session.fraction, "flops": self.meter.flops, "steps": self.meter.steps, "labels": labels}
            self.rounds.append(place)

    def steps(self) -> Generator[Step, None, None]:
        """The algorithm's steps. The guard watches the algorithm's code only."""
        with self.guard.sandboxed():
            steps = self.algorithm.iteration(self.lab)
        if not isinstance(steps, Iterator):
            raise UserError(f"iteration(lab) returned {type_name(steps)}; it must yield Step(batch, loss)")
        try:
            while True:
                with self.guard.sandboxed():
                    step = next(steps, None)
                if step is None:
                    return
                if not isinstance(step, Step):
                    raise UserError(f"iteration(lab) yielded {type_name(step)}; it must yield Step(batch, loss)")
                if not isinstance(step.batch, Batch):
                    raise UserError(
                        f"iteration(lab) yielded a Step of {type_name(step.batch)}; its batch must be an isoalign.Batch"
                    )
                if not self.session.sandboxed(len, step.batch):
                    raise UserError("iteration(lab) yielded a Step of no rows; its batch must have at least one")
                check_columns(step.batch)
                self.steps_begun += 1
                yield step
        finally:
            if hasattr(steps, "close"):
                with self.guard.sandboxed():
                    steps.close()

    def _step(self, step: Step) -> None:
        """One optimizer step. It begins only if the budget covers all of it."""
        if not self.log and not self.meter.steps:
            self.session.begin_steps()
        with self.meter.quote() as price, without_trace(self.session, step.batch), self.session.joint.quoting(step.batch):
            self.session.sandboxed(step.loss, self.lab, step.batch)
        if not price.total():
            raise UserError("the loss of a step makes no paid call to the lab, so it does not depend on the policy")
        self.meter.require(price.total(), steps=1)
        rate = self.learning_rate()
        loss = self.gradients.accumulate(step)
        norms = {name: self.clip(group) for name, group in self.parameters.items()}
        self.meter.steps += 1
        if finite := bool(torch.isfinite(torch.tensor([loss, *norms.values()])).all()):
            self.skipped_in_a_row = 0
            for optimizer in self.optimizers.values():
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
        else:
            self.skip_step()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.log_step(loss if finite else None, rate, norms["policy"] if finite else None)
        self.snapshot()

    def clip(self, parameters: list[nn.Parameter]) -> float:
        """Clip a group's gradients to the configured norm. Returns the norm before clipping."""
        return float(full(nn.utils.clip_grad_norm_(parameters, self.config.clip)))

    def learning_rate(self) -> float:
        """The learning rate of the next step: linear warm-up, then linear decay to 0 with the budget."""
        warm = min(1.0, (self.meter.steps + 1) / max(1, self.config.warmup))
        return float(self.algorithm.lr) * warm * (1 - self.session.progress)

    def skip_step(self) -> None:
        """Count a step whose loss or gradient is not finite. It is charged, but the weights do not change."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.config.patience:
            raise UserError(
                f"the loss or the gradient was not finite for {self.skipped_in_a_row} steps in a row; try a smaller lr"
            )

    def log_step(self, loss: float | None, rate: float, norm: float | None) -> None:
        """Add a row to the training log. ``loss`` and ``norm`` are None for a skipped step."""
        row: dict[str, Any] = {"step": self.meter.steps, "flops_spent": self.meter.flops, "lr": rate}
        if loss is not None:
            row |= {"loss": loss, "grad_norm": norm}
        self.log.append(row | self.session.take_logged())
        self.follow(self.log)

    def snapshot(self) -> None:
        """Save the policy if it is time for that."""
        if self.plan.due():
            place = {"fraction": self.session.fraction, "flops": self.meter.flops, "steps": self.meter.steps}
            self.policy.save(self.work / "snapshots" / str(self.meter.steps))
            self.snapshots.append(place)

    # -- optimizers and modules -----------------------------------------------------------------------------------

    def _add_optimizer(self, name: str, parameters: list[nn.Parameter]) -> None:
        if not parameters:  # a module that is not trained
            return
        self.parameters[name] = parameters
        self.optimizers[name] = make_optimizer(parameters, self.config.betas, self.config.weight_decay)

    def _adopt(self, name: str, module: nn.Module) -> None:
        """Train a module that the algorithm has just created; after a resume, restore its weights."""
        self._add_optimizer(name, [p for p in module.parameters() if p.requires_grad])
        self.frozen[name] = checkpoint.frozen_sums(module)
        if name in self.saved.get("modules", {}):
            own, saved = module.state_dict(), self.saved["modules"][name]  # without weights that nothing changed
            module.load_state_dict({key: as_cut(value, own[key]) for key, value in saved.items()}, strict=False)
            if name in self.optimizers:
                load_optimizer(self.optimizers[name], self.saved["optimizers"][name])

    # -- checkpoints ----------------------------------------------------------------------------------------------

    @property
    def save_interval(self) -> float:
        """Seconds between checkpoints: as configured, and so many that saving takes a small share of the time; 0 for one after
        each iteration."""
        return (least := self.config.checkpoint_seconds) and max(least, SAVE_COST * self.save_seconds)

    def save_if_due(self) -> None:
        """Write a checkpoint if it is time for one, or if a signal has come: then Stopped is raised."""
        if agreed_to_save(self.session, self.parameters, time.monotonic() - self.saved_at >= self.save_interval):
            self._save()
            stopping.stop_here()

    def _save(self) -> None:
        """Write a checkpoint. A module not used since the last resume is saved as it was loaded."""
        started = time.monotonic()
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        modules = {name: changing_state(module, self.frozen[name]) for name, module in self.session.modules.items()}
        tensors = {
            "policy": [p.detach() for p in self.trained],
            "optimizers": self.saved.get("optimizers", {}) | optimizers,
            "modules": self.saved.get("modules", {}) | modules,
            "generator": self.session.generator.get_state(),
            "reference": self.session.remembered.state(),
            "anchor": self.session.anchor.state(),
            "loop": self.loop_state(),
        }
        numbers = {"session": self.session.numbers(), "log": self.log, "skipped": [self.skipped, self.skipped_in_a_row]}
        numbers |= {"snapshots": self.snapshots, "rounds": self.rounds, "plan": [self.plan.progress, self.plan.passed]}
        numbers |= {"ran": self.guard.models, "read": sorted(self.guard.files)}
        checkpoint.save_checkpoint(self.work, tensors, numbers)
        self.saved_at, self.save_seconds = (now := time.monotonic()), now - started

    def _check_state(self) -> None:
        """Refuse a state that a checkpoint would not restore exactly."""
        if problem := find_non_json(self.session.state):
            raise UserError(
                f"lab.state{problem}, which a checkpoint cannot restore; use numbers, strings, lists and dicts with string "
                "keys, and lab.module for weights"
            )

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one; the state of another loop is then in ``saved["loop"]``."""
        loaded = checkpoint.load_checkpoint(self.work, self.policy.shards and self.policy.shards.mesh)
        if loaded is None:
            return
        made, now = (state.get("device") for state in (loaded[0].get("loop", {}), self.loop_state()))
        if made != now:  # chance is the device's there
            say(f"the checkpoint of {self.loop} is of another device ({made}); training starts over")
            return
        self.saved, numbers = loaded
        with torch.no_grad():
            for parameter, value in zip(self.trained, self.saved.pop("policy"), strict=True):
                parameter.copy_(as_cut(value, parameter))
        load_optimizer(self.optimizers["policy"], self.saved["optimizers"]["policy"])
        self.session.generator.set_state(self.saved["generator"])
        self.session.restore(numbers["session"])
        self.session.remembered.restore(self.saved["reference"])
        self.session.anchor.restore(self.saved.get("anchor", []))
        self.log, self.snapshots, self.rounds = numbers["log"], numbers["snapshots"], numbers["rounds"]
        self.session.source.round = len(self.rounds)
        self.plan.progress, self.plan.passed = numbers["plan"]
        self.guard.models.update(numbers.get("ran", {}))
        self.guard.files.update(numbers.get("read", []))
        self.skipped, self.skipped_in_a_row = numbers["skipped"]
