"""Keeps an algorithm to the lab. While the algorithm's own code runs, the guard records models that the meter does not count,
forbids evaluation data and ends idle code. Within the lab's services harness code runs, which is not watched.

This prevents mistakes and shortcuts, not attacks: code in the same process can circumvent all of it.
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
from isoalign.core.places import PACKAGE, is_harness
from isoalign.core.records import Budget
from isoalign.training.meter import Meter

SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/Library", "/System")
PROGRAM_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")  # of Python's audit hooks
PASSED_OVER = tuple({os.path.realpath(folder) + os.sep for folder in (sys.prefix, sys.base_prefix, PACKAGE, *SYSTEM)})
CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib")
METERED = "metered_by_lab"  # attribute of a module whose passes the lab charges
IMPORT_SECONDS = 120.0  # idle timeout of an import
INTERRUPT_SECONDS = 1e-4  # between interruptions of an algorithm that ignores them


class Violation(UserError):
    """An algorithm's code broke a rule. The text calls it "its code" or "it"."""


class ForbiddenAccess(Violation):
    """An algorithm tried to read what it must not see."""


class IdleTimeout(Violation):
    """An algorithm made no paid call for too long."""


class Interruption(BaseException):
    """Raised within an idle algorithm, repeatedly, until it has left all of its ``except`` clauses."""


class Guard:
    """Watches one algorithm. ``models``: the models that it ran and that are not the lab's, parameter counts by class name;
    ``files``: the names of the data files that it read.

    ``lab_modules``: the modules that the lab made for it. ``forbidden``: folders that it must not read. ``weights``: tensors
    that only the harness may change. ``idle``: seconds on the meter's clock that may pass without a payment; 0 means no limit.
    The limit holds in the main thread only.
    """

    def __init__(
        self,
        meter: Meter,
        lab_modules: Callable[[], Iterable[nn.Module]],
        forbidden: Iterable[Path] = (),
        idle: float = 0.0,
        weights: Iterable[Tensor] = (),
    ) -> None:
        self.models: dict[str, int] = {}
        self.files: set[str] = set()
        self._meter, self._lab_modules, self._idle, self._weights = meter, lab_modules, idle, tuple(weights)
        self._forbidden = tuple(os.path.realpath(folder) + os.sep for folder in forbidden)
        self._versions: list[int] = []
        self._violation = ""
        self._hook: Any = None
        self._since, self._paid = 0.0, tuple[int, ...]()
        _install_audit_hook()

    @contextmanager
    def sandboxed(self) -> Iterator[None]:
        """Context in which the algorithm's own code runs. Raises Violation if it breaks a rule."""
        before = _activate(self)
        try:
            self._start()
            yield
        except SystemExit as error:
            raise Violation("its code called exit") from error
        except Interruption as error:
            raise IdleTimeout(f"its code made no paid call to the lab for {self._idle:g} seconds") from error
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # GeneratorExit, asyncio.CancelledError: they would end the sweep
            raise Violation(unforeseen(error)) from error
        finally:
            self._stop()
            _activate(before)
        self.raise_if_violated()

    @contextmanager
    def harness_code(self) -> Iterator[None]:
        """Context in which the harness works on the algorithm's behalf, unwatched."""
        before = _activate(None)
        if before is self:
            self._stop()
        try:
            yield
        finally:
            _activate(before)
            if before is self:
                self._start()

    def record(self, files: Iterable[str] = ()) -> dict[str, Any]:
        """What it saw, for the card. ``files``: those that were read before there was a lab."""
        return {"unmetered": self.models, "files": sorted(self.files.union(files))}

    def raise_if_violated(self) -> None:
        """Raise ForbiddenAccess if one occurred, even if the algorithm caught it or its budget ended in between."""
        if self._violation:
            raise ForbiddenAccess(self._violation)

    def deny(self, what: str) -> None:
        """Refuse access and record the attempt."""
        self._violation = f"it tried to read {what}: algorithms may use only what the lab provides"
        raise ForbiddenAccess(self._violation)

    def forbids(self, path: str) -> bool:
        """Whether a file lies in a forbidden folder."""
        return os.path.realpath(path).startswith(self._forbidden)

    def _start(self) -> None:
        self._versions = [weight._version for weight in self._weights]
        self._hook = register_module_forward_pre_hook(self._record_pass)
        if (paid := self._meter.paid) != self._paid:
            self._since, self._paid = self._meter.seconds, paid
        if self._timed():
            left = self._since + self._idle - self._meter.seconds
            signal.signal(signal.SIGALRM, _interrupt)
            # at a random point within the interval, or a short loop is never hit
            delay = INTERRUPT_SECONDS * (time.monotonic_ns() % 1000 + 1) / 1000
            signal.setitimer(signal.ITIMER_REAL, max(left, delay), INTERRUPT_SECONDS)

    def _stop(self) -> None:
        self._hook.remove()
        if self._versions != [weight._version for weight in self._weights]:
            self._violation = "it changed weights of the policy or the reference: only the harness's optimizer may do so"
        if self._timed():
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _timed(self) -> bool:
        return self._idle > 0 and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM")

    def _record_pass(self, module: nn.Module, _: Any) -> None:
        """Record a forward pass outside of the lab's services, unless it is of a lab module or a copy of one: hooks charge
        those."""
        if hasattr(module, METERED) or any(module is part for own in self._lab_modules() for part in own.modules()):
            return
        if count := sum(parameter.numel() for parameter in module.parameters() if not is_lazy(parameter)):
            name = type(module).__name__
            self.models[name] = max(count, self.models.get(name, 0))


