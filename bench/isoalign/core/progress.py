"""Progress bars with an estimate: on a terminal they move, in a log they are a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from weakref import WeakSet

from tqdm import tqdm

from isoalign.core import doing

Item = TypeVar("Item")


LAYOUT = "{desc}{percentage:3.0f}%|{bar:24}| {elapsed}<{remaining}{postfix}"
_run: dict[str, Any] = {"name": "", "line": 0, "hidden": False}
_open: WeakSet[Any] = WeakSet()


@contextmanager
def hidden() -> Iterator[None]:
    """Context in which no bar is shown."""
    before, _run["hidden"] = _run["hidden"], True
    try:
        yield
    finally:
        _run["hidden"] = before


def hide(always: bool) -> None:
    """Show no bar from now on, if so: of several processes of a run one shows them."""
    _run["hidden"] = _run["hidden"] or always


def set_run(name: str, line: int) -> None:
    """Set the name of the run that the bars show and their line on the screen: workers of a sweep share a terminal."""
    _run.update(name=name, line=line)


def _bar(label: str, total: float, initial: float = 0.0) -> Any:
    terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total, initial=initial, desc=": ".join(filter(None, [_run["name"], label])).ljust(36), bar_format=LAYOUT,
        mininterval=0.5 if terminal else 20.0, position=_run["line"] if terminal else None, leave=True, disable=_run["hidden"],
    )  # fmt: skip
    bar.started = time.monotonic()
    _open.add(bar)
    return bar


def _tell(label: str, bar: Any) -> None:
    """Have others see how far a bar is, and when it will be at its end if the rest takes as long as what it has seen."""
    if bar.disable:
        return
    gone, seen = bar.n - bar.initial, time.monotonic() - bar.started
    doing.step(label, bar.n / bar.total if bar.total else 1.0, (bar.total - bar.n) * seen / gone if gone > 0 else None)


def end() -> None:
    """Close every open bar before something else is printed: failed work does not close its own."""
    for bar in list(_open):
        bar.close()
    _open.clear()


def track(items: Collection[Item], label: str, least: int = 0) -> Iterator[Item]:
    """Iterate with a bar; without one over fewer than ``least`` items, which take no time."""
    if len(items) < least:
        yield from items
        return
    with Steps(label, len(items)) as bar:
        for item in items:
            yield item
            bar.advance()


class Steps:
    """A bar of a known number of steps, with the latest loss beside it; a context."""

    def __init__(self, label: str, count: int) -> None:
        self.label, self.count = label, count

    def __enter__(self) -> Self:
        self.bar = _bar(self.label, self.count)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        doing.no_step()

    def advance(self, loss: float | None = None) -> None:
        """One step is done."""
        if loss is not None:
            self.bar.set_postfix({"loss": f"{loss:.3g}"}, refresh=False)
        self.bar.update(1)
        _tell(self.label, self.bar)


class Progress:
    """A bar along the budget.

    It starts at the first call of show(), so that waiting for shared stages is not in the estimate.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: Any = None

    def show(self, fraction: float, row: dict[str, Any]) -> None:
        """Move to a fraction of the budget, with the latest loss and reward beside it."""
        if self.bar is None:
            self.bar = _bar(self.label, 1.0, fraction)
        fields = {name: f"{row[name]:.3g}" for name in ("loss", "reward") if row.get(name) is not None}
        self.bar.set_postfix(fields, refresh=False)
        self.bar.update(min(fraction, 1.0) - self.bar.n)
        _tell(self.label, self.bar)

    def close(self) -> None:
        """The budget is spent."""
        if self.bar is not None:
            self.bar.update(1.0 - self.bar.n)
            self.bar.close()
            doing.no_step()
