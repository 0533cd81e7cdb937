"""What this process does now, for those who ask while it does it: the stage that it makes, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_stages: list[str] = []  # that are being made, the innermost last
_step: dict[str, Any] = {}  # of the latest bar


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Context in which a stage is made, or waited for."""
    _stages.append(name)
    _step.clear()
    try:
        yield
    finally:
        _stages.pop()
        _step.clear()


def step(label: str, done: float, left: float | None) -> None:
    """Work called ``label`` is ``done`` to this share; ``left``: seconds that the rest will take, or None."""
    _step.update(label=label, done=min(done, 1.0), left=left, at=time.monotonic())


def no_step() -> None:
    """That work has ended."""
    _step.clear()


def now() -> dict[str, Any]:
    """``stage``, ``step``, ``done`` in [0, 1] and ``left`` in seconds from now; None for what is not known."""
    stages, step = [*_stages], dict(_step)  # other threads ask
    left = step.get("left")
    if left is not None:
        left = max(0.0, left - (time.monotonic() - step["at"]))
    return {"stage": stages[-1] if stages else None, "step": step.get("label"), "done": step.get("done"), "left": left}
