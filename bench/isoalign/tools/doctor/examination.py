"""Everything that a run needs, looked at in the order in which it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from isoalign.config.task import TaskConfig
from isoalign.data import assets
from isoalign.tools.doctor import access, machine, software
from isoalign.tools.doctor.finding import Finding


def examine(task: TaskConfig, results: Path, store: Path, network: bool = False) -> list[Finding]:
    """Look at everything that a run of the task needs. Servers are asked only with ``network``."""
    places = {"cache": assets.cache_dir(), "store": store, "results": results}
    looks: list[Iterable[Finding]] = [software.look(), machine.look(), access.embedded(task), access.models(task)]
    looks += [access.services(task), access.folders(places), *([access.network(task)] if network else [])]
    return [finding for look in looks for finding in _what_can_be_seen(look)]


def _what_can_be_seen(look: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, up to a package that is missing: it has a line already."""
    try:
        yield from look
    except ImportError:
        return
