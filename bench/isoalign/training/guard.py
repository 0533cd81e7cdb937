"""Keeps an algorithm to the lab. While its own code runs, models that the meter does not know are noticed, evaluation data is
forbidden, and inactivity has an end. Inside the lab's services the harness is at work, and nothing is watched.

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
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from isoalign.core import access
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.places import is_harness
from isoalign.core.records import Budget
from isoalign.training.meter import Meter

PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")  # events of Python's own audit
PAYS = "pays_by_itself"  # the attribute of a module whose passes the lab has put on the bill
IMPORT_SECONDS = 120.0  # for an import
AGAIN = 1e-4  # seconds between interruptions of an algorithm that ignores them


class Violation(UserError):
    """An algorithm's code did what none may do. The text says "its code" or "it"."""


class ForbiddenAccess(Violation):
    """An algorithm reached for what it must not see."""


class IdleTimeout(Violation):
    """An algorithm asked for nothing that costs for too long."""


class Interruption(BaseException):
    """Raised in the midst of an algorithm that asks for nothing, until it has left all ``except`` clauses of its own."""


class Guard:
    """Watches one algorithm. ``models``: by class, the parameters of those it ran that are not the lab's.

    ``own``: the modules that the lab made for it. ``forbidden``: folders that it must not read; ``weights`` that only the
    harness may change. ``idle``: seconds that may pass on the meter's clock without a payment; 0 is no limit, and only the
    main thread has one.
    """

    def __init__(
        self,
        meter: Meter,
        own: Callable[[], Iterable[nn.Module]],
        forbidden: Iterable[Path] = (),
        idle: float = 0.0,
        weights: Iterable[Tensor] = (),
    ) -> None:
        self.models: dict[str, int] = {}
        self._meter, self._own, self._idle, self._weights = meter, own, idle, tuple(weights)
        self._forbidden = tuple(os.path.realpath(folder) + os.sep for folder in forbidden)
        self._versions: list[int] = []
        self._violation = ""
        self._hook: Any = None
        self._since, self._paid = 0.0, tuple[int, ...]()
        _install_audit_hook()

    @contextmanager
    def sandboxed(self) -> Iterator[None]:
        """Inside, the algorithm's own code runs. Raises Violation for what no such code may do."""
        before = _activate(self)
        try:
            self._start()
            yield
        except SystemExit as error:
            raise Violation("its code called exit") from error
        except Interruption as error:
            raise IdleTimeout(f"its code asked the lab for nothing that costs for {self._idle:g} seconds") from error
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # GeneratorExit, asyncio's CancelledError: what would end the sweep
            raise Violation(unforeseen(error)) from error
        finally:
            self._stop()
            _activate(before)
        self.raise_if_violated()

    @contextmanager
    def harness_code(self) -> Iterator[None]:
        """Inside, the harness is at work on the algorithm's behalf."""
        before = _activate(None)
        if before is self:
            self._stop()
        try:
            yield
        finally:
            _activate(before)
            if before is self:
                self._start()

    def raise_if_violated(self) -> None:
        """Raise ForbiddenAccess if there was one, even if the algorithm swallowed it or its budget ended in between."""
        if self._violation:
            raise ForbiddenAccess(self._violation)

    def deny(self, what: str) -> None:
        """Refuse to hand something out, and remember that it was asked for."""
        self._violation = f"it tried to read {what}: what algorithms may see comes from the lab"
        raise ForbiddenAccess(self._violation)

    def forbids(self, path: str) -> bool:
        """Whether a file lies where nothing may be read."""
        return os.path.realpath(path).startswith(self._forbidden)

    def _start(self) -> None:
        self._versions = [weight._version for weight in self._weights]
        self._hook = register_module_forward_pre_hook(self._see_pass)
        if (paid := self._meter.paid) != self._paid:
            self._since, self._paid = self._meter.seconds, paid
        if self._timed():
            left = self._since + self._idle - self._meter.seconds
            signal.signal(signal.SIGALRM, _interrupt)
            soon = AGAIN * (time.monotonic_ns() % 1000 + 1) / 1000  # at another place each time, or a short loop is never hit
            signal.setitimer(signal.ITIMER_REAL, max(left, soon), AGAIN)

    def _stop(self) -> None:
        self._hook.remove()
        if self._versions != [weight._version for weight in self._weights]:
            self._violation = "it changed weights of the policy or the reference: only the harness's optimizer steps"
        if self._timed():
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _timed(self) -> bool:
        return self._idle > 0 and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM")

    def _see_pass(self, module: nn.Module, _: Any) -> None:
        """A forward pass outside of the lab's services: free for the lab's own modules and copies of them, which pay by
        themselves."""
        if hasattr(module, PAYS) or any(module is part for own in self._own() for part in own.modules()):
            return
        if count := sum(parameter.numel() for parameter in module.parameters() if not is_lazy(parameter)):
            name = type(module).__name__
            self.models[name] = max(count, self.models.get(name, 0))


@contextmanager
def without_lab(forbidden: Iterable[Path], idle: float = IMPORT_SECONDS) -> Iterator[None]:
    """Inside, an algorithm's code runs where there is no lab: its file is imported, or its settings are checked.

    Raises Violation where it does what it may not do in a lab either."""
    guard = Guard(Meter(Budget(1.0)), tuple, forbidden, idle)
    with guard.sandboxed():
        yield
    if guard.models:
        raise Violation(f"it runs {', '.join(guard.models)} where there is no lab to pay for it")


_active: dict[str, Guard | None] = {"guard": None}


def _activate(guard: Guard | None) -> Guard | None:
    """Make a guard the one that watches; the one before."""
    before, _active["guard"] = _active["guard"], guard
    access.restrict(guard.deny if guard else None)
    return before


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Interrupt the algorithm, but not the harness on the way into its code and out of it. Code that swallows one
    interruption gets the next, which sooner or later comes where no clause of its own catches it."""
    called = ""
    while frame is not None and not is_harness(frame.f_code.co_filename):
        called, frame = frame.f_code.co_filename, frame.f_back
    leaving = frame is not None and frame.f_code.co_filename == __file__
    if called and called != contextlib.__file__ and not leaving:
        raise Interruption


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    guard = _active["guard"]
    if guard is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        if guard.forbids(path := os.fsdecode(arguments[0])):
            guard.deny(path)
    elif event in PROGRAMS:
        guard.deny(f"what another program says ({event}: {arguments[0]!s:.60})")


@functools.cache
def _install_audit_hook() -> None:
    """Look at every file that this process opens, once and for all: Python removes no audit hook."""
    sys.addaudithook(_audit)
