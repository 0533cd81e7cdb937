"""Which process wrote a file, and whether it is still alive.

On the same machine its number and the moment of its start say so: a number is given again, both together are not. Of another
machine only signs of life do, whose age is measured by the clock of the file system, which stamps sign and question alike.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import psutil

EVERY = 5.0  # seconds between signs of life
SILENT = 60.0  # seconds without one after which a process of another machine counts as dead


def myself() -> dict[str, Any]:
    """This process, as others find it in a file."""
    return {"host": socket.gethostname()} | from_tag(tag())


def tag() -> str:
    """This process in a word that can be a part of a file's name."""
    return f"{machine()}-{os.getpid()}-{started(os.getpid())}"


def from_tag(word: str) -> dict[str, Any]:
    """Machine, number and start of a process from its `tag`."""
    machine, pid, start = ["", "", *word.rsplit("-", 2)][-3:]
    return {"machine": machine, "pid": int(pid) if pid.isdecimal() and len(pid) < 11 else 0, "started": start}


@cache
def machine() -> str:
    """Eight hex digits for what numbers of processes belong to: a boot of a machine, and in it a namespace, as containers have
    their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        where = f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        where = f"{socket.gethostname()}/{uuid.getnode():x}"
    return hashlib.sha256(where.encode()).hexdigest()[:8]


def started(pid: int) -> str:
    """When a process started, in a form to be compared; empty where there is none, or one that only waits to be forgotten."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # ticks since the boot, which no change of the clock moves
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except (psutil.Error, ValueError):
        return ""


def is_alive(told: dict[str, Any]) -> bool | None:
    """Whether the process that `myself` described is alive; None where only its own machine, or another user, knows."""
    if told.get("machine") != machine():
        return None
    pid = told.get("pid")
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    if found := started(pid):
        return found == told.get("started")
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's, which /proc may hide
        return None
    except OSError:
        pass
    return False


def clock(folder: Path) -> float:
    """The time of a folder's file system, which may be another machine's; of this machine where nothing can be written."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
