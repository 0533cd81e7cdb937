"""Identity of a model's weights, for keys."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from isoalign.core.lazy import transformers
from isoalign.core.store import digest
from isoalign.data.assets import file_digest


def offline() -> bool:
    """Whether the hub is off limits: True unless HF_HUB_OFFLINE is set to 0."""
    return os.environ.get("HF_HUB_OFFLINE", "1").lower() not in ("0", "false", "no", "off")


@cache
def model_identity(source: str) -> str:
    """Digest of a folder's files, or the commit of a hub name; the name itself if neither is available."""
    folder = Path(source)
    if folder.is_dir():
        return digest({file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.is_file()})
    try:
        file = transformers.utils.hub.cached_file(source, "config.json", local_files_only=offline())
    except (OSError, ValueError):  # loading it raises the error
        return source
    return str(transformers.utils.hub.extract_commit_hash(file, None) or source)
