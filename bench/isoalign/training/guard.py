"""Keeps an algorithm to the lab. While its own code runs, models that the meter does not know are noticed, evaluation data is
shut, and silence has an end. Inside the lab's services the harness is at work, and nothing is watched.

This is against mistakes and temptation, not against malice: code in the same process can get round any of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from isoalign.core import access
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.places import is_harness
from isoalign.core.records import Budget
from isoalign.training.meter import Meter

Service = TypeVar("Service", bound=Callable[..., Any])

PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")  # events of Python's own audit
PAYS = "pays_by_itself"  # the attribute of a module whose passes the lab has put on the bill
PATIENCE = 120.0  # seconds for an import
AGAIN = 1e-4  # seconds between interruptions of an algorithm that won't be interrupted


class Misdeed(UserError):
    """An algorithm's code did what none may do. The text says "its code" or "it"."""


class Trespass(Misdeed):
    """An algorithm reached for what it must not see."""


class Endless(Misdeed):
    """It asked for nothing for too long."""


class Stuck(BaseException):
    """Raised in the midst of an algorithm that asks for nothing, until it has left all ``except`` clauses of its own."""


class Guard:
    """Watches one algorithm. ``models``: by class, the parameters of those it ran that are not the lab's.

    ``shut``: folders that it must not read; ``weights`` that only the harness may change. ``idle``: seconds that may pass on
    the meter's clock without its paying for anything; 0 is no limit, and only a main thread has one.
    """

    def __init__(
        self, meter: Meter, own: Callable[[], Iterable[nn.Module]], shut: Iterable[Path] = (), idle: float = 0.0,
        weights: Iterable[Tensor] = (),
    ):  # fmt: skip
        self.models: dict[str, int] = {}
        self._meter, self._own, self._idle, self._weights = meter, own, idle, tuple(weights)
        self._shut = tuple(os.path.realpath(folder) + os.sep for folder in shut)
        self._marks: list[int] = []
        self._trespass = ""
        self._hook: Any = None
        self._since = 0.0
        self._paid: tuple[int, ...] = ()
        _install()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the algorithm's own code runs. Raises Misdeed for what no such code may do."""
        before = _exchange(self)
        try:
            self._open()
            yield
        except SystemExit as error:
            raise Misdeed("its code called exit") from error
        except Stuck as error:
            raise Endless(f"its code asked the lab for nothing that costs for {self._idle:g} seconds") from error
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # GeneratorExit, asyncio's CancelledError: what would end the sweep
            raise Misdeed(unforeseen(error)) from error
        finally:
            self._close()
            _exchange(before)
        self.settle()

    def settle(self) -> None:
        """Raise Trespass if it trespassed, even if it hid that from itself, or the end of its budget came in between."""
        if self._trespass:
            raise Trespass(self._trespass)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, the harness is at work on the algorithm's behalf."""
        before = _exchange(None)
        if before is self:
            self._close()
        try:
            yield
        finally:
            _exchange(before)
            if before is self:
                self._open()

    def _open(self) -> None:
        self._marks = [weight._version for weight in self._weights]
        self._hook = register_module_forward_pre_hook(self._seen)
        if (paid := self._meter.paid) != self._paid:
            self._since, self._paid = self._meter.seconds, paid
        if self._timed():
            left = self._since + self._idle - self._meter.seconds
            signal.signal(signal.SIGALRM, _stuck)
            soon = AGAIN * (time.monotonic_ns() % 1000 + 1) / 1000  # at another place each time, or a short loop is never hit
            signal.setitimer(signal.ITIMER_REAL, max(left, soon), AGAIN)

    def _close(self) -> None:
        self._hook.remove()
        if self._marks != [weight._version for weight in self._weights]:
            self._trespass = "it changed weights of the policy or the reference: only the harness's optimizer steps"
        if self._timed():
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _timed(self) -> bool:
        return self._idle > 0 and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM")

    def _seen(self, module: nn.Module, _: Any) -> None:
        """A forward pass outside of the lab's services: free for the lab's own modules, and copies of them, who pay by
        themselves."""
        if not hasattr(module, PAYS) and not any(module is part for own in self._own() for part in own.modules()):
            count = sum(parameter.numel() for parameter in module.parameters() if not is_lazy(parameter))
            if count:
                name = type(module).__name__
                self.models[name] = max(count, self.models.get(name, 0))

    def trespass(self, what: str) -> None:
        """Refuse, and remember it."""
        self._trespass = f"it tried to read {what}: what algorithms may see comes from the lab"
        raise Trespass(self._trespass)

    def shuts(self, path: str) -> bool:
        """Whether a file lies where nothing may be read."""
        return os.path.realpath(path).startswith(self._shut)


@contextmanager
def outside(shut: Iterable[Path], idle: float = PATIENCE) -> Iterator[None]:
    """Inside, an algorithm's code runs where there is no lab: its file is imported, or its settings are checked.

    Raises Misdeed where it does what it may not do in a lab either."""
    guard = Guard(Meter(Budget(1.0)), tuple, shut, idle)
    with guard.watching():
        yield
    if guard.models:
        raise Misdeed(f"it runs {', '.join(guard.models)} where there is no lab to pay for it")


_watch: dict[str, Guard | None] = {"now": None}


def _exchange(guard: Guard | None) -> Guard | None:
    before, _watch["now"] = _watch["now"], guard
    access.restrict(guard.trespass if guard else None)
    return before


def _stuck(_: int, frame: FrameType | None) -> None:
    """Interrupt the algorithm, but not the harness on the way into its code and out of it. Who swallows one interruption is
    sent the next, which sooner or later comes where no clause of its own catches it."""
    called = ""
    while frame is not None and not is_harness(frame.f_code.co_filename):
        called, frame = frame.f_code.co_filename, frame.f_back
    leaving = frame is not None and frame.f_code.co_filename == __file__
    if called and called != contextlib.__file__ and not leaving:
        raise Stuck


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    guard = _watch["now"]
    if guard is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        if guard.shuts(path := os.fsdecode(arguments[0])):
            guard.trespass(path)
    elif event in PROGRAMS:
        guard.trespass(f"what another program says ({event}: {arguments[0]!s:.60})")


@functools.cache
def _install() -> None:
    """Look at every file that this process opens, once and for all: Python lets no audit hook go."""
    sys.addaudithook(_audit)


def service(method: Service) -> Service:
    """A method of the lab, in which the harness works and not the algorithm."""

    @functools.wraps(method)
    def inside(lab: Any, *arguments: Any, **named: Any) -> Any:
        if lab._guard is None:
            return method(lab, *arguments, **named)
        with lab._guard.aside():
            return method(lab, *arguments, **named)

    return inside  # type: ignore[return-value]
