"""Rows of data sets that the `datasets` library reads: from the hub, or from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.core.lazy import datasets, huggingface_hub
from isoalign.data.formats.rows import Row
from isoalign.data.hub import offline

PREFIX = "hf:"
_SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk leaves


def rows(source: str) -> Iterator[Row]:
    """The rows of ``hf:NAME[:CONFIG][:SPLIT]``; a single word after the name is a configuration or else a split.

    Out of the cache, unless HF_HUB_OFFLINE is set to 0. No code of a data set is run. Raises UserError.
    """
    name, _, rest = source.removeprefix(PREFIX).partition(":")
    config, _, split = rest.partition(":")
    if not name or ":" in split:
        raise UserError(f"{source}: a data set of the hub is named hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
    return _rows(source, name, config, split)


def folder(path: Path) -> Iterator[Row]:
    """The rows of a folder that `save_to_disk` made, or of data files that `load_dataset` understands. Raises UserError."""
    return _rows(str(path), str(path), "", "")


def _rows(source: str, name: str, config: str, split: str) -> Iterator[Row]:
    number = 0
    try:
        for values in _split(source, *_loaded(name, config, split)):
            number += 1
            yield Row(number, values)
    except UserError:
        raise
    except Exception as error:  # the library and what it rests on raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "; set HF_HUB_OFFLINE=0 to let it be downloaded" if offline() and not Path(name).exists() else ""
        raise UserError(f"cannot read {source}{f' after row {number}' if number else ''}: {reason}{advice}") from error


def _loaded(name: str, config: str, split: str) -> tuple[Any, str]:
    """Every split by name, and which is asked for (empty: any)."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it has to say is in the exception too
    if offline():
        # both read it from the environment when they were imported, which may have been before anybody set it
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    if any((Path(name) / saved).exists() for saved in _SAVED):
        found = datasets.load_from_disk(name)
        return found if isinstance(found, dict) else {split or config: found}, split or config
    streaming = Path(name).is_dir()  # reads in place, and leaves no copy in the cache
    try:
        return datasets.load_dataset(name, config or None, streaming=streaming), split
    except ValueError:
        if not config or split:
            raise
        return datasets.load_dataset(name, streaming=streaming), config  # it wasn't a configuration


def _split(source: str, splits: Any, wanted: str) -> Any:
    if wanted and wanted not in splits:
        raise UserError(f"{source}: there is no split or configuration {wanted!r}; splits: {', '.join(splits)}")
    if not wanted and len(splits) > 1 and "train" not in splits:
        raise UserError(f"{source} has several splits; name one with hf:NAME:SPLIT: {', '.join(splits)}")
    return splits[wanted or ("train" if "train" in splits else next(iter(splits)))]
