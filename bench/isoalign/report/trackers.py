"""Weights & Biases mirrors each run: one W&B run per card. It is never read back, and its errors never end a run."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from isoalign.core.complaint import one_line
from isoalign.core.errors import UserError
from isoalign.core.lazy import wandb
from isoalign.core.records import Card, Sample
from isoalign.evaluation.card import redacted

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
    """Mirror one run: configuration, scalars along the budget, samples and metrics.

    Rows of ``train_log`` hold ``flops_spent`` and scalars. Offline runs are written to ``folder``. An error is one line on
    stderr. Returns whether there was none.
    """
    with harmless():
        chosen = resolve(mode)
        if chosen != "off":
            _mirror(redacted(card), train_log, samples, Path(folder), chosen)
        return True
    return False


@contextmanager
def harmless() -> Iterator[None]:
    """A context in which an error is one line on stderr, and ends the context only."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines() or ["no reason given"]
        line = f"warning: W&B has no record of this run: {type(error).__name__}: {reason[0]}"
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


def _mirror(
    card: Card,
    train_log: Sequence[dict[str, Any]],
    samples: Sequence[Sample],
    folder: Path,
    mode: Literal["online", "offline"],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run = _start(card, folder, mode)
    failed = 1
    try:
        run.define_metric("flops_spent", hidden=True)
        run.define_metric("*", step_metric="flops_spent")
        for row in train_log:
            run.log({name: value for name, value in row.items() if _is_scalar(value)})
        tables = {"metrics": _metrics_table(card), "samples": _samples_table(samples)}
        if card.curve:
            tables["curve"] = _curve_table(card)
        run.log({**tables, "flops_spent": card.spent["flops"]})
        run.summary.update({f"metrics/{name}": e.value for name, e in card.metrics.items() if e.value is not None})
        run.summary.update({"flags": list(map(str, card.flags)), "samples_total": len(samples)})
        failed = 0
    finally:
        run.finish(exit_code=failed)
    if mode == "offline":
        _check_written(Path(run.dir).parent)


def _check_written(folder: Path) -> None:
    """Raises OSError unless W&B reads the end of an offline run: the process that writes it says nothing of a full disk."""
    read = subprocess.run([sys.executable, "-m", "wandb", "leet", "inspect", "--json", folder], capture_output=True, text=True)
    if '"type":"exit"' not in read.stdout.rstrip().rpartition("\n")[2]:
        raise OSError(
            f"{folder} is not written to its end; if the disk is full, free some space; then run the same command again"
        )


def _start(card: Card, folder: Path, mode: Literal["online", "offline"]) -> "wandb.Run":
    """A W&B run without output and prompts, and with short timeouts. Its id is the card's key."""
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
    fields = ("key", "task", "algorithm", "config", "seed", "budget", "spent", "parents", "versions", "command", "notes")
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "isoalign"),
        id=card.key,
        name=f"{card.task}-{card.algorithm}-s{card.seed}",
        group=f"{card.task}-{card.algorithm}",
        dir=folder,
        mode=mode,
        reinit="create_new",  # another trainer may have a run open
        config={name: getattr(card, name) for name in fields},
        settings=settings,
    )


def _is_scalar(value: Any) -> bool:
    """Whether W&B can draw a value; missing values are left out, not logged as 0."""
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
