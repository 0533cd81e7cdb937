"""Where the parts of this installation lie, and what can be the name of a folder."""

import hashlib
import os
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
BASELINES = PACKAGE / "baselines"
CONF = PACKAGE / "conf"
_HARNESS, _ALGORITHMS = f"{PACKAGE}{os.sep}", f"{BASELINES}{os.sep}"


def is_plain(name: str) -> bool:
    """Whether a name is letters, digits, underscores, dots and dashes, and no more: it stays where it is put."""
    return bool(re.fullmatch(r"\w[\w.\-]{0,99}", name))


def is_harness(file: str) -> bool:
    """Whether a file is of isoalign itself; the algorithms of baselines/ are guests as those of a plug-in are."""
    return file.startswith(_HARNESS) and not file.startswith(_ALGORITHMS)


def code_digest() -> str:
    """16 hex digits of all code and configuration of this installation."""
    files = sorted(file for file in PACKAGE.rglob("*") if file.suffix in (".py", ".yaml"))
    texts = b"\0".join(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes() for file in files)
    return hashlib.sha256(texts).hexdigest()[:16]
