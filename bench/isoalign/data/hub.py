"""Models of the hub: where they lie, and the identity of their weights, for keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from isoalign.core.errors import UserError, unforeseen
from isoalign.core.lazy import huggingface_hub, transformers
from isoalign.core.memory import machine_failure
from isoalign.core.store import digest
from isoalign.data.assets import file_digest

FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
"""What is downloaded of a model: no weights in a format that may hold code."""


def offline() -> bool:
    """Whether the hub is off limits: True unless HF_HUB_OFFLINE is set to 0 and ISOALIGN_OFFLINE is not set."""
    allowed = os.environ.get("HF_HUB_OFFLINE", "1").lower() in ("0", "false", "no", "off")
    return not allowed or bool(os.environ.get("ISOALIGN_OFFLINE"))


@contextmanager
def loading_errors(what: str, name: str) -> Iterator[None]:
    """Context in which whatever loading a model raises is a UserError in one line. ``what``: "the model"."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:
        if failure := machine_failure(error):
            raise failure from error
        folder = name.removeprefix("hf:")
        plain = folder.partition("#")[0].partition("@")[0]  # without a label and a revision
        if folder.startswith(("/", "./", "../")) and not (Path(folder).exists() or Path(plain).exists()):  # no name of the hub
            raise UserError(f"cannot load {what} {name!r}: the folder does not exist") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        absent = offline() and not Path(folder).exists()
        hint = "; set HF_HUB_OFFLINE=0 to allow the download" if absent else ""
        raise UserError(f"cannot load {what} {name!r}: {reason}{hint}") from error
    except Exception as error:  # files that are broken raise anything
        raise machine_failure(error) or UserError(f"cannot load {what} {name!r}: {unforeseen(error)}") from error


@cache
def model_folder(source: str) -> str:
    """A folder or hub name as it is; of ``NAME@REVISION`` the folder of that commit, branch or tag in the hub's cache.

    Raises UserError if the revision is not there and can't be downloaded.
    """
    name, sign, revision = source.partition("@")
    if not sign or Path(source).exists():
        return source
    if not name or not revision or Path(name).exists():
        raise UserError(f"{source}: name a model of the hub as NAME@REVISION; a folder has no revision")
    try:
        folder: str = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=FILES, local_files_only=offline()
        )
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        advice = "; set HF_HUB_OFFLINE=0 to allow the download" if offline() else ""
        reason = "it is not in the hub's cache" if offline() else str(error).strip().splitlines()[0]
        raise UserError(f"cannot load {name} at revision {revision}: {reason}{advice}") from error
    return folder


@cache
def model_identity(source: str) -> str:
    """Digest of a folder's files, or the commit of a hub name; the name itself if neither is available."""
    folder = Path(model_folder(source))
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.name  # in the hub's cache, a commit
    if folder.is_dir():
        return digest({file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.is_file()})
    try:
        file = transformers.utils.hub.cached_file(source, "config.json", local_files_only=offline())
    except (OSError, ValueError):  # loading it raises the error
        return source
    return str(transformers.utils.hub.extract_commit_hash(file, None) or source)
