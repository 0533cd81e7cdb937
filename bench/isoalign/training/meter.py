"""The meter: it charges every method for its work, before the work begins, against one budget."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from isoalign.core import world
from isoalign.core.records import Budget


class BudgetSpent(Exception):
    """The budget does not cover the work that was about to begin. Nothing else ends a run."""


class Meter:
    """Counts what a run spends, by role (policy, reference, value, reward, judge, critic, feedback, and the names of a
    method's own modules) and kind (sample, forward, backward), and refuses to begin what the budget does not cover."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.items: Counter[tuple[str, str]] = Counter()
        self.labels: dict[str, set[int]] = {}
        self.asked: Counter[str] = Counter()
        self.tokens = 0
        self.steps = 0
        self._seconds = 0.0
        self._since = time.monotonic()
        self._agreed = 0.0
        self._quote: Counter[tuple[str, str]] | None = None
        self._is_paused = False
        self._trusting = False
        self.refused: set[str] = set()  # reasons of every BudgetSpent

    @property
    def flops(self) -> int:
        """FLOPs spent."""
        return sum(self.items.values())

    @property
    def seconds(self) -> float:
        """Wall seconds, those before a resume included."""
        return self._seconds + time.monotonic() - self._since

    @property
    def _judged_seconds(self) -> float:
        """Seconds by which the budget is judged: of several processes, those that the first one had last, or they would part
        ways."""
        return self.seconds if world.size() == 1 else self._agreed

    @property
    def label_count(self) -> int:
        """Distinct verdicts read, of all sources."""
        return sum(map(len, self.labels.values()))

    @property
    def paid(self) -> tuple[int, ...]:
        """Totals, at least one of which changes with every payment, a server's verdicts included."""
        return self.flops, self.label_count, self.tokens, self.steps, round(self.asked.total())

    @property
    def fraction(self) -> float:
        """Spent fraction of the budget, by the limit that is closest to exhausted."""
        return max(self.fractions.values(), default=0.0)

    @property
    def fractions(self) -> dict[str, float]:
        """Spent fraction of each limit."""
        spent: dict[str, float] = {"flops": self.flops, "labels": self.label_count, "tokens": self.tokens}
        spent |= {"steps": self.steps, "seconds": self._judged_seconds}
        limits = {name: getattr(self.budget, name) for name in spent}
        return {name: spent[name] / limit for name, limit in limits.items() if limit}

    def charge(self, role: str, kind: str, flops: int, tokens: int = 0) -> None:
        """Charge work that is about to begin. Does not check the time, as a step may be under way.

        Raises BudgetSpent, and charges nothing, if the budget does not cover it.
        """
        if self._is_paused:
            return
        if self._quote is not None:
            self._quote[role, kind] += flops
            return
        if not self._trusting:
            self._cover(flops=flops, tokens=tokens)
        self.items[role, kind] += flops
        self.tokens += tokens

    def require(self, flops: int = 0, tokens: int = 0, labels: int = 0, steps: int = 0) -> None:
        """Raise BudgetSpent unless the budget covers these amounts and time is left."""
        self._cover(flops=flops, tokens=tokens, labels=labels, steps=steps)
        if self.budget.seconds is None:
            return
        self._agreed = world.of_first(lambda: self.seconds)
        if self._judged_seconds >= self.budget.seconds:
            self._refuse(f"seconds: the {self.budget.seconds:g} of the budget are over")

    def _cover(self, **more: int) -> None:
        if self._is_paused:
            return
        spent = {"flops": self.flops, "tokens": self.tokens, "labels": self.label_count, "steps": self.steps}
        for name, amount in more.items():
            total, limit = spent[name] + amount, getattr(self.budget, name)
            if limit is not None and total > limit:
                self._refuse(f"{name}: {total:,} needed of {limit:,.0f}")

    def _refuse(self, reason: str) -> NoReturn:
        self.refused.add(reason)
        raise BudgetSpent(reason)

    def label(self, source: str, verdicts: Iterable[int]) -> int:
        """Charge reading verdicts of one source, each of them once. Returns how many were new, none while it is paused."""
        if self._is_paused:
            return 0
        known = self.labels.setdefault(source, set())
        new = set(verdicts) - known
        self.require(labels=len(new))
        known |= new
        return len(new)

    def ask(self, asked: dict[str, float]) -> None:
        """Count ``passes`` and ``tokens`` of an AI judge. The budget does not limit them: FLOPs are charged where they are
        known, and a server's tokens have a separate limit."""
        if self._is_paused:
            return
        self.asked.update(asked)  # type: ignore[arg-type]

    @contextmanager
    def quote(self) -> Iterator[Counter[tuple[str, str]]]:
        """Context in which charges are only summed, for the cost of work that has not begun."""
        self._quote = Counter()
        try:
            yield self._quote
        finally:
            self._quote = None

    @contextmanager
    def share(self) -> Iterator[Counter[tuple[str, str]]]:
        """Context in which one of several processes counts its share of common work, which all of them `settle` afterwards.
        The share is known at its end, and taken off again."""
        before, mine = Counter(self.items), Counter[tuple[str, str]]()
        self._trusting = True
        try:
            yield mine
        finally:
            mine.update({key: flops - before[key] for key, flops in self.items.items() if (key, flops) not in before.items()})
            self.items, self._trusting = before, False

    def settle(self, shares: Iterable[Counter[tuple[str, str]]]) -> None:
        """Charge the shares of all processes. Raises BudgetSpent if they are not covered."""
        total = Counter[tuple[str, str]]()
        for share in shares:
            total.update(share)
        for (role, kind), flops in total.items():
            self.charge(role, kind, flops)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context in which the clock stops, and passes cost nothing, in another training loop as in ours: a bill must not
        depend on whether a shared stage, or the answers of a round, are there already."""
        started, outer = time.monotonic(), self._is_paused
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = outer
            if not outer:
                self._since += time.monotonic() - started

    def add_seconds(self, seconds: float) -> None:
        """Add the time of work that was done elsewhere."""
        self._seconds += seconds

    @property
    def quoting(self) -> bool:
        """Whether charges are only summed, as within ``quote()``."""
        return self._quote is not None

    def spent(self) -> dict[str, Any]:
        """The itemised bill, in the form of the card."""
        rows = sorted(self.items.items())
        return {
            "flops": self.flops,
            "labels": {source: len(seen) for source, seen in sorted(self.labels.items())},
            "tokens": self.tokens,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "items": [{"role": role, "kind": kind, "flops": flops} for (role, kind), flops in rows],
        } | ({"judge": {name: round(count) for name, count in sorted(self.asked.items())}} if self.asked else {})

    def state(self) -> dict[str, Any]:
        """All counts, for a checkpoint."""
        return {
            "items": [[*key, flops] for key, flops in self.items.items()],
            "labels": {source: sorted(seen) for source, seen in self.labels.items()},
            "tokens": self.tokens,
            "steps": self.steps,
            "seconds": self.seconds,
            "asked": dict(self.asked),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the counts of ``state()``."""
        self.items = Counter({(role, kind): flops for role, kind, flops in state["items"]})
        self.labels = {source: set(seen) for source, seen in state["labels"].items()}
        self.tokens, self.steps, self.asked = state["tokens"], state["steps"], Counter(state["asked"])
        self._seconds, self._since = state["seconds"], time.monotonic()
        self._agreed = self._seconds
