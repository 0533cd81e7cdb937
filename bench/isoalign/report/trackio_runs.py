"""trackio in the place of W&B (``tracking=trackio``): runs in a database on this machine, which `trackio show` draws.

It gets scalars while a run is trained, and configuration and metrics at its end. It gets no samples: its tables take text for
Markdown, and a model's text is not to be interpreted. It is an optional package, imported when it is asked for.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.core.lazy import trackio
from isoalign.core.records import Card, Sample
from isoalign.core.redaction import redact
from isoalign.report.trackers import harmless, is_scalar

MODE = "trackio"


def check_installed() -> None:
    """Raises UserError where the package is missing."""
    if importlib.util.find_spec(MODE) is None:
        raise UserError("tracking=trackio needs the package trackio, which is not installed; type: pip install trackio")


class TrackioRun:
    """The trackio run of a run, as `isoalign.report.trackers.Mirror` is the W&B run of one: no method raises, and after
    trouble nothing more is sent.

    A run that goes on from a checkpoint is written anew, from the first row of its log. ``folder``: where the database lies,
    unless TRACKIO_DIR is set.
    """

    mode = MODE

    def __init__(self, name: str, group: str, folder: Path, config: dict[str, Any]) -> None:
        self.name, self.group, self.folder, self.config = name, group, Path(folder), redact(config)
        self.project = os.environ.get("TRACKIO_PROJECT", "isoalign")
        self.next = 0  # the first row that it does not have
        self._run: Any = None
        self._over = False
        os.environ.setdefault("TRACKIO_DIR", str(self.folder.absolute()))  # read when trackio is imported

    def log(self, rows: Sequence[dict[str, Any]]) -> None:
        """Send those rows of a training log, one a step, that it does not have. The first call opens the run."""
        with self._harmless():
            if not self._over:
                self._open()
                for step, row in enumerate(rows[self.next :], start=self.next + 1):
                    scalars = {name: value for name, value in row.items() if is_scalar(value) and name != "step"}
                    self._run.log(scalars, step=step)
                    self.next = step

    def finish(self, card: Card, samples: Sequence[Sample]) -> bool:
        """Add the card's metrics and end. Returns whether that was done."""
        with self._harmless():
            if not self._over:
                self._open()
                found = {f"metrics/{name}": e.value for name, e in card.metrics.items() if e.value is not None}
                self._run.log(found | {"flops_spent": card.spent["flops"]}, step=self.next)
                self.stop()
                return True
        return False

    def stop(self) -> None:
        """End the run; after `finish` nothing is done."""
        with self._harmless():
            self._over = True
            if self._run is not None:
                trackio.finish()  # the run that was opened last; it prints at exit what is not ended so
                self._run = None

    def _open(self) -> None:
        if self._run is None:
            with suppress(ValueError):  # there is no such project yet
                for former in [run for run in trackio.Api().runs(self.project) if run.name == self.name]:
                    former.delete()
            settings: dict[str, Any] = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            self._run = trackio.init(self.project, self.name, self.group, config=self.config, **settings)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Context in which an error is one line, and what trackio prints goes to stderr: stdout is the card's path."""
        with harmless("trackio"), redirect_stdout(sys.stderr):
            try:
                yield
            except Exception:
                self._over = True
                raise
