"""The training loop: the only one, so optimizer, schedule, clipping, accounting and stopping can't differ between methods."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoalign.config.training import TrainConfig
from isoalign.core.batches import Batch, Step
from isoalign.core.errors import UserError
from isoalign.core.progress import Progress
from isoalign.training import checkpoint
from isoalign.training.checkpoint import a, learned, not_json
from isoalign.training.guard import Guard
from isoalign.training.lab import Lab
from isoalign.training.meter import BudgetSpent
from isoalign.training.session import Session


class Trainer:
    """Runs an algorithm's iterations until the meter ends it; a checkpoint is the end of an iteration.

    ``snapshots`` says where along the budget the policy was kept, each under ``snapshots/<steps>`` of the work directory;
    ``rounds`` where feedback was gathered anew, and what was spent by then; ``guard`` what the algorithm ran beside the lab;
    ``loop`` names a training loop that is not this one. ``forbidden``: folders that its code must not read.
    """

    def __init__(
        self, algorithm: Any, session: Session, config: TrainConfig, work: Path, forbidden: Iterable[Path] = ()
    ) -> None:
        self.algorithm, self.session, self.config, self.work = algorithm, session, config, work
        self.lab, self.policy, self.meter = Lab(session), session.policy, session.meter
        self.log: list[dict[str, float]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.loop = ""
        self.skipped = self.skipped_in_a_row = 0
        self.trained = [p for p in self.policy.inner.parameters() if p.requires_grad]
        self.parameters: dict[str, list[nn.Parameter]] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.saved: checkpoint.Tensors = {}
        session.adopt_module, session.trainer = self._adopt, self
        weights = [*self.policy.inner.parameters(), *session.reference.inner.parameters()]
        self.guard = Guard(self.meter, session.modules.values, forbidden, config.idle_seconds, weights)
        session.guard = self.guard
        self.budget, self.begun = self.meter.budget, 0
        self._add("policy", self.trained)

    def run(self, label: str) -> None:
        """Train until the budget is spent; goes on from the last checkpoint if there is one.

        Raises UserError where the budget does not cover one step, and where the algorithm stops by itself or breaks.
        """
        if hasattr(self.algorithm, "train"):
            self._run_own_loop(label)
            return
        self._resume()
        saved_at = time.monotonic()
        bar = Progress("training")
        while True:
            self.begin_round()
            before = self.meter.flops
            try:
                with closing(self.steps()) as steps:
                    for step in steps:
                        self._step(step)
                        bar.show(self.meter.fraction, self.log[-1])
            except BudgetSpent as spent:
                reason = str(spent)
                break
            if self.meter.flops == before:
                raise UserError("an iteration spent nothing, so the budget would never end it")
            self._check_state()
            if time.monotonic() - saved_at >= self.config.checkpoint_seconds:
                self._save()
                saved_at = time.monotonic()
        bar.close()
        self._ended(label, reason)

    def _run_own_loop(self, label: str) -> None:
        """Let an algorithm train by a loop of its own, which ends as ours does. It starts from nothing after a kill."""
        try:
            with self.guard.sandboxed():
                self.algorithm.train(self.lab)
        except BudgetSpent as spent:
            self._ended(label, str(spent))
        else:
            raise UserError("its training loop stopped by itself; only the meter ends a run")

    def _ended(self, label: str, reason: str) -> None:
        """What must be so at the end; only a meter that refused has ended it."""
        self.guard.raise_if_violated()
        if reason not in self.meter.refused or self.meter.budget != self.budget:
            raise UserError("it ended its run by itself; only the meter ends a run")
        if not all(torch.isfinite(weight).all() for weight in self.trained):
            raise UserError(
                "the policy has weights that are not finite, after a step whose loss and gradient were; try a smaller lr"
            )
        if not self.meter.steps:
            limit = reason.partition(":")[0]
            never = not self.begun and self.meter.flops and not hasattr(self.algorithm, "train")
            mend = f"raise budget.{limit}" + (", unless its iteration never comes to yield one" if never else "")
            raise UserError(f"the budget is too small for one step of {label}: {reason}; {mend}")

    def begin_round(self) -> None:
        """Gather feedback anew where a round is due. The policy is saved first, so that a resumed run asks the same one."""
        session = self.session
        if self.meter.steps and session.fetch(session.source.round_due, self.meter.fraction):
            self._save()
            session.fetch(session.source.begin_round, self.policy)
            labels = {source: len(read) for source, read in self.meter.labels.items()}
            place = {"fraction": self.meter.fraction, "flops": self.meter.flops, "steps": self.meter.steps, "labels": labels}
            self.rounds.append(place)

    def steps(self) -> Generator[Step, None, None]:
        """The algorithm's steps, its code under watch and the harness's beside it not."""
        with self.guard.sandboxed():
            steps = self.algorithm.iteration(self.lab)
        if not isinstance(steps, Iterator):
            raise UserError(f"iteration(lab) gave {a(steps)}: it must yield Step(batch, loss), not return it")
        try:
            while True:
                with self.guard.sandboxed():
                    step = next(steps, None)
                if step is None:
                    return
                if not isinstance(step, Step):
                    raise UserError(f"iteration(lab) yielded {a(step)}: it must yield Step(batch, loss)")
                if not isinstance(step.batch, Batch) or not self.session.sandboxed(len, step.batch):
                    what = "no rows" if isinstance(step.batch, Batch) else a(step.batch)
                    raise UserError(f"iteration(lab) yielded a Step of {what}: it needs rows that are a Batch of isoalign")
                self.begun += 1
                yield step
        finally:
            if hasattr(steps, "close"):
                with self.guard.sandboxed():
                    steps.close()

    def _step(self, step: Step) -> None:
        """One optimizer step, begun only if the budget covers all of it."""
        if not self.log and not self.meter.steps:
            self.session.started_at = self.meter.fraction
        with self.meter.quote() as price:
            self.session.sandboxed(step.loss, self.lab, step.batch)
        if not price.total():
            raise UserError("the loss of a step asks the lab for nothing that costs, so it can't be the policy's")
        self.meter.require(price.total(), steps=1)
        rate = self.learning_rate()
        loss = self.backward(step)
        norms = {name: self.clip(group) for name, group in self.parameters.items()}
        self.meter.steps += 1
        finite = all(torch.isfinite(torch.tensor([loss, *norms.values()])).tolist())
        if finite:
            self.skipped_in_a_row = 0
            for optimizer in self.optimizers.values():
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
        else:
            self.skip()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.note(loss if finite else None, rate, norms["policy"] if finite else None)
        self.snapshot()

    def backward(self, step: Step) -> float:
        """Gradients of the mean loss over the batch, micro-batch by micro-batch; the loss itself."""
        rows, total = self.session.sandboxed(len, step.batch), 0.0
        for start in range(0, rows, self.config.micro_batch):
            part = self.session.sandboxed(step.batch.__getitem__, slice(start, start + self.config.micro_batch))
            before = self._gradients() if start else []
            losses = self.session.sandboxed(step.loss, self.lab, part)
            if self._gradients() != before:
                raise UserError("its own code called backward: a loss is given to the harness, which goes back through it")
            if not isinstance(losses, Tensor):
                raise UserError(f"a loss must give a tensor [B], one value a row: got {a(losses)}")
            if losses.shape != (len(part),):
                raise UserError(f"a loss must give one value a row: got {tuple(losses.shape)} for {len(part)} rows")
            if not losses.requires_grad:
                raise UserError("the loss has no gradient: it was detached, made under no_grad, or asks no trained model")
            loss = losses.sum() / rows
            loss.backward()
            total += loss.item()
        return total

    def _gradients(self) -> list[int]:
        """How often each gradient that there is has been written."""
        trained = (parameter.grad for group in self.parameters.values() for parameter in group)
        return [gradient._version for gradient in trained if gradient is not None]

    def clip(self, parameters: list[nn.Parameter]) -> float:
        """Clip a group's gradients to the configured norm; the norm before."""
        return float(nn.utils.clip_grad_norm_(parameters, self.config.clip))

    def learning_rate(self) -> float:
        """The rate of the next step: warm-up, then linear to 0 with the budget."""
        warm = min(1.0, (self.meter.steps + 1) / max(1, self.config.warmup))
        return float(self.algorithm.lr) * warm * (1 - self.session.progress)

    def skip(self) -> None:
        """A step whose loss or gradient is not finite: paid, counted, not taken."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.config.patience:
            raise UserError(f"{self.skipped_in_a_row} steps in a row had no finite loss or gradient; try a smaller lr")

    def note(self, loss: float | None, rate: float, norm: float | None) -> None:
        """A row of the training log; None where the step was skipped."""
        row: dict[str, Any] = {"step": self.meter.steps, "flops_spent": self.meter.flops, "lr": rate}
        if loss is not None:
            row |= {"loss": loss, "grad_norm": norm}
        row |= {name: sum(values) / len(values) for name, values in self.session.logged.items()}
        self.session.logged.clear()
        self.log.append(row)

    def snapshot(self) -> None:
        """Keep the policy where a share of the budget is spent; a reward model, paid at once, may cross several."""
        reached, done = self.meter.fraction, self.snapshots[-1]["fraction"] if self.snapshots else 0.0
        if any(done < share <= reached for share in self.config.snapshots):
            place = {"fraction": reached, "flops": self.meter.flops, "steps": self.meter.steps}
            self.policy.model.save_pretrained(self.work / "snapshots" / str(self.meter.steps))
            self.snapshots.append(place)

    # -- optimizers and modules -----------------------------------------------------------------------------------

    def _add(self, name: str, parameters: list[nn.Parameter]) -> None:
        if not parameters:  # a module that is not trained
            return
        self.parameters[name] = parameters
        config = self.config
        self.optimizers[name] = torch.optim.AdamW(parameters, lr=0.0, betas=config.betas, weight_decay=config.weight_decay)

    def _adopt(self, name: str, module: nn.Module) -> None:
        """Train a module that the algorithm has just made; after a resume, put back what it had learned."""
        self._add(name, [p for p in module.parameters() if p.requires_grad])
        if name in self.saved.get("modules", {}):
            module.load_state_dict(self.saved["modules"][name], strict=False)  # what is frozen was not saved
            if name in self.optimizers:
                self.optimizers[name].load_state_dict(self.saved["optimizers"][name])

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Checkpoint; a module not used since the last resume is as it was saved."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        modules = {name: learned(module) for name, module in self.session.modules.items()}
        tensors = {
            "policy": [p.detach() for p in self.trained],
            "optimizers": self.saved.get("optimizers", {}) | optimizers,
            "modules": self.saved.get("modules", {}) | modules,
            "generator": self.session.generator.get_state(),
        }
        numbers = {
            "session": self.session.numbers(),
            "log": self.log,
            "snapshots": self.snapshots,
            "rounds": self.rounds,
            "skipped": [self.skipped, self.skipped_in_a_row],
        }
        checkpoint.save(self.work, tensors, numbers)

    def _check_state(self) -> None:
        """Refuse what would not come back from a checkpoint as it was."""
        if odd := not_json(self.session.state):
            raise UserError(
                f"lab.state{odd}, which no checkpoint brings back as it was; it may hold numbers, strings, lists and dicts by "
                "string; weights belong into lab.module"
            )

    def _resume(self) -> None:
        found = checkpoint.load(self.work)
        if found is None:
            return
        self.saved, numbers = found
        with torch.no_grad():
            for parameter, value in zip(self.trained, self.saved["policy"], strict=True):
                parameter.copy_(value)
        self.optimizers["policy"].load_state_dict(self.saved["optimizers"]["policy"])
        self.session.generator.set_state(self.saved["generator"])
        self.session.restore(numbers["session"])
        self.log, self.snapshots, self.rounds = numbers["log"], numbers["snapshots"], numbers["rounds"]
        self.session.source.round = len(self.rounds)
        self.skipped, self.skipped_in_a_row = numbers["skipped"]
