"""A training run: what it works with, what it has paid for and how far it has come.

The trainer owns a session. A `Lab` is the view of it that an algorithm sees.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.data.preferences import Cursor, Feedback
from isoalign.models.language import LanguageModel, Outputs, completion_lengths, prompt_lengths
from isoalign.training.feedback_source import FeedbackSource
from isoalign.training.guard import Guard
from isoalign.training.meter import Meter

P = ParamSpec("P")
T = TypeVar("T")


class Session:
    """Models, feedback, meter and state of one training run.

    ``source``: where prompts and feedback come from. ``new_tokens``: the most tokens of an answer. ``generator``, of all
    chance, is on the CPU. ``state``: what an algorithm keeps between iterations. ``modules``: its own modules by name.
    ``reward_models``: those whose training is paid. ``started_at``: share of the budget spent at the first optimizer step.
    ``logged``: scalars of the current step. ``adopt_module`` and ``trainer`` are set by the trainer, ``guard`` by whoever
    runs an algorithm's code.
    """

    def __init__(
        self,
        policy: LanguageModel,
        reference: LanguageModel,
        source: FeedbackSource,
        meter: Meter,
        new_tokens: int,
        seed: int,
    ) -> None:
        self.policy, self.reference, self.source, self.meter = policy, reference, source, meter
        self.new_tokens, self.seed = new_tokens, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.state: dict[str, Any] = {}
        self.cursors: dict[str, Cursor] = {}
        self.modules: dict[str, nn.Module] = {}
        self.reward_models: set[str] = set()
        self.started_at = 0.0
        self.logged: dict[str, list[float]] = {}
        self.guard: Guard | None = None
        self.adopt_module: Callable[[str, nn.Module], None] = lambda name, module: None
        self.trainer: Any = None

    @property
    def device(self) -> torch.device:
        """Where models and rows are."""
        return self.policy.device

    @property
    def pad(self) -> int:
        """The padding token."""
        return int(self.policy.tokenizer.pad_token_id)

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, from 0 at the first optimizer step to 1."""
        return min(1.0, max(0.0, (self.meter.fraction - self.started_at) / max(1e-12, 1 - self.started_at)))

    def sandboxed(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What an algorithm's own code returns, watched where there is a guard."""
        with self.guard.sandboxed() if self.guard else nullcontext():
            return work(*arguments, **named)

    # -- feedback -------------------------------------------------------------------------------------------------

    def fetch(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What the feedback source gives, off the clock: making a shared stage must not cost what finding it made does not."""
        with self.meter.paused():
            return work(*arguments, **named)

    def gathering(self, count: int = 1, what: str = "") -> None:
        """Data and feedback are gathered before a step: what a loss read would be paid at its quote, not when it is used.

        Raises UserError within a loss, and for a ``count`` below 1 of ``what``.
        """
        if self.meter.quoting:
            raise UserError("a loss can't sample or read data or feedback: gather in iteration() and yield it in the batch")
        if count < 1:
            raise UserError(f"asked for {count} {what}; the least is 1, so check the algorithm's batch size")

    def require_pairs(self, wanted: str) -> None:
        """Raises UserError where people's feedback is unpaired: ``wanted`` would be the simulated annotator's instead."""
        if (unpaired := self.fetch(self.source.unpaired)) is not None:
            raise UserError(
                f"task.feedback.file {unpaired.file} holds unpaired feedback; {wanted} must come from comparisons. "
                "KTO learns from unpaired feedback"
            )

    def cursor(self, name: str, size: int) -> Cursor:
        """The walk over some data, begun at its first use."""
        return self.cursors.setdefault(name, Cursor(size, self.seed))

    def in_round(self, name: str) -> str:
        """A name of this feedback round's own: each round walks over, and pays for, more than the one before."""
        return f"{name}@{self.source.round}" if self.source.round else name

    # -- the bill -------------------------------------------------------------------------------------------------

    def pay_pass(
        self, role: str, model: LanguageModel, rollouts: Rollouts, backward: bool = False, adapter: bool = True
    ) -> None:
        """Pay for a forward pass over completions, and for its backward pass."""
        lengths, completions = row_lengths(rollouts)
        self.meter.charge(role, "forward", model.shape.forward(lengths, completions, adapter))
        if backward:
            self.meter.charge(role, "backward", model.shape.backward(lengths, completions))

    def pay_verdicts(self, feedback: Feedback, index: list[int], flops_beside: int = 0, labels_beside: int = 0) -> None:
        """Pay for the verdicts that were not read before, if the budget covers them and what is to be paid beside them."""
        meter = self.meter
        paid = meter.labels.get(feedback.source, set())
        new = [number for number in sorted(set(index)) if not paid.issuperset(feedback.labels_of([number]))]
        price, labels = feedback.price(new), feedback.labels_of(new)
        calibration = range(feedback.calibration if index else 0)
        labels_beside += len(set(calibration) - meter.labels.get("calibration", set()))
        meter.require(sum(price.values()) + flops_beside, labels=len(labels) + labels_beside)
        meter.label(feedback.source, labels)
        if calibration:
            meter.label("calibration", calibration)
        meter.ask(feedback.asked(new))
        for role, flops in price.items():
            meter.charge(role, "sample" if role in ("feedback", "critic") else "forward", flops)

    def blank(self, rollouts: Rollouts) -> Outputs:
        """Zeros of the shapes that a pass would give, for quoting the price of a loss: views of one number."""
        shape = rollouts.completion.shape
        zero: Tensor = torch.zeros((), device=self.device, requires_grad=torch.is_grad_enabled())
        return Outputs(
            zero.expand(shape),
            zero.expand(*shape, self.policy.width),
            zero.expand(*shape, self.policy.vocabulary),
        )

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def numbers(self) -> dict[str, Any]:
        """All of the session that is no tensor and that a resumed run needs, as JSON holds it."""
        return {
            "meter": self.meter.state(),
            "cursors": {name: [c.size, c.seed, c.position] for name, c in self.cursors.items()},
            "state": self.state,
            "reward_models": sorted(self.reward_models),
            "started_at": self.started_at,
        }

    def restore(self, numbers: dict[str, Any]) -> None:
        """Take up what `numbers` gave."""
        self.meter.restore(numbers["meter"])
        self.cursors = {name: Cursor(*each) for name, each in numbers["cursors"].items()}
        self.state, self.reward_models = numbers["state"], set(numbers["reward_models"])
        self.started_at = numbers["started_at"]


def row_lengths(rollouts: Rollouts) -> tuple[list[int], list[int]]:
    """Tokens that a pass over each row reads, and positions at which a head is applied; the last token is only predicted."""
    completions = completion_lengths(rollouts)
    return [p + t - 1 for p, t in zip(prompt_lengths(rollouts), completions, strict=True)], completions
