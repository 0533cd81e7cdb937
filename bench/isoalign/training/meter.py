"""The meter: every method pays here, before the work, out of one budget."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from isoalign.core.records import Budget


class BudgetSpent(Exception):
    """The budget does not cover what was about to begin. Only this ends a run."""


class Meter:
    """Counts what a run spends, by role (policy, reference, value, reward, judge, feedback) and kind (sample, forward,
    backward), and refuses to begin what the budget does not cover."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.items: Counter[tuple[str, str]] = Counter()
        self.labels: dict[str, set[int]] = {}
        self.asked: Counter[str] = Counter()
        self.tokens = 0
        self.steps = 0
        self._seconds = 0.0
        self._since = time.monotonic()
        self._quote: Counter[tuple[str, str]] | None = None
        self.refused: set[str] = set()  # what it did not cover: only this ends a run

    @property
    def flops(self) -> int:
        """FLOPs spent."""
        return sum(self.items.values())

    @property
    def seconds(self) -> float:
        """Wall seconds, those before a resume included."""
        return self._seconds + time.monotonic() - self._since

    @property
    def label_count(self) -> int:
        """Distinct verdicts read, of every kind."""
        return sum(map(len, self.labels.values()))

    @property
    def paid(self) -> tuple[int, ...]:
        """What changes with every payment of any kind, a server's judgement included."""
        return self.flops, self.label_count, self.tokens, self.steps, round(self.asked.total())

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, of the limit nearest to its end."""
        spent: dict[str, float] = {"flops": self.flops, "labels": self.label_count, "tokens": self.tokens}
        spent |= {"steps": self.steps, "seconds": self.seconds}
        limits = {name: getattr(self.budget, name) for name in spent}
        return max((spent[name] / limit for name, limit in limits.items() if limit), default=0.0)

    def charge(self, role: str, kind: str, flops: int, tokens: int = 0) -> None:
        """Pay for work that is about to begin. The clock is not looked at: this may be the middle of a step.

        Raises BudgetSpent, with nothing paid, where the budget does not cover it.
        """
        if self._quote is not None:
            self._quote[role, kind] += flops
            return
        self._cover(flops=flops, tokens=tokens)
        self.items[role, kind] += flops
        self.tokens += tokens

    def require(self, flops: int = 0, tokens: int = 0, labels: int = 0, steps: int = 0) -> None:
        """Raise BudgetSpent unless the budget covers this much more and there is time left."""
        self._cover(flops=flops, tokens=tokens, labels=labels, steps=steps)
        if self.budget.seconds is not None and self.seconds >= self.budget.seconds:
            self._refuse(f"seconds: {self.budget.seconds} are over")

    def _cover(self, **more: int) -> None:
        spent = {"flops": self.flops, "tokens": self.tokens, "labels": self.label_count, "steps": self.steps}
        for name, amount in more.items():
            total, limit = spent[name] + amount, getattr(self.budget, name)
            if limit is not None and total > limit:
                self._refuse(f"{name}: {total:,} needed of {limit:,.0f}")

    def _refuse(self, reason: str) -> NoReturn:
        self.refused.add(reason)
        raise BudgetSpent(reason)

    def label(self, source: str, verdicts: Iterable[int]) -> int:
        """Pay for reading verdicts of one source; each is paid once. Returns how many were new."""
        known = self.labels.setdefault(source, set())
        new = set(verdicts) - known
        self.require(labels=len(new))
        known |= new
        return len(new)

    def ask(self, asked: dict[str, float]) -> None:
        """Note ``passes`` and ``tokens`` of an AI judge. They bound nothing: its FLOPs are charged where they are known, and
        a server's tokens have a limit of their own."""
        self.asked.update(asked)  # type: ignore[arg-type]

    @contextmanager
    def quote(self) -> Iterator[Counter[tuple[str, str]]]:
        """Inside, charges are only added up: the price of something that has not begun."""
        self._quote = Counter()
        try:
            yield self._quote
        finally:
            self._quote = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the clock stands still: making a shared stage must not cost what finding it made does not."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - started

    def add_seconds(self, seconds: float) -> None:
        """Put the time of work that was done elsewhere on the clock."""
        self._seconds += seconds

    @property
    def quoting(self) -> bool:
        """Whether charges are being quoted, not paid."""
        return self._quote is not None

    def spent(self) -> dict[str, Any]:
        """The itemised bill, as it stands on the card."""
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
        """Everything a resumed run needs to go on counting."""
        return {
            "items": [[*key, flops] for key, flops in self.items.items()],
            "labels": {source: sorted(seen) for source, seen in self.labels.items()},
            "tokens": self.tokens,
            "steps": self.steps,
            "seconds": self.seconds,
            "asked": dict(self.asked),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the counts of ``state()``."""
        self.items = Counter({(role, kind): flops for role, kind, flops in state["items"]})
        self.labels = {source: set(seen) for source, seen in state["labels"].items()}
        self.tokens, self.steps, self.asked = state["tokens"], state["steps"], Counter(state["asked"])
        self._seconds, self._since = state["seconds"], time.monotonic()
