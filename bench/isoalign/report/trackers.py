"""Weights & Biases mirrors runs while they are trained, one W&B run each. It is never read back, and its errors end no run."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from isoalign.core.complaint import one_line
from isoalign.core.errors import UserError
from isoalign.core.lazy import wandb
from isoalign.core.randomness import own_random_state
from isoalign.core.records import Card, Sample
from isoalign.core.redaction import redact
from isoalign.evaluation.card import redacted

OF_CARD = ("key", "task", "algorithm", "config", "seed", "budget", "spent", "parents", "versions", "command", "notes")
MODES = ("auto", "online", "offline", "off")
MOST_ROWS = 10_000  # rows of a table that W&B shows
PATIENCE = 20  # seconds to wait for W&B's servers, at the start and at the end


def track(
    card: Card,
    train_log: Sequence[dict[str, Any]],
    samples: Sequence[Sample],
    folder: Path,
    mode: str = "auto",
) -> bool:
    """Mirror a run that has ended: configuration, scalars along the budget, samples and metrics.

    Rows of ``train_log`` hold ``flops_spent`` and scalars. Offline runs are written to ``folder``. An error is one line on
    stderr. Returns whether there was none.
    """
    mirror = Mirror(card.key, card.task, card.algorithm, card.seed, folder, mode)
    mirror.log(train_log)
    return mirror.finish(card, samples)


class Mirror:
    """The W&B run of a run, written while it is trained. ``key``: its id, the same whenever the run goes on. ``config``: as on
    its card, which is not made yet.

    No method raises: trouble is one line on stderr, after which nothing more is mirrored. A process that goes on from a
    checkpoint writes an offline run anew, from the first row of its log, in the place of that of the process which was killed;
    online it goes on behind the last step that W&B has. Of several processes with one ``key`` one mirrors.
    """

    def __init__(
        self, key: str, task: str, algorithm: str, seed: int, folder: Path, mode: str = "auto",
        config: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.key, self.names, self.folder, self.mode = key, (task, algorithm, seed), Path(folder), mode
        self.config = redact(config or {})
        self.next = 0  # the step of the next row that W&B does not have
        self._run: wandb.Run | None = None
        self._lock: FileLock | None = None
        self._over = self.off = False

    def log(self, rows: Sequence[dict[str, Any]]) -> None:
        """Send those rows of a training log, one a step from the first on, that W&B does not have. The first call opens the
        run."""
        with self._harmless():
            if self._over or not self._opened():
                return
            assert self._run is not None
            for step, row in enumerate(rows[max(0, self.next - 1) :], start=max(1, self.next)):
                self._run.log({name: value for name, value in row.items() if is_scalar(value)}, step=step, commit=True)
                self.next = step + 1

    def finish(self, card: Card, samples: Sequence[Sample]) -> bool:
        """Add configuration, metrics, curve and samples, and end. Returns whether W&B has all of the run."""
        with self._harmless():
            if self._over or not self._opened():
                return self.off
            run, card = self._run, redacted(card)
            assert run is not None
            run.config.update({name: getattr(card, name) for name in OF_CARD}, allow_val_change=True)
            tables = {"metrics": _metrics_table(card), "samples": _samples_table(samples)}
            if card.curve:
                tables["curve"] = _curve_table(card)
            run.log({**tables, "flops_spent": card.spent["flops"]}, step=max(1, self.next))
            run.summary.update({f"metrics/{name}": e.value for name, e in card.metrics.items() if e.value is not None})
            run.summary.update({"flags": list(map(str, card.flags)), "samples_total": len(samples)})
            self._close(0)
            if resolve(self.mode) == "offline":
                _check_written(Path(run.dir).parent)
            return True
        return False

    def stop(self) -> None:
        """End without a card: the run was stopped, or has failed. After `finish` nothing is done."""
        with self._harmless():
            self._close(1)

    def _opened(self) -> bool:
        """Whether there is a W&B run, opened at the first call; none with tracking off, or if another process has it."""
        if self._run is None and not self._over:
            mode = resolve(self.mode)
            self.off = mode == "off"
            if mode != "off":
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = FileLock(self.folder / f".{self.key}.lock", timeout=0)
                with suppress(Timeout), own_random_state():
                    self._lock.acquire()
                    for former in self.folder.glob(f"wandb/offline-run-*-{self.key}"):
                        shutil.rmtree(former)
                    self._run = _start(self.key, self.names, self.config, self.folder, mode)
                    self.next = self._run.step  # 0, or that behind the last one that W&B has
            self._over = self._run is None
        return not self._over

    def _close(self, status: int) -> None:
        self._over = True
        try:
            if self._run is not None:
                self._run.finish(exit_code=status)
        finally:
            self._run = None
            if self._lock is not None:
                self._lock.release()

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Context in which an error is one line, and the end of the mirror."""
        with harmless():
            try:
                yield
            except Exception:
                with suppress(Exception):
                    self._close(1)
                raise


