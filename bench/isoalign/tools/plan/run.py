"""One run, planned: the algorithm's own iterations on a real session, charged by the real meter, until the budget is spent.

Nothing is computed. Iterations that cost what the last one did are not walked through but leapt over: their bill is the mean
of those that were, and verdicts are paid for as the cursors pass them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from isoalign.core.batches import Rollouts, Step, check_columns
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.data.preferences import Feedback
from isoalign.models.language import LanguageModel
from isoalign.tools.plan.models import PlannedCritic, PlannedLab, PlannedModel
from isoalign.tools.plan.source import PlannedSource
from isoalign.training.meter import BudgetSpent, Meter
from isoalign.training.quoting import without_trace
from isoalign.training.session import Session
from isoalign.training.trl.planned import PlannedLoop

LEAST = 4  # iterations of one kind that are walked through before a leap
SCORES = "ai_scores"  # the labels of a judge that is asked in an iteration
ALIKE = 0.3  # relative difference of the FLOPs of two iterations of one kind

Bill = Counter[tuple[str, str]]


class PlannedMeter(Meter):
    """A meter that counts the answers that a judge scores, and does not keep their numbers: there may be millions."""

    def label(self, source: str, verdicts: Iterable[int]) -> int:
        """Charge reading verdicts of one source, each of them once. Returns how many were new."""
        if source != SCORES:
            return super().label(source, verdicts)
        count = len(list(verdicts)) if not isinstance(verdicts, range) else len(verdicts)
        self.require(labels=count)
        self.labels[source] = range(len(self.labels.get(source, ())) + count)  # type: ignore[assignment]
        return count

    def state(self) -> dict[str, Any]:
        """All counts."""
        labels = {source: seen if source == SCORES else set(seen) for source, seen in self.labels.items()}
        return {"items": Counter(self.items), "labels": labels, "tokens": self.tokens, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the counts of ``state()``."""
        self.items, self.labels = state["items"], state["labels"]
        self.tokens, self.steps = state["tokens"], state["steps"]


class PlannedSession(Session):
    """A session that knows what it has charged for verdicts, which are paid for once (``paid``), and the rows of its passes:
    those with gradients since ``trained`` was set to 0, and the most of one without (``read``)."""

    paid: Bill
    trained = read = 0

    def pay_pass(
        self, role: str, model: LanguageModel, rollouts: Rollouts, backward: bool = False, adapter: bool = True
    ) -> None:
        """Charge a pass over completions."""
        super().pay_pass(role, model, rollouts, backward, adapter)
        if backward:
            self.trained += len(rollouts)
        else:
            self.read = max(self.read, len(rollouts))

    def pay_verdicts(self, feedback: Feedback, index: list[int], extra_flops: int = 0, extra_labels: int = 0) -> None:
        """Charge the verdicts that were not read before."""
        before = Counter(self.meter.items)
        super().pay_verdicts(feedback, index, extra_flops, extra_labels)
        self.paid += self.meter.items - before


