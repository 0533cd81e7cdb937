"""What TRL's trainers are charged for, pass by pass, without running them: for plans.

The order and the shapes of the passes are those that ``pay_passes`` sees; tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.data.preferences import rollouts
from isoalign.training.lab import Lab, session_of
from isoalign.training.trl.rows import Rows


@dataclass(frozen=True)
class PlannedLoop:
    """A call of ``trl.train`` that is planned. ``trainer``: the name of its class."""

    lab: Lab
    trainer: str
    gather: Callable[[], Rows]
    reward: Callable[[Rollouts], Tensor] | None
    repeats: int
    settings: dict[str, Any]

    def cycle(self, step: Callable[[Callable[[], None]], None]) -> None:
        """Gather a batch and charge its ``repeats`` steps, each within ``step``. Raises UserError for an unknown trainer."""
        kind = self.trainer.rpartition(".")[2].removesuffix("Trainer")
        passes = getattr(self, f"_{kind.lower()}", None)
        if passes is None:
            raise UserError(f"no plan knows the passes of trl.{self.trainer}")
        rows = self.gather()
        for turn in range(self.repeats):
            step(lambda turn=turn: passes(rows, turn))  # type: ignore[misc]

    # -- trainers -----------------------------------------------------------------------------------------------------

    def _dpo(self, rows: Rows, _: int) -> None:
        columns = max(len(row["prompt_ids"]) + len(row[side]) for row in rows for side in ("chosen_ids", "rejected_ids"))
        self._train(2 * len(rows), columns)
        self._read("reference", 2 * len(rows), columns)

    def _kto(self, rows: Rows, _: int) -> None:
        own, mismatched = (
            max(len(row["prompt_ids"]) + len(row[side]) for row in rows) for side in ("completion_ids", "KL_completion_ids")
        )
        self._train(len(rows), own)
        self._read("reference", len(rows), own)
        if self.settings.get("loss_type", "kto") == "kto":  # others have no estimate of the KL
            self._read("policy", len(rows), mismatched)
            self._read("reference", len(rows), mismatched)

    def _cpo(self, rows: Rows, _: int) -> None:
        sides = ("chosen_input_ids", "rejected_input_ids")
        self._train(2 * len(rows), max(len(row[side]) for row in rows for side in sides), fused=False)

    _orpo = _cpo

    def _onlinedpo(self, rows: Rows, _: int) -> None:
        prompts = [row["prompt"] for row in rows for _ in range(2)]
        answers, columns = self._sample(prompts)
        self._train(len(prompts), columns, fused=False)
        self._read("reference", len(prompts), columns, fused=False)
        self._score(prompts, answers)

    def _rloo(self, rows: Rows, turn: int, old: bool = True) -> None:
        if turn == 0:
            prompts = [row["prompt"] for row in rows]
            answers, columns = self._sample(prompts)
            if old:
                self._read("policy", len(rows), columns)
            if self.settings.get("beta"):
                self._read("reference", len(rows), columns)
            self._score(prompts, answers)
        columns = max(len(row["prompt"]) for row in rows) + self._answer
        self._train(int(self.settings["per_device_train_batch_size"]), columns)

    def _grpo(self, rows: Rows, turn: int) -> None:
        self._rloo(rows, turn, old=self.repeats > 1)

    # -- passes -------------------------------------------------------------------------------------------------------

    @property
    def _policy(self) -> Any:
        return session_of(self.lab).policy

    @property
    def _answer(self) -> int:
        """Tokens of an answer."""
        return min(int(self._policy.answer), self.lab.new_tokens)

    def _sample(self, prompts: list[list[int]]) -> tuple[list[list[int]], int]:
        """Charge sampling an answer to each prompt; the answers, and the columns of a batch of both."""
        shape, count, columns = self._policy.shape, len(prompts), max(map(len, prompts))
        price = shape.prefill([columns] * count) + shape.decode([columns] * count, [self._answer] * count)
        session_of(self.lab).meter.charge("policy", "sample", price, count * self._answer)
        return self._policy.written(count, self._answer).tolist(), columns + self._answer

    def _read(self, role: str, rows: int, columns: int, fused: bool = True) -> None:
        """Charge a pass without gradients over padded rows."""
        session = session_of(self.lab)
        shape = getattr(session, role).shape
        price = shape.forward([columns] * rows, [columns - fused] * rows, adapter=role == "policy")
        session.meter.charge(role, "forward", price)

    def _train(self, rows: int, columns: int, fused: bool = True) -> None:
        """Charge a pass with gradients; a fused head is applied a second time in the backward pass."""
        session, shape = session_of(self.lab), self._policy.shape
        meter = session.meter
        if not meter.steps:
            session.begin_steps()
        lengths, heads = [columns] * rows, [columns - fused] * rows
        forward, backward = shape.forward(lengths, heads), shape.backward(lengths, heads) + fused * 2 * shape.head * sum(heads)
        meter.require(forward + backward)
        meter.charge("policy", "backward", backward)
        meter.charge("policy", "forward", forward)

    def _score(self, prompts: list[list[int]], answers: list[list[int]]) -> None:
        if self.reward is not None:
            self.reward(rollouts(prompts, answers, session_of(self.lab).pad))