@contextmanager
def without_lab(forbidden: Iterable[Path], idle: float = IMPORT_SECONDS) -> Iterator[Guard]:
    """Context in which an algorithm's code runs before there is a lab: its file is imported, or its settings are checked.

    Raises Violation if it breaks a rule.
    """
    guard = Guard(Meter(Budget(1.0)), tuple, forbidden, idle)
    with guard.sandboxed():
        yield guard
    if guard.models:
        raise Violation(f"it runs {', '.join(guard.models)} outside a training run, where no meter counts it")


_active: dict[str, Guard | None] = {"guard": None}


def _activate(guard: Guard | None) -> Guard | None:
    """Make a guard the active one, and return the one before it."""
    before, _active["guard"] = _active["guard"], guard
    access.restrict(guard.deny if guard else None)
    return before


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Interrupt the algorithm, but not the harness while it enters or leaves the algorithm's code. Code that catches one
    interruption gets another, until one falls where nothing catches it."""
    called = ""
    while frame is not None and not is_harness(frame.f_code.co_filename):
        called, frame = frame.f_code.co_filename, frame.f_back
    leaving = frame is not None and frame.f_code.co_filename == __file__
    if called and called != contextlib.__file__ and not leaving:
        raise Interruption


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    guard = _active["guard"]
    if guard is None or access.is_exempt(threading.get_ident()):
        return
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        if guard.forbids(path := os.fsdecode(arguments[0])):
            guard.deny(path)
        own = threading.current_thread() is threading.main_thread()  # the others are of libraries, as of trackers
        if own and reads_data(path, arguments[2]):
            guard.files.add(os.path.basename(path))
    elif event in PROGRAM_EVENTS:
        guard.deny(f"the output of another program ({event}: {arguments[0]!s:.60})")


def reads_data(path: str, flags: int) -> bool:
    """Whether an opened file is read, was there before, and is neither code nor of an installed library, the system or a
    hidden folder, as caches are."""
    if flags & (os.O_CREAT | os.O_WRONLY) or path.endswith(CODE):
        return False
    real = os.path.realpath(path)
    hidden = any(part.startswith(".") or part.endswith((".dist-info", ".egg-info")) for part in real.split(os.sep))
    return not hidden and not real.startswith(PASSED_OVER)


@functools.cache
def _install_audit_hook() -> None:
    """Watch every file that this process opens. Installed once, as Python cannot remove an audit hook."""
    sys.addaudithook(_audit)
