"""The state of a training run: its models, data and meter, what has been charged, and its progress.

The trainer owns the session; a `Lab` is the algorithm's view of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from isoalign.config import known
from isoalign.core import stopping
from isoalign.core.batches import Prompts, Rollouts, completion_lengths, prompt_lengths
from isoalign.core.errors import UserError
from isoalign.data.preferences import Cursor, Feedback
from isoalign.models.language import LanguageModel
from isoalign.models.passes import Outputs, zero_outputs
from isoalign.models.samplers.engine import EngineSampler
from isoalign.training.anchor import Anchor
from isoalign.training.feedback_source import FeedbackSource
from isoalign.training.guard import Guard
from isoalign.training.joint_pass import JointPass
from isoalign.training.meter import Meter
from isoalign.training.passes import Passes
from isoalign.training.reference_memory import ReferenceMemory

P = ParamSpec("P")
T = TypeVar("T")


class Session(Passes):
    """Models, feedback, meter and state of one training run.

    ``source``: where prompts and feedback come from. ``new_tokens``: the maximum number of tokens of a completion.
    ``anchor``: a copy of the policy, for methods that take one. ``joint``: what a step's loss reads at once.
    ``generator``: the source of all randomness, on the CPU.
    ``state``: what an algorithm keeps between iterations. ``modules``: the algorithm's modules by name; ``first_module``: that
    of the one that was made first. ``reward_models``: those whose training is charged. ``verdicts``: how many there are of the
    sources that were read. ``started``: spent share of each limit at the first optimizer step. ``logged``: scalars of the
    current step, each with its weight. ``loss_share``: within a loss, the share of the batch that its rows are; 0 elsewhere.
    ``engine``: what samples from the policy, if not its own decoding. ``plan_loop``: in a plan, what takes the calls of
    `trl.train`. The trainer sets ``adopt_module`` and ``trainer``; the caller of an algorithm's code ``guard``.
    """

    def __init__(
        self, policy: LanguageModel, reference: LanguageModel, source: FeedbackSource, meter: Meter, new_tokens: int, seed: int
    ) -> None:
        self.policy, self.reference, self.source, self.meter = policy, reference, source, meter
        self.remembered, self.anchor, self.joint = ReferenceMemory(reference), Anchor(policy), JointPass()
        self.new_tokens, self.seed = new_tokens, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.state: dict[str, Any] = {}
        self.cursors: dict[str, Cursor] = {}
        self.modules: dict[str, nn.Module] = {}
        self.first_module = ""
        self.reward_models: set[str] = set()
        self.verdicts: dict[str, int] = {}
        self.started: dict[str, float] = {}
        self.logged: dict[str, list[tuple[float, float]]] = {}
        self.reward_ends: set[float] = set()
        self.loss_share = 0.0
        self._held: float | None = None
        self.guard: Guard | None = None
        self.adopt_module: Callable[[str, nn.Module], None] = lambda name, module: None
        self.trainer: Any = None
        self.plan_loop: Callable[[Any], None] | None = None
        self.engine: EngineSampler | None = None

    def take_logged(self) -> dict[str, float]:
        """The scalars logged since the last step, each a mean by weight, and whether all rewards since then were one."""
        row = {name: sum(x * by for x, by in each) / sum(by for _, by in each) for name, each in self.logged.items()}
        row |= {"equal_rewards": 1.0} if len(self.reward_ends) == 1 else {}
        self.logged.clear()
        self.reward_ends.clear()
        return row

    def begin_steps(self) -> None:
        """The first optimizer step begins: what is spent now was the start-up cost."""
        self.started = self.meter.fractions

    @property
    def started_at(self) -> float:
        """Spent fraction of the budget at the first optimizer step, by the limits that were not used up by then."""
        return max((share for share in self.started.values() if share < 1), default=0.0)

    @property
    def fraction(self) -> float:
        """Spent fraction of the budget, by the limit closest to exhausted of those that were not used up by the first step."""
        return max((share for share, _ in self._left().values()), default=self.meter.fraction)

    @property
    def progress(self) -> float:
        """Spent fraction of what was left of the budget at the first optimizer step, from 0 to 1, by the same limits."""
        if self._held is not None:
            return self._held
        return min(1.0, max(((now - start) / (1 - start) for now, start in self._left().values()), default=0.0))

    @contextmanager
    def held_progress(self) -> Iterator[None]:
        """Context of a step, in which `progress` stays what it was, in whatever parts the step's rows are read and paid."""
        self._held = self.progress
        try:
            yield
        finally:
            self._held = None

    def _left(self) -> dict[str, tuple[float, float]]:
        """Spent fraction, now and at the first step, of each limit of which something was left by then."""
        pairs = {name: (share, self.started.get(name, 0.0)) for name, share in self.meter.fractions.items()}
        return {name: each for name, each in pairs.items() if each[1] < 1 and (name != "labels" or self._labels_end_it())}

    def _labels_end_it(self) -> bool:
        """Whether the limit of labels can end the run: not where all verdicts that there are lie within it, as reading one
        again costs nothing."""
        there = sum(self.verdicts.get(source, math.inf) for source in self.meter.labels)
        return there > (self.meter.budget.labels or 0) or self.source.round_due(1.0)

    def sandboxed(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run an algorithm's own code, under the guard if there is one, and return its result."""
        with self.guard.sandboxed() if self.guard else nullcontext():
            return work(*arguments, **named)

    def harness_code(self) -> AbstractContextManager[None]:
        """Context in which the harness works on the algorithm's behalf, unwatched by the guard."""
        return self.guard.harness_code() if self.guard else nullcontext()

    # -- feedback -------------------------------------------------------------------------------------------------

    def fetch(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call the feedback source with the clock stopped: time must not depend on whether a shared stage already exists."""
        with self.meter.paused(), stopping.breakable():
            return work(*arguments, **named)

    def check_read(self, count: int = 1, what: str = "") -> None:
        """Raises UserError within a loss, and for a ``count`` of ``what`` below 1.

        A loss is called twice, first to quote its cost: what it read would be charged at the wrong time.
        """
        if self.meter.quoting:
            raise UserError("a loss cannot sample or read data or feedback: do so in iteration() and yield it in the batch")
        if count < 1:
            raise UserError(f"{count} {what} requested, but at least 1 is needed; check the algorithm's batch size")

    def require_pairs(self, wanted: str) -> None:
        """Raises UserError if human feedback is unpaired: ``wanted`` would come from the simulated annotator instead."""
        if (unpaired := self.fetch(self.source.unpaired)) is not None:
            raise UserError(known.unpaired(unpaired.file, wanted))

    def cursor(self, name: str, size: int) -> Cursor:
        """The cursor over some data, created at its first use."""
        return self.cursors.setdefault(name, Cursor(size, self.seed))

    def round_name(self, name: str) -> str:
        """The name within the current feedback round: each round has its own data and charges."""
        return f"{name}@{self.source.round}" if self.source.round else name

    # -- the bill -------------------------------------------------------------------------------------------------

    def pay_pass(
        self, role: str, model: LanguageModel, rollouts: Rollouts, backward: bool = False, adapter: bool = True
    ) -> None:
        """Charge a forward pass over completions and, if asked, its backward pass."""
        lengths, completions = row_lengths(rollouts)
        self.meter.charge(role, "forward", model.shape.forward(lengths, completions, adapter))
        if backward:
            self.meter.charge(role, "backward", model.shape.backward(lengths, completions))

    def sampling_price(self, role: str, prompts: Prompts, draws: int, used: list[int] | None = None) -> int:
        """FLOPs of ``draws`` completions of each prompt by the model of a role: of ``used`` tokens each, or of the most."""
        lengths, own, shape = prompts.mask.sum(1).tolist(), role != "reference", self.model(role).shape
        contexts = [length for length in lengths for _ in range(draws)]
        return shape.prefill(lengths, own) + shape.decode(contexts, used or [self.new_tokens] * len(contexts), own)

    def pay_verdicts(self, feedback: Feedback, index: list[int], extra_flops: int = 0, extra_labels: int = 0) -> None:
        """Charge the verdicts that were not read before, if the budget covers them and the extra FLOPs and labels."""
        meter = self.meter
        paid = meter.labels.get(feedback.source, set())
        new = [number for number in sorted(set(index)) if not paid.issuperset(feedback.labels_of([number]))]
        price, labels = feedback.price(new), feedback.labels_of(new)
        calibration = range(feedback.calibration if index else 0)
        extra_labels += len(set(calibration) - meter.labels.get("calibration", set()))
        meter.require(sum(price.values()) + extra_flops, labels=len(labels) + extra_labels)
        meter.label(feedback.source, labels)
        self.verdicts[feedback.source] = feedback.label_count
        if calibration:
            self.verdicts["calibration"] = feedback.calibration
            meter.label("calibration", calibration)
        meter.ask(feedback.asked(new))
        for role, flops in price.items():
            meter.charge(role, "sample" if role in ("feedback", "critic") else "forward", flops)

    def zero_outputs(self, rollouts: Rollouts, role: str = "policy") -> Outputs:
        """Zeros in the shapes of the outputs of a pass, for quoting the cost of a loss."""
        model = self.model(role)
        return zero_outputs(rollouts, model.width, model.vocabulary, self.device)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def numbers(self) -> dict[str, Any]:
        """The part of the session for a checkpoint that JSON can hold: everything but tensors."""
        return {
            "meter": self.meter.state(),
            "cursors": {name: [c.size, c.seed, c.position] for name, c in self.cursors.items()},
            "state": self.state,
            "reward_models": sorted(self.reward_models),
            "started": self.started,
            "verdicts": self.verdicts,
            "first_module": self.first_module,
            "logged": self.logged,
            "reward_ends": sorted(self.reward_ends),
        } | ({"sampler_gaps": self.engine.gaps} if self.engine else {})

    def restore(self, numbers: dict[str, Any]) -> None:
        """Restore what `numbers` returned."""
        self.meter.restore(numbers["meter"])
        self.cursors = {name: Cursor(*each) for name, each in numbers["cursors"].items()}
        self.state, self.reward_models = numbers["state"], set(numbers["reward_models"])
        self.started, self.verdicts = numbers["started"], numbers.get("verdicts", {})
        self.logged = {name: [(x, by) for x, by in each] for name, each in numbers.get("logged", {}).items()}
        self.reward_ends, self.first_module = set(numbers.get("reward_ends", [])), numbers.get("first_module", "")
        if self.engine:
            self.engine.gaps = numbers["sampler_gaps"]


def row_lengths(rollouts: Rollouts) -> tuple[list[int], list[int]]:
    """Tokens that a pass reads per row, and positions where the head is applied. The last token is predicted, not read."""
    completions = completion_lengths(rollouts)
    return [p + t - 1 for p, t in zip(prompt_lengths(rollouts), completions, strict=True)], completions
