"""The parts of a TRL trainer that the harness replaces: batches, budget, optimizer, clipping, log."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from isoalign.core.progress import Progress
from isoalign.core.randomness import random_states, restore_random_states
from isoalign.training.trainer import Trainer
from isoalign.training.trl.rows import Rows


class Harness:
    """Batches, budget, optimizer, schedule and log for a TRL training loop. ``moving``: weights beside the policy's that the
    trainer changes, those of a reference that it moves."""

    def __init__(self, run: Trainer, gather: Callable[[], Rows], repeats: int, moving: list[nn.Parameter]) -> None:
        self.run, self.gather, self.repeats, self.moving = run, gather, repeats, moving
        self.optimizer = run.optimizers["policy"]
        self.bar = Progress("training")
        self.prices = [(0, 0)] * repeats  # FLOPs and tokens of the last step at each position of a cycle
        self.rate = self.loss = self.norm = 0.0
        self.finite = True
        run.loop_state = self.state

    def state(self) -> dict[str, Any]:
        """What a checkpoint between batches needs besides the trainer's: TRL's samplers draw from the process's generators."""
        state = {"prices": self.prices, "random": random_states(), "device": self.run.policy.device.type}
        return state | ({"moving": [weight.detach() for weight in self.moving]} if self.moving else {})

    def batches(self, collate: Callable[[Rows], Any]) -> Iterator[Any]:
        """The batches of the run, from the last checkpoint on. Feedback is charged when its batch is gathered."""
        self.run.resume()
        if saved := self.run.saved.get("loop"):
            self.prices = saved["prices"]
            restore_random_states(saved["random"])
            for weight, value in zip(self.moving, saved.get("moving", []), strict=True):
                weight.data.copy_(value)
        taken, limit, rows = self.run.meter.steps, self.run.budget.steps, None
        while True:
            self.run.begin_round()
            if rows is None or limit is None or taken < limit:  # a batch is fetched ahead of its step, the last one for none
                rows = self.gather()
            for _ in range(self.repeats):
                taken += 1
                yield collate(rows)
            self.run.save_if_due()

    def before_gradients(self) -> None:
        """Called before the pass with gradients is charged: here a step begins for the schedule, as in our loop."""
        if not self.run.meter.steps:
            self.run.session.begin_steps()
        self.rate = self.run.learning_rate()

    def step(self, work: Callable[[], Tensor]) -> Tensor:
        """One step. It begins only if the budget covers the cost of the last step of its kind."""
        meter, position = self.run.meter, self.run.meter.steps % self.repeats
        reward_models = set(self.run.session.reward_models)
        flops, tokens = self.prices[position]
        meter.require(flops, tokens, steps=1)
        before = meter.flops, meter.tokens
        loss = work()
        if reward_models == self.run.session.reward_models:  # a reward model's training is charged only once
            self.prices[position] = meter.flops - before[0], meter.tokens - before[1]
        self.loss = float(loss)
        return loss

    def clip(self) -> float:
        """Clip the gradients, just before the optimizer's step. Clears them if the loss or the norm is not finite."""
        self.norm = self.run.clip(self.run.trained)
        self.finite = math.isfinite(self.loss) and math.isfinite(self.norm)
        if self.finite:
            self.run.skipped_in_a_row = 0
            self.optimizer.param_groups[0]["lr"] = self.rate
        else:
            self.optimizer.zero_grad(set_to_none=True)
        return self.norm

    def end_step(self) -> None:
        """Count and log a step."""
        self.run.meter.steps += 1
        if not self.finite:
            self.run.skip_step()
        self.run.log_step(self.loss if self.finite else None, self.rate, self.norm if self.finite else None)
        self.run.snapshot()
        self.bar.show(self.run.session.fraction, self.run.log[-1])


class TokenIds:
    """A tokenizer whose input is token ids instead of text: it only pads."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: list[list[int]], return_tensors: str, padding: bool, padding_side: str, **_: Any) -> Any:
        """The padded batch, as the tokenizer returns it for the text of these ids."""
        return self.tokenizer.pad(
            {"input_ids": text}, padding=padding, padding_side=padding_side, return_tensors=return_tensors
        )


def with_harness(trainer_class: Any, harness: Harness) -> Any:
    """A subclass of the trainer in which the harness provides batches and controls each step."""

    class HarnessTrainer(trainer_class):
        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[Any, ...]:
            return prompts, None, {}  # token ids already

        def get_train_dataloader(self) -> Any:
            return harness.batches(self.data_collator)

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            self.state.global_step = harness.run.meter.steps  # by which its callbacks go, after a resume too
            return harness.step(functools.partial(super().training_step, *args, **kwargs))

        def _clip_grad_norm(self, model: Any) -> float:
            return harness.clip()

        def _maybe_log_save_evaluate(self, *_: Any, **__: Any) -> None:
            harness.end_step()

    return HarnessTrainer