class PlannedRun:
    """A run of an algorithm. ``lab``: what its code is given; ``kinds``: bills of iterations, each list of one kind, which
    runs of one algorithm share; ``processes``: that share the rows of a step; ``passes``: that a loss makes with
    gradients, for each row of its batch."""

    def __init__(
        self, algorithm: Any, budget: Budget, policy: PlannedModel, reference: PlannedModel, source: PlannedSource,
        kinds: list[list[Bill]] | None = None, processes: int = 1,
    ) -> None:  # fmt: skip
        self.algorithm, self.meter, self.source = algorithm, PlannedMeter(budget), source
        self.kinds, self.processes, self.passes = [] if kinds is None else kinds, processes, 1
        source.round = 0
        self.session = PlannedSession(policy, reference, source, self.meter, source.task.model.new_tokens, 0)
        self.session.paid = Counter()
        self.session.modules["critic"] = PlannedCritic()
        self.session.plan_loop = self._take_loop
        self.session.trainer = self
        self.lab = PlannedLab(self.session)
        self.loop: PlannedLoop | None = None
        self.prices: dict[int, tuple[int, int]] = {}  # of the last step at each position of a cycle of TRL's
        self.micro_batch, self.rows = source.task.training.micro_batch, 0  # rows with gradients in memory at a time
        self.reason = ""

    def run(self) -> None:
        """Spend the budget. Raises UserError if it covers no step, or if the algorithm can't be planned."""
        if hasattr(self.algorithm, "select"):
            self.select()
            return
        if hasattr(self.algorithm, "train"):
            self.algorithm.train(self.lab)
            if self.loop is None:
                raise UserError("its own training loop can't be planned")
        with suppress(BudgetSpent):
            while True:
                if self.source.round_due(self.session.fraction) and self.meter.steps:
                    self.source.begin_round(self.session.policy)
                kind = self._kind_of(self._walked())
                if len(kind) >= LEAST:
                    self._leap(kind)
        self.reason = max(self.meter.refused, key=len, default="")
        if not self.meter.steps:
            raise UserError(f"the budget does not cover a step: {self.reason}")

    def select(self) -> None:
        """Instead of training, select an answer to a prompt. Raises UserError if the budget does not cover it."""
        asked = self.source.encoded(self.source.task.evaluation.split)
        try:
            self.algorithm.select(self.lab, self.lab.generate(asked[:1], self.algorithm.draws))
        except BudgetSpent as spent:
            raise UserError(f"the budget does not cover the best of {self.algorithm.draws} answers: {spent}") from spent

    # -- iterations ---------------------------------------------------------------------------------------------------

    def _iterate(self) -> None:
        """One iteration, as the trainer makes it."""
        if self.loop is not None:
            self.loop.cycle(self._trl_step)
            return
        before = self.meter.flops
        for step in self.algorithm.iteration(self.lab):
            self._step(step)
            self.meter.require(steps=1)
        if self.meter.flops == before:
            raise UserError("an iteration spends none of the budget")

    def _step(self, step: Step) -> None:
        meter = self.meter
        if not meter.steps:
            self.session.begin_steps()
        self.session.trained = 0
        check_columns(step.batch)
        with meter.quote() as price, without_trace(self.session, step.batch):
            step.loss(self.lab, step.batch)
        rows = len(step.batch)
        self.rows = max(self.rows, self.session.trained * min(-(-rows // self.processes), self.micro_batch) // rows)
        self.passes = max(self.passes, self.session.trained // rows)
        meter.require(price.total(), steps=1)
        for (role, kind), flops in price.items():
            meter.charge(role, kind, flops)
        meter.steps += 1

    def _trl_step(self, passes: Callable[[], None]) -> None:
        """A step of TRL's: it begins only if the budget covers the cost of the last one of its kind."""
        assert self.loop is not None
        meter, position = self.meter, self.meter.steps % self.loop.repeats
        reward_models = set(self.session.reward_models)
        meter.require(*self.prices.get(position, (0, 0)), steps=1)
        before = meter.flops, meter.tokens
        passes()
        if reward_models == self.session.reward_models:
            self.prices[position] = meter.flops - before[0], meter.tokens - before[1]
        meter.steps += 1

    def _take_loop(self, loop: PlannedLoop) -> None:
        self.loop = loop

    def _walked(self) -> Bill:
        """The bill of one iteration, with ``steps``, ``tokens`` and how far each cursor moved."""
        before = self._counts()
        self._iterate()
        return _minus(self._counts(), before)

    def _kind_of(self, spent: Bill) -> list[Bill]:
        """The bills of all iterations like this one, which is among them from now on."""
        kind = next((kind for kind in self.kinds if _alike(kind[0], spent)), None)
        if kind is None:
            kind = []
            self.kinds.append(kind)
        kind.append(spent)
        return kind

    def _counts(self) -> Bill:
        counts: Bill = self.meter.items - self.session.paid
        counts["", "steps"], counts["", "tokens"] = self.meter.steps, self.meter.tokens
        for source, read in self.meter.labels.items():
            counts["labels", source] = len(read)
        for name, cursor in self.session.cursors.items():
            counts["cursor", name] = cursor.position
        return counts

    # -- leaps --------------------------------------------------------------------------------------------------------

    def _leap(self, kinds: list[Bill]) -> None:
        """Go on by as many iterations as half of what is left covers; by fewer if the next one is then of another kind."""
        total = sum((flops for (role, _), flops in _works(kinds[-1]).items() if role), 0)
        limits = [self.meter.budget.flops - self.meter.flops]
        if self.source.round + 1 < self.source.task.rounds.count:
            limits.append(self.meter.budget.flops * (self.source.round + 1) / self.source.task.rounds.count - self.meter.flops)
        count = int(min(limits) / max(1, total) / 2)
        while count >= LEAST:
            numbers, paid, round = self.session.numbers(), Counter(self.session.paid), self.source.round
            try:
                self._skip(kinds, count)
                spent = self._walked()
            except BudgetSpent:
                spent = Counter()
            if _alike(kinds[-1], spent):
                kinds.append(spent)
                return
            self.session.restore(numbers)
            self.session.paid, self.source.round = paid, round
            count //= 2

    def _skip(self, kinds: list[Bill], count: int) -> None:
        """Charge ``count`` iterations at the mean of those that were walked through, verdicts by those that are new."""
        session, meter = self.session, self.meter
        for (what, name), moved in kinds[-1].items():
            if what != "cursor":
                continue
            cursor, kind = session.cursors[name], name.partition("@")[0].partition("-")
            ahead = count * moved
            known = min(ahead, 2 * cursor.size) if kind[0] in ("pairs", "labels", "revisions") else 0  # the rest was read
            index = cursor.take(known).tolist()
            cursor.position += ahead - known
            if kind[0] in ("pairs", "labels"):
                session.pay_verdicts(self.source.feedback(kind[2]), [place // (1 + (kind[0] == "labels")) for place in index])
            elif kind[0] == "revisions":
                session.pay_verdicts(self.source.revisions(), index)
        if scores := kinds[-1]["labels", SCORES]:
            meter.label(SCORES, range(count * scores))
        mean = {key: count * sum(bill[key] for bill in kinds) // len(kinds) for key in _works(kinds[-1])}
        meter.steps += mean.pop(("", "steps"), 0)
        tokens = mean.pop(("", "tokens"), 0)
        for (role, work), flops in mean.items():
            meter.charge(role, work, flops, tokens if work == "sample" else 0)
            tokens = 0 if work == "sample" else tokens


def _works(spent: Bill) -> Bill:
    """The part of a bill that is work: FLOPs, steps and tokens."""
    return Counter({key: n for key, n in spent.items() if key[0] not in ("cursor", "labels")})


def _alike(first: Bill, second: Bill) -> bool:
    """Whether two iterations do the same: kinds of work, and about as much of it."""
    first, second = _works(first), _works(second)
    return first.keys() == second.keys() and all(abs(first[key] - second[key]) <= ALIKE * first[key] for key in first)


def _minus(after: Bill, before: Bill) -> Bill:
    return Counter({key: n - before[key] for key, n in after.items() if n != before[key]})
