"""What SIGINT and SIGTERM do: the step under way is finished and saved, the processes of a sweep end, then this one.

Nothing heavy is imported here: a signal may come while modules load.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from isoalign.core.complaint import complain

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 20.0  # seconds that children have to finish and save a step
AGAIN = 1.0  # seconds after which the same signal means: at once
HELPERS = ("resource_tracker", "wandb-core")  # children that end with this process, and are needed until then
LINE = "stopped; run the same command to resume"


class Stopped(KeyboardInterrupt):
    """The process was asked to end by signal ``number``. ``status``: what it ends with, 130 or 143, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(LINE)
        self.number, self.status = number, 128 + number


class _State:
    asked: int | None = None  # the signal that has come
    at = 0.0
    waits = False  # whether what is under way is to be finished first
    hook: Any = sys.unraisablehook


def install() -> None:
    """Handle the signals in this process, one of a sweep or the one that was typed; in a thread this is not possible."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _handle)
        if sys.unraisablehook is not _raise_later:
            _State.hook, sys.unraisablehook = sys.unraisablehook, _raise_later


def _raise_later(ignored: Any) -> None:
    """Called with what Python ignores, such as what is raised while an object is deleted: ask again, a moment later."""
    if not isinstance(ignored.exc_value, Stopped):
        _State.hook(ignored)
        return
    _State.at = -AGAIN
    again = threading.Timer(0.05, os.kill, (os.getpid(), ignored.exc_value.number))
    again.daemon = True
    again.start()


def over() -> None:
    """Ignore the signals: all is done, and what is raised while the interpreter ends is caught by nobody."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def finishing() -> Iterator[None]:
    """Context whose work is not broken off by a first signal: it looks at `asked`, or ends, and `stop_here` comes later."""
    with _waiting(True):
        yield


@contextmanager
def breakable() -> Iterator[None]:
    """Context within `finishing` whose work may be broken off: it takes long, and what it makes is made again."""
    with _waiting(False):
        yield


@contextmanager
def _waiting(waits: bool) -> Iterator[None]:
    before, _State.waits = _State.waits, waits
    try:
        yield
    finally:
        _State.waits = before


def asked() -> bool:
    """Whether a signal has come."""
    return _State.asked is not None


def signal_asked() -> int:
    """The signal that has come; 0 for none."""
    return _State.asked or 0


def ask(number: int) -> None:
    """Take note of a signal that has come to another process of this run; 0 for none."""
    _State.asked = _State.asked or number or None


def stop_here() -> None:
    """Raises Stopped if a signal has come."""
    if _State.asked is not None:
        raise Stopped(_State.asked)


def _handle(number: int, frame: FrameType | None) -> None:
    first = _State.asked is None
    if first:
        _State.asked, _State.at = number, time.monotonic()
        _end_children()
        if _State.waits:
            return
        if _importing(frame):
            end_now(number)
    elif time.monotonic() - _State.at < AGAIN:
        return  # the same request: a terminal's and a parent's
    raise Stopped(number)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported. Libraries catch what is raised inside their imports and go on half loaded, and
    whatever fails then hides the signal."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def end_now(number: int) -> None:
    """Leave at once, with the line."""
    with suppress(Exception):
        complain(LINE)
        sys.stdout.flush()
    leave(128 + number)


def leave(status: int) -> None:
    """End the process now, whatever it does."""
    os._exit(status)


def _end_children() -> None:
    """Have the processes that this one has started finish their step and end, and end those that do not."""
    import psutil  # here: a signal may come before anything is loaded

    mine = psutil.Process().children(recursive=True)
    workers = [child for child in mine if not any(name in word for word in _words(child) for name in HELPERS)]
    for child in workers:
        with suppress(psutil.Error):
            child.terminate()
    _, left = psutil.wait_procs(workers, timeout=GRACE)
    for child in left:
        with suppress(psutil.Error):
            child.kill()


def _words(process: Any) -> list[str]:
    try:
        return list(process.cmdline())
    except Exception:  # it has ended
        return []
