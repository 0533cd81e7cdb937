"""Who makes a stage: one process at a time, on whatever machine, and what it leaves behind if it dies.

Within a machine the lock of a file says so (flock), which ends with its process. Many shared file systems keep such locks to
each machine, or grant them to all, so a maker holds a lease as well: a file that is created exclusively and touched every few
seconds. Whoever sees it untouched for a minute, by its own clock, takes it over. The former maker may only have been frozen,
so each works in a folder named after itself. Who takes over renames that folder: then no path of the former maker leads there
any more, and files that it still has open are replaced by copies. The first complete folder that is renamed to the stage's
name is the stage.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from isoalign.core import presence
from isoalign.core.complaint import say

LEASE = presence.SILENT  # seconds; processes that share a store must agree on it
LOOK = 0.5  # seconds between two looks at another machine's lease
PATIENCE = 10.0  # seconds after which a process says that it waits
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
WORK = ".work-"


class Claim:
    """The right to make stage ``name`` of the store ``root``."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.work = root / f"{WORK}{name}.{presence.tag()}"
        self._inode = 0

    def begin(self) -> Path:
        """The work folder, with what a maker that has ended left in it."""
        *others, former = [self.work, *sorted(works(self.root, self.name), key=_worth)]
        for other in others:
            if other != former:
                shutil.rmtree(other, ignore_errors=True)
        if former.is_dir():
            former.rename(self.work)
            if presence.is_alive(owner(former)) is not False:  # it may go on, and write to what it has open
                _renew(self.work)
        self.work.mkdir(exist_ok=True)
        self._inode = self.work.stat().st_ino
        return self.work

    def is_held(self) -> bool:
        """Whether the work folder is still the one that was begun, and not another's, or one that was made anew since."""
        try:
            return self.work.stat().st_ino == self._inode
        except OSError:
            return False


def _worth(work: Path) -> tuple[bool, float]:
    """What the most can be gone on with has the most of: a checkpoint, then the latest change."""
    return (work / "checkpoint").is_dir(), work.stat().st_mtime


def _renew(folder: Path) -> None:
    """Replace every file by a copy of itself."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            copy = file.with_name(f".{file.name}.copy")
            shutil.copy2(file, copy)
            copy.replace(file)


def works(root: Path, name: str = "") -> list[Path]:
    """The work folders in a store, of one stage or of all."""
    return [path for path in root.glob(f"{WORK}{name}*") if not name or stage_of(path) == name]


def stage_of(work: Path) -> str:
    """The stage of a work folder."""
    return work.name.removeprefix(WORK).partition(".")[0]


def owner(work: Path) -> dict[str, Any]:
    """The process of a work folder."""
    return presence.from_tag(work.name.partition(".")[2].partition(".")[2])


def lease_of(root: Path, name: str) -> SoftFileLease:
    """The lease of a stage, taken or not."""
    return SoftFileLease(root / f".{name}.lease", lease_duration=LEASE, heartbeat_interval=LEASE / 12, poll_interval=LOOK)


@contextmanager
def claimed(root: Path, name: str) -> Iterator[Claim]:
    """Context in which this process alone makes a stage. Waits for others. Raises OSError where nothing can be written."""
    with _locked(root, name), _held(lease_of(root, name), name):
        yield Claim(root, name)


def _held(lock: BaseFileLock, name: str) -> Any:
    """The lock, held; a line if that takes a while."""
    try:
        return lock.acquire(timeout=PATIENCE)
    except Timeout:
        say(f"waiting for another process to make {name}")
        return lock.acquire()


def _locked(root: Path, name: str) -> Any:
    """The lock of a file, held; nothing on a file system that knows no locks."""
    try:
        return _held(FileLock(root / f".{name}.lock", fallback_to_soft=False), name)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return nullcontext()


def is_claimed(root: Path, name: str) -> bool:
    """Whether a process makes a stage, or may: one of another machine that has given a sign of life within the last minute."""
    lock, lease = root / f".{name}.lock", lease_of(root, name)
    try:
        if lock.exists():
            with FileLock(lock, timeout=0, fallback_to_soft=False):
                pass
        if not Path(lease.lock_file).exists():
            return False
        with suppress(Timeout), lease.acquire(timeout=0):
            return False
        return presence.clock(root) - Path(lease.lock_file).stat().st_mtime <= LEASE
    except FileNotFoundError:  # released just now
        return False
    except (Timeout, OSError):
        return True
