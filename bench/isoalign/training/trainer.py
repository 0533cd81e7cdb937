"""The training loop: the only one, so optimizer, schedule, clipping, accounting and stopping can't differ between methods."""

from __future__ import annotations

import json
import os
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
from isoalign.data.preferences import Cursor
from isoalign.models.language import LanguageModel
from isoalign.training.guard import Guard
from isoalign.training.lab import Lab
from isoalign.training.meter import BudgetSpent, Meter


class Trainer:
    """Runs an algorithm's iterations until the meter ends it; a checkpoint is the end of an iteration.

    ``snapshots`` says where along the budget the policy was kept, each under ``snapshots/<steps>`` of the work directory;
    ``rounds`` where feedback was gathered anew, and what was spent by then; ``guard`` what the algorithm ran beside the lab;
    ``loop`` names a training loop that is not this. ``shut``: folders that its code must not read.
    """

    def __init__(
        self, algorithm: Any, lab: Lab, policy: LanguageModel, meter: Meter, config: TrainConfig, work: Path,
        shut: Iterable[Path] = (),
    ):  # fmt: skip
        self.algorithm, self.lab, self.policy, self.meter, self.config = algorithm, lab, policy, meter, config
        self.work, self.file = work, work / "checkpoint" / "state.pt"
        self.log: list[dict[str, float]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.loop = ""
        self.skipped = self.skipped_in_a_row = 0
        self.trained = [p for p in policy.inner.parameters() if p.requires_grad]
        self.parameters: dict[str, list[nn.Parameter]] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.saved: dict[str, Any] = {}
        lab._new_module, lab._trainer = self._adopt, self
        held = [*policy.inner.parameters(), *lab._reference.inner.parameters()]
        self.guard = lab._guard = Guard(meter, lambda: lab._modules.values(), shut, config.idle_seconds, held)
        self.budget, self.begun = meter.budget, 0
        self._add("policy", self.trained)

    def run(self, label: str) -> None:
        """Train until the budget is spent; goes on from the last checkpoint if there is one.

        Raises UserError where the budget does not cover one step, and where the algorithm stops by itself or breaks.
        """
        if hasattr(self.algorithm, "train"):
            self._lend(label)
            return
        self._resume()
        saved_at = time.monotonic()
        bar = Progress("training")
        while True:
            self._next_round()
            before = self.meter.flops
            try:
                with closing(self._iteration()) as steps:
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

    def _lend(self, label: str) -> None:
        """Let an algorithm train by a loop of its own, which ends as ours does. It starts from nothing after a kill."""
        try:
            with self.guard.watching():
                self.algorithm.train(self.lab)
        except BudgetSpent as spent:
            self._ended(label, str(spent))
        else:
            raise UserError("its training loop stopped by itself; only the meter ends a run")

    def _ended(self, label: str, reason: str) -> None:
        """What must be so at the end; only a meter that refused has ended it."""
        self.guard.settle()
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

    def _next_round(self) -> None:
        """Gather feedback anew where a round is due. The policy is saved first, so that a resumed run asks the same one."""
        with self.meter.paused():
            shelf = self.lab._shelf
            due = self.meter.steps and shelf.due(self.meter.fraction)
        if due:
            self._save()
            with self.meter.paused():
                shelf.begin(self.policy)
            labels = {source: len(read) for source, read in self.meter.labels.items()}
            place = {"fraction": self.meter.fraction, "flops": self.meter.flops, "steps": self.meter.steps, "labels": labels}
            self.rounds.append(place)

    def _iteration(self) -> Generator[Step, None, None]:
        """The algorithm's steps, its code under watch and the harness's beside it not."""
        with self.guard.watching():
            steps = self.algorithm.iteration(self.lab)
        if not isinstance(steps, Iterator):
            raise UserError(f"iteration(lab) gave {_a(steps)}: it must yield Step(batch, loss), not return it")
        try:
            while True:
                with self.guard.watching():
                    step = next(steps, None)
                if step is None:
                    return
                if not isinstance(step, Step):
                    raise UserError(f"iteration(lab) yielded {_a(step)}: it must yield Step(batch, loss)")
                if not isinstance(step.batch, Batch) or not self.lab._watched(len, step.batch):
                    what = "no rows" if isinstance(step.batch, Batch) else _a(step.batch)
                    raise UserError(f"iteration(lab) yielded a Step of {what}: it needs rows that are a Batch of isoalign")
                self.begun += 1
                yield step
        finally:
            if hasattr(steps, "close"):
                with self.guard.watching():
                    steps.close()

    def _step(self, step: Step) -> None:
        """One optimizer step, begun only if the purse covers all of it."""
        if not self.log and not self.meter.steps:
            self.lab._start = self.meter.fraction
        with self.meter.quote() as price:
            self.lab._watched(step.loss, self.lab, step.batch)
        if not price.total():
            raise UserError("the loss of a step asks the lab for nothing that costs, so it can't be the policy's")
        self.meter.require(price.total(), steps=1)
        rate = self._rate()
        loss = self._backward(step)
        norms = {name: self._norm(group) for name, group in self.parameters.items()}
        self.meter.steps += 1
        finite = all(torch.isfinite(torch.tensor([loss, *norms.values()])).tolist())
        if finite:
            self.skipped_in_a_row = 0
            for optimizer in self.optimizers.values():
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
        else:
            self._skip()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self._note(loss if finite else None, rate, norms["policy"] if finite else None)
        self._snapshot()

    def _backward(self, step: Step) -> float:
        """Gradients of the mean loss over the batch, micro-batch by micro-batch; the loss itself."""
        rows, total = self.lab._watched(len, step.batch), 0.0
        for start in range(0, rows, self.config.micro_batch):
            part = self.lab._watched(step.batch.__getitem__, slice(start, start + self.config.micro_batch))
            before = self._gradients() if start else []
            losses = self.lab._watched(step.loss, self.lab, part)
            if self._gradients() != before:
                raise UserError("its own code called backward: a loss is given to the harness, which goes back through it")
            if not isinstance(losses, Tensor):
                raise UserError(f"a loss must give a tensor [B], one value a row: got {_a(losses)}")
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

    def _norm(self, parameters: list[nn.Parameter]) -> float:
        return float(nn.utils.clip_grad_norm_(parameters, self.config.clip))

    def _rate(self) -> float:
        warm = min(1.0, (self.meter.steps + 1) / max(1, self.config.warmup))
        return float(self.algorithm.lr) * warm * (1 - self.lab.progress)

    def _skip(self) -> None:
        """A step whose loss or gradient is not finite: paid, counted, not taken."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.config.patience:
            raise UserError(f"{self.skipped_in_a_row} steps in a row had no finite loss or gradient; try a smaller lr")

    def _note(self, loss: float | None, rate: float, norm: float | None) -> None:
        row: dict[str, Any] = {"step": self.meter.steps, "flops_spent": self.meter.flops, "lr": rate}
        if loss is not None:
            row |= {"loss": loss, "grad_norm": norm}
        row |= {name: sum(values) / len(values) for name, values in self.lab._logged.items()}
        self.lab._logged.clear()
        self.log.append(row)

    def _snapshot(self) -> None:
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
        """Write everything a resumed run needs, in one rename; a module not used since the last resume is as it was saved."""
        lab, saved = self.lab, self.saved
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        modules = {name: _learned(module) for name, module in lab._modules.items()}
        state = {
            "policy": [p.detach() for p in self.trained],
            "optimizers": saved.get("optimizers", {}) | optimizers,
            "modules": saved.get("modules", {}) | modules,
            "generator": lab.generator.get_state(),
            "numbers": json.dumps(
                {
                    "meter": self.meter.state(),
                    "cursors": {name: [c.size, c.seed, c.position] for name, c in lab._cursors.items()},
                    "state": lab.state,
                    "paid": sorted(lab._paid),
                    "start": lab._start,
                    "log": self.log,
                    "snapshots": self.snapshots,
                    "rounds": self.rounds,
                    "skipped": [self.skipped, self.skipped_in_a_row],
                }
            ),
        }
        self.file.parent.mkdir(exist_ok=True)
        torch.save(state, self.file.with_suffix(".tmp"))
        os.replace(self.file.with_suffix(".tmp"), self.file)

    def _check_state(self) -> None:
        """Refuse what would not come back from a checkpoint as it was."""
        if odd := _not_json(self.lab.state):
            raise UserError(
                f"lab.state{odd}, which no checkpoint brings back as it was; it may hold numbers, strings, lists and dicts by "
                "string; weights belong into lab.module"
            )

    def _resume(self) -> None:
        if not self.file.exists():
            return
        self.saved = state = torch.load(self.file, weights_only=True)
        numbers, lab = json.loads(state["numbers"]), self.lab
        with torch.no_grad():
            for parameter, value in zip(self.trained, state["policy"], strict=True):
                parameter.copy_(value)
        self.optimizers["policy"].load_state_dict(state["optimizers"]["policy"])
        lab.generator.set_state(state["generator"])
        lab._cursors = {name: Cursor(*numbers_) for name, numbers_ in numbers["cursors"].items()}
        lab.state, lab._paid, lab._start = numbers["state"], set(numbers["paid"]), numbers["start"]
        self.meter.restore(numbers["meter"])
        self.log, self.snapshots, self.rounds = numbers["log"], numbers["snapshots"], numbers["rounds"]
        lab._shelf.number = len(self.rounds)
        self.skipped, self.skipped_in_a_row = numbers["skipped"]


def _a(value: object) -> str:
    """What a value is, in words."""
    kind = type(value).__name__
    return "nothing" if value is None else f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _not_json(value: object) -> str:
    """The place in a value of what JSON does not give back as it was, and what it is; nothing of most."""
    if type(value) is dict:
        keys = next((f" has {_a(key)} as a key" for key in value if type(key) is not str), "")
        return keys or next((f"[{key!r}]{odd}" for key, each in value.items() if (odd := _not_json(each))), "")
    if type(value) is list:
        return next((f"[{place}]{odd}" for place, each in enumerate(value) if (odd := _not_json(each))), "")
    return "" if value is None or isinstance(value, bool | int | float | str) else f" holds {_a(value)}"


def _learned(module: nn.Module) -> dict[str, Tensor]:
    """A module's state without its frozen weights."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}
