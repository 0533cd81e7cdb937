"""What bounds the requests to a server: a signal that stops them all, a rate, and a budget of tokens."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

Sleep = Callable[[float], Any]
Clock = Callable[[], float]


class Stop(Exception):
    """Nothing more can be asked; the text says why and what to do."""


class StopSignal:
    """Stops every thread of a judge with one message: the first one's."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._message = ""

    def stop(self, message: str) -> NoReturn:
        """Stop all threads, this one at once."""
        with self._lock:
            self._message = self._message or message
        self.stopped.set()
        raise Stop(self._message)

    def raise_if_stopped(self) -> None:
        """Raises Stop where a thread has set it."""
        if self.stopped.is_set():
            raise Stop(self._message)

    def release(self) -> None:
        """Ready for the next questions."""
        self._message = ""
        self.stopped.clear()


class RateLimiter:
    """At most ``per_minute`` requests a minute, evenly spread (a token bucket that holds one); 0 is no limit."""

    def __init__(self, per_minute: int, clock: Clock, sleep: Sleep) -> None:
        self.gap = 60 / per_minute if per_minute else 0.0
        self.clock, self.sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = -math.inf

    def wait(self) -> None:
        """Return when it is this request's turn."""
        if not self.gap:
            return
        with self._lock:
            now = self.clock()
            start = max(now, self._next)
            self._next = start + self.gap
        if start > now:
            self.sleep(start - now)


class TokenBudget:
    """Tokens that may be spent, 0 for no limit. A request begins only if it fits beside all that are on their way."""

    def __init__(self, limit: int, stop_signal: StopSignal) -> None:
        self.limit, self.stop_signal = limit, stop_signal
        self.spent = 0
        self._reserved = 0
        self._change = threading.Condition()

    @contextmanager
    def reserve(self, estimate: int) -> Iterator[Callable[[int], None]]:
        """Keep ``estimate`` tokens free inside; what is yielded takes the true number.

        Raises Stop where they don't fit. While others are on their way it waits for what they truly cost, or it would
        depend on chance where a run stops.
        """
        with self._change:
            while self.limit and self.spent + self._reserved + estimate > self.limit:
                self.stop_signal.raise_if_stopped()
                if not self._reserved:
                    self.stop_signal.stop(
                        f"the next request could pass task.judge.token_limit={self.limit}, of which {self.spent} tokens are "
                        "spent; raise it to go on"
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
