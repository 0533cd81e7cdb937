"""Whether the other processes of a run are alive: each says so every few seconds, and ends when its neighbour falls silent.

A process that is killed closes its connections, which ends the others' collectives at once. This is for one that hangs, for a
machine that is gone, and for processes that wait for what nobody will tell them.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from isoalign.core import stopping
from isoalign.core.complaint import complain

EVERY = 2.0  # seconds between signs of life
SILENT = 40.0  # seconds without one after which a process counts as dead
STOPPING = 15.0  # the same once this process was asked to stop: torchrun, which asks if one dies, kills the others after 30
GRACE = 5.0  # seconds that a process has to end by itself once another one has failed
LEFT = b"left"


class Heartbeat(threading.Thread):
    """Says that process ``rank`` of ``size`` is alive, over torch's ``store``, and listens to the next one."""

    def __init__(self, rank: int, size: int, store: Any) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.rank, self.next, self.store = rank, (rank + 1) % size, store
        self._ended = threading.Event()

    def run(self) -> None:
        """Until this process leaves."""
        beats, last, since = 0, b"", time.monotonic()
        while not self._ended.wait(EVERY):
            beats += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beats))
                failed = self.store.check(["failed"])
                heard = self.store.get(f"beat/{self.next}") if self.store.check([f"beat/{self.next}"]) else b""
            except Exception:  # the process, or torchrun's agent, that holds the store
                return self._end("the launcher of this run, or its first process, has ended")
            if failed and not self._ended.wait(GRACE):
                return self._end("another process of this run has failed")
            if heard != last:
                last, since = heard, time.monotonic()
            elif heard != LEFT and time.monotonic() - since > (most := STOPPING if stopping.asked() else SILENT):
                with suppress(Exception):
                    self.store.set("failed", b"")
                return self._end(f"process {self.next} of this run has given no sign of life for {most:.0f} seconds")

    def _end(self, why: str) -> None:
        if not self._ended.is_set():
            with suppress(Exception):
                complain(f"{why}; run the same command again to go on from the last checkpoint")
            stopping.leave(2)

    def leave(self, failed: bool) -> None:
        """No more signs of life. The others of one that has ``failed`` end as well, after a moment to do so."""
        self._ended.set()
        with suppress(Exception):
            self.store.set(f"beat/{self.rank}", LEFT)
            if failed:
                self.store.set("failed", b"")
                if self.rank:  # its end makes torchrun end the first one, which may be writing down why
                    self.store.set_timeout(timedelta(seconds=GRACE))
                    self.store.get("over")
            if not self.rank:
                self.store.set("over", b"")
