"""Process-wide state that an algorithm's code must leave unchanged: the evaluation of its run, and later runs of a sweep, use
the same process."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.thread import _threads_queues  # type: ignore[attr-defined]
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode

from isoalign.core.errors import UserError

HOOKS = [getattr(module, name) for name in sorted(vars(module)) if name.startswith("_global") and name.endswith("hooks")]
strays: list[str] = []
"""Threads that an algorithm left running, for which Python would wait at exit."""


@dataclass(frozen=True)
class Setting:
    """A process-wide setting: its name, and how it is read and restored."""

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], Any]


def _restore_hooks(saved: list[dict[Any, Any]]) -> None:
    for table, entries in zip(HOOKS, saved, strict=True):
        table.clear()
        table.update(entries)


def _restore_streams(saved: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = saved


SETTINGS = (
    Setting("the working directory", os.getcwd, os.chdir),
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch's default device", torch.get_default_device, torch.set_default_device),
    Setting("whether gradients are recorded", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("torch's deterministic mode", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    Setting("the hooks of all modules", lambda: [dict(table) for table in HOOKS], _restore_hooks),
    Setting("numpy's error handling", np.geterr, lambda saved: np.seterr(**saved)),
    Setting("sys.stdout and sys.stderr", lambda: (sys.stdout, sys.stderr), _restore_streams),
)


@contextmanager
def preserved() -> Iterator[None]:
    """Context in which an algorithm trains. Restores the settings afterwards, and raises UserError naming what changed."""
    before, threads = [setting.read() for setting in SETTINGS], set(threading.enumerate())
    modes = len(_get_current_dispatch_mode_stack())
    changed: list[str] = []
    try:
        yield
    finally:
        while len(_get_current_dispatch_mode_stack()) > modes:
            _pop_mode()  # of a pass that was interrupted
        for setting, value in zip(SETTINGS, before, strict=True):
            if not _is_unchanged(setting, value):
                changed.append(setting.name)
                setting.restore(value)
        left = [thread.name for thread in threading.enumerate() if thread not in threads and _stays(thread)]
        strays.extend(left)
        if left and multiprocessing.parent_process():  # the parent waits for this worker to exit
            Finalize(None, os._exit, (0,), exitpriority=-100)
    if left:
        raise UserError(f"it left a thread running ({', '.join(left)}); end every thread that it starts")
    if changed:
        raise UserError(f"it changed {', '.join(changed)} for the whole process; restore what it changes")


def _stays(thread: threading.Thread) -> bool:
    """Whether Python would wait for it at exit. Idle thread pools of libraries do not count: Python ends them."""
    return not thread.daemon and thread not in _threads_queues


def _is_unchanged(setting: Setting, value: Any) -> bool:
    try:
        return bool(setting.read() == value)
    except OSError:  # a working directory that was deleted
        return False
