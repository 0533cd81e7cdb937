"""Names of folders and anchors of a report, out of names that may hold anything."""

import re

from isoalign.core.places import is_plain
from isoalign.core.records import Card
from isoalign.core.store import digest
from isoalign.evaluation.card import file_name


def folder_name(task: str) -> str:
    """The folder of a task: its name, or a digest of one that can't name a folder."""
    return task if is_plain(task) and task.isascii() else f"task-{digest(task)[:12]}"


def anchor(text: str) -> str:
    """The text as part of an identifier in a page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def run_id(card: Card) -> str:
    """What names a run in an address."""
    return file_name(card).removesuffix(".json")


def samples_path(task: str) -> str:
    """Where the samples of a task's runs lie in the report, side by side."""
    return f"samples/{folder_name(task)}.html"


def pairs_path(task: str) -> str:
    """Where any two rows of a task's board are compared."""
    return f"pairs/{folder_name(task)}.html"
