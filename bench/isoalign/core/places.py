"""Where the parts of this installation lie."""

import os
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
BASELINES = PACKAGE / "baselines"
CONF = PACKAGE / "conf"
_HARNESS, _ALGORITHMS = f"{PACKAGE}{os.sep}", f"{BASELINES}{os.sep}"


def is_harness(file: str) -> bool:
    """Whether a file is of isoalign itself; the algorithms of baselines/ are guests as those of a plug-in are."""
    return file.startswith(_HARNESS) and not file.startswith(_ALGORITHMS)
