"""What the harness puts in the place of a trainer's parts: batches, budget, optimizer, clipping, log."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from isoalign.core.progress import Progress
from isoalign.training.trainer import Trainer
from isoalign.training.trl.rows import Rows


class Harness:
    """What a loop of TRL's is held to: its batches, its budget, the shared optimizer and schedule, the log."""

    def __init__(self, run: Trainer, gather: Callable[[], Rows], repeats: int) -> None:
        self.run, self.gather, self.repeats = run, gather, repeats
        self.optimizer = run.optimizers["policy"]
        self.bar = Progress("training")
        self.prices = [(0, 0)] * repeats  # FLOPs and tokens of the last step at each place of a cycle
        self.rate = self.loss = self.norm = 0.0
        self.finite = True

    def batches(self, collate: Callable[[Rows], Any]) -> Iterator[Any]:
        """The batches of the whole run; feedback is paid when a batch is gathered, not before."""
        while True:
            self.run.begin_round()
            rows = self.gather()
            for _ in range(self.repeats):
                yield collate(rows)

    def before_gradients(self) -> None:
        """The pass that trains is about to be paid: here a step begins for the schedule, as one of ours does."""
        if not self.run.meter.steps:
            self.run.session.started_at = self.run.meter.fraction
        self.rate = self.run.learning_rate()

    def step(self, work: Callable[[], Tensor]) -> Tensor:
        """One step, begun only if the budget covers what the last of its kind cost; a reward model is trained but once."""
        meter, place, bought = self.run.meter, self.run.meter.steps % self.repeats, set(self.run.session.reward_models)
        flops, tokens = self.prices[place]
        meter.require(flops, tokens, steps=1)
        before = meter.flops, meter.tokens
        loss = work()
        if bought == self.run.session.reward_models:
            self.prices[place] = meter.flops - before[0], meter.tokens - before[1]
        self.loss = float(loss)
        return loss

    def clip(self) -> float:
        """The harness's clipping, just before the optimizer's step, which is not taken where a number is not finite."""
        self.norm = self.run.clip(self.run.trained)
        self.finite = math.isfinite(self.loss) and math.isfinite(self.norm)
        if self.finite:
            self.run.skipped_in_a_row = 0
            self.optimizer.param_groups[0]["lr"] = self.rate
        else:
            self.optimizer.zero_grad(set_to_none=True)
        return self.norm

    def note(self) -> None:
        """A step is over."""
        self.run.meter.steps += 1
        if not self.finite:
            self.run.skip()
        self.run.note(self.loss if self.finite else None, self.rate, self.norm if self.finite else None)
        self.run.snapshot()
        self.bar.show(self.run.meter.fraction, self.run.log[-1])


class TokenIds:
    """A tokenizer that is given token ids, where a trainer hands it prompts: they are padded, and nothing else."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: list[list[int]], return_tensors: str, padding: bool, padding_side: str, **_: Any) -> Any:
        """As the tokenizer of the text that has these ids."""
        return self.tokenizer.pad(
            {"input_ids": text}, padding=padding, padding_side=padding_side, return_tensors=return_tensors
        )


def trainer_of(trainer_class: Any, harness: Harness) -> Any:
    """A trainer whose every step is the harness's."""

    class Held(trainer_class):
        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[Any, ...]:
            return prompts, None, {}  # they are tokens

        def get_train_dataloader(self) -> Any:
            return harness.batches(self.data_collator)

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            return harness.step(functools.partial(super().training_step, *args, **kwargs))

        def _clip_grad_norm(self, model: Any) -> float:
            return harness.clip()

        def _maybe_log_save_evaluate(self, *_: Any, **__: Any) -> None:
            harness.note()

    return Held