@contextmanager
def harmless(tracker: str = "W&B") -> Iterator[None]:
    """A context in which an error is one line on stderr, and ends the context only."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines() or ["no reason given"]
        line = f"warning: {tracker} has no record of this run: {type(error).__name__}: {reason[0]}"
        print(one_line(line), file=sys.stderr)


def resolve(mode: str) -> Literal["online", "offline", "off"]:
    """The mode to run in: the one given, or for "auto" WANDB_MODE, or online if WANDB_API_KEY is set, or else offline.

    Raises UserError for an unknown mode.
    """
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    if mode in ("off", "disabled"):
        return "off"
    if mode == "online":
        return "online"
    if mode == "offline":
        return "offline"
    raise UserError(f"unknown W&B mode {mode!r}; known: {', '.join(MODES)}")


def _check_written(folder: Path) -> None:
    """Raises OSError unless W&B reads the end of an offline run: the process that writes it says nothing of a full disk."""
    read = subprocess.run([sys.executable, "-m", "wandb", "leet", "inspect", "--json", folder], capture_output=True, text=True)
    if '"type":"exit"' not in read.stdout.rstrip().rpartition("\n")[2]:
        raise OSError(
            f"{folder} is not written to its end; if the disk is full, free some space; then run the same command again"
        )


def _start(
    key: str, names: tuple[str, str, int], config: dict[str, Any], folder: Path, mode: Literal["online", "offline"]
) -> "wandb.Run":
    """A W&B run without output and prompts, and with short timeouts."""
    os.environ.setdefault("WANDB_SILENT", "true")
    if mode == "online" and not os.environ.get("WANDB_API_KEY") and not wandb.login(prompt=False, verify=False):
        raise UserError("no API key; set WANDB_API_KEY")
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=PATIENCE,
        finish_timeout=PATIENCE,
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
    )
    task, algorithm, seed = names
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "isoalign"),
        id=key,
        resume="allow" if mode == "online" else None,
        name=f"{task}-{algorithm}-s{seed}",
        group=f"{task}-{algorithm}",
        dir=folder,
        mode=mode,
        reinit="create_new",  # another trainer may have a run open
        config={"task": task, "algorithm": algorithm, "seed": seed, "config": config},
        settings=settings,
    )
    run.define_metric("flops_spent", hidden=True)
    run.define_metric("*", step_metric="flops_spent")
    return run


def is_scalar(value: Any) -> bool:
    """Whether a tracker can draw a value; missing values are left out, not logged as 0."""
    return isinstance(value, int | float) and math.isfinite(value)


def _metrics_table(card: Card) -> "wandb.Table":
    columns = ["metric", "value", "low", "high", "n", "missing"]
    return _table(columns, [[name, e.value, e.low, e.high, e.n, e.missing] for name, e in sorted(card.metrics.items())])


def _curve_table(card: Card) -> "wandb.Table":
    columns = ["fraction", "flops", "steps", "metric", "value", "low", "high"]
    rows = [
        [point.fraction, point.flops, point.steps, name, e.value, e.low, e.high]
        for point in card.curve
        for name, e in sorted(point.metrics.items())
    ]
    return _table(columns, rows)


def _samples_table(samples: Sequence[Sample]) -> "wandb.Table":
    """The first draws of every prompt, up to the size of a table. Completions are plain text, never HTML or media."""
    columns = ["prompt_id", "draw", "prompt", "completion", "logp", "base_logp", "kl", "finished", "source", "stratum"]
    shown = sorted(samples, key=lambda sample: sample.draw)[:MOST_ROWS]
    return _table(columns, [[getattr(sample, name) for name in columns] for sample in shown])


def _table(columns: list[str], rows: list[list[Any]]) -> "wandb.Table":
    # Mixed types, because all values of a column may be missing.
    return wandb.Table(columns=list(columns), data=[list(map(_cell, row)) for row in rows], allow_mixed_types=True)


def _cell(value: Any) -> Any:
    """A value that JSON and UTF-8 can hold: a lone surrogate becomes a question mark, a number that is not finite null."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return value if not isinstance(value, float) or math.isfinite(value) else None
