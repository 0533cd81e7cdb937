"""Limits on requests to a server: a stop signal, a rate limiter and a token budget."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

Sleep = Callable[[float], Any]
Clock = Callable[[], float]


class Stop(Exception):
    """No more requests can be sent; the message says why and what to do."""


class StopSignal:
    """Stops all threads of a judge with the first message."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._message = ""

    def stop(self, message: str) -> NoReturn:
        """Stop all threads; raises Stop in this one."""
        with self._lock:
            self._message = self._message or message
        self.stopped.set()
        raise Stop(self._message)

    def raise_if_stopped(self) -> None:
        """Raise Stop if a thread has set the signal."""
        if self.stopped.is_set():
            raise Stop(self._message)

    def release(self) -> None:
        """Reset for the next questions."""
        self._message = ""
        self.stopped.clear()


class RateLimiter:
    """At most ``per_minute`` requests per minute, evenly spaced (a token bucket of size one); 0 for no limit."""

    def __init__(self, per_minute: int, clock: Clock, sleep: Sleep) -> None:
        self.gap = 60 / per_minute if per_minute else 0.0
        self.clock, self.sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = -math.inf

    def wait(self) -> None:
        """Block until the next request may be sent."""
        if not self.gap:
            return
        with self._lock:
            now = self.clock()
            start = max(now, self._next)
            self._next = start + self.gap
        if start > now:
            self.sleep(start - now)


class TokenBudget:
    """At most ``limit`` tokens, 0 for no limit. A request starts only if it fits beside all pending ones."""

    def __init__(self, limit: int, stop_signal: StopSignal) -> None:
        self.limit, self.stop_signal = limit, stop_signal
        self.spent = 0
        self._reserved = 0
        self._change = threading.Condition()

    @contextmanager
    def reserve(self, estimate: int) -> Iterator[Callable[[int], None]]:
        """Reserve ``estimate`` tokens in the context; the function yielded charges the actual number.

        Raises Stop if they don't fit. It first waits for the actual cost of pending requests, so that where a run stops
        does not depend on timing.
        """
        with self._change:
            while self.limit and self.spent + self._reserved + estimate > self.limit:
                self.stop_signal.raise_if_stopped()
                if not self._reserved:
                    self.stop_signal.stop(
                        f"the next request could exceed task.judge.token_limit={self.limit}, of which {self.spent} tokens are "
                        "spent; raise it to continue"
                    )
                self._change.wait()
            self._reserved += estimate
        try:
            yield self._charge
        finally:
            with self._change:
                self._reserved -= estimate
                self._change.notify_all()

    def _charge(self, tokens: int) -> None:
        with self._change:
            self.spent += tokens
