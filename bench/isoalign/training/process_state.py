"""What of the process an algorithm's code must leave as it was: a run that follows in a sweep, and this run's own evaluation,
work in the same one."""

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
"""Threads that an algorithm left running, for which Python would wait at its end."""


@dataclass(frozen=True)
class Setting:
    """Something that is one in a process: what it is called, and how it is read and put back."""

    name: str
    read: Callable[[], Any]
    put: Callable[[Any], Any]


def _put_hooks(saved: list[dict[Any, Any]]) -> None:
    for table, entries in zip(HOOKS, saved, strict=True):
        table.clear()
        table.update(entries)


def _put_streams(saved: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = saved


SETTINGS = (
    Setting("the working directory", os.getcwd, os.chdir),
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch's default device", torch.get_default_device, torch.set_default_device),
    Setting("whether gradients are kept", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("torch's deterministic mode", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    Setting("the hooks of all modules", lambda: [dict(table) for table in HOOKS], _put_hooks),
    Setting("numpy's handling of errors", np.geterr, lambda saved: np.seterr(**saved)),
    Setting("sys.stdout and sys.stderr", lambda: (sys.stdout, sys.stderr), _put_streams),
)


@contextmanager
def preserved() -> Iterator[None]:
    """Inside, an algorithm trains; after, all is as it was. Raises UserError naming what it left otherwise."""
    before, threads = [setting.read() for setting in SETTINGS], set(threading.enumerate())
    modes = len(_get_current_dispatch_mode_stack())
    changed: list[str] = []
    try:
        yield
    finally:
        while len(_get_current_dispatch_mode_stack()) > modes:
            _pop_mode()  # of a pass that was broken off in its midst
        for setting, value in zip(SETTINGS, before, strict=True):
            if not _is(setting, value):
                changed.append(setting.name)
                setting.put(value)
        left = [thread.name for thread in threading.enumerate() if thread not in threads and _stays(thread)]
        strays.extend(left)
        if left and multiprocessing.parent_process():  # a worker's end, which its parent waits for
            Finalize(None, os._exit, (0,), exitpriority=-100)
    if left:
        raise UserError(f"it left a thread running ({', '.join(left)}); end what it starts")
    if changed:
        raise UserError(f"it changed {', '.join(changed)} for the whole process; put back what is changed")


def _stays(thread: threading.Thread) -> bool:
    """Whether Python's end would wait for it. Libraries keep idle pools, which Python ends by itself."""
    return not thread.daemon and thread not in _threads_queues


def _is(setting: Setting, value: Any) -> bool:
    try:
        return bool(setting.read() == value)
    except OSError:  # a working directory that is no more
        return False
