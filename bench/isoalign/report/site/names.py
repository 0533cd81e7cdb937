"""Names of folders and anchors of a report, out of names that may hold anything."""

import re

from isoalign.core.places import is_plain
from isoalign.core.store import digest


def folder_name(task: str) -> str:
    """The folder of a task: its name, or a digest of one that can't name a folder."""
    return task if is_plain(task) and task.isascii() else f"task-{digest(task)[:12]}"


def anchor(text: str) -> str:
    """The text as part of an identifier in a page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
