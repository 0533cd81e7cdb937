"""Rows of data sets read with the `datasets` library, from the hub or from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.core.lazy import datasets, huggingface_hub
from isoalign.data.formats.rows import Row
from isoalign.data.hub import offline

PREFIX = "hf:"
_SAVED = ("state.json", "dataset_dict.json")  # files that save_to_disk writes


def hub_rows(source: str) -> Iterator[Row]:
    """The rows of ``hf:NAME[:CONFIG][:SPLIT]``; a single word after the name is a configuration if there is one, else a split.

    Reads the cache only, unless HF_HUB_OFFLINE is set to 0. Never runs code of a data set. Raises UserError.
    """
    name, _, rest = source.removeprefix(PREFIX).partition(":")
    config, _, split = rest.partition(":")
    if not name or ":" in split:
        raise UserError(f"{source}: name a data set of the hub as hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
    return _iterate(source, name, config, split)


def folder_rows(path: Path) -> Iterator[Row]:
    """The rows of a folder written by `save_to_disk`, or of data files that `load_dataset` reads. Raises UserError."""
    return _iterate(str(path), str(path), "", "")


def _iterate(source: str, name: str, config: str, split: str) -> Iterator[Row]:
    number = 0
    try:
        for values in _choose_split(source, *_load_splits(name, config, split)):
            number += 1
            yield Row(number, values)
    except UserError:
        raise
    except Exception as error:  # the library and its dependencies raise any type
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "; set HF_HUB_OFFLINE=0 to allow the download" if offline() and not Path(name).exists() else ""
        raise UserError(f"cannot read {source}{f' after row {number}' if number else ''}: {reason}{advice}") from error


def _load_splits(name: str, config: str, split: str) -> tuple[Any, str]:
    """All splits by name, and the one asked for (empty: any)."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # the exception repeats its messages
    if offline():
        # both read the environment at import, possibly before the variable was set
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    if any((Path(name) / file).exists() for file in _SAVED):
        saved = datasets.load_from_disk(name)
        return saved if isinstance(saved, dict) else {split or config: saved}, split or config
    streaming = Path(name).is_dir()  # reads in place, without a copy in the cache
    try:
        return datasets.load_dataset(name, config or None, streaming=streaming), split
    except ValueError:
        if not config or split:
            raise
        return datasets.load_dataset(name, streaming=streaming), config  # it is a split


def _choose_split(source: str, splits: Any, wanted: str) -> Any:
    if wanted and wanted not in splits:
        raise UserError(f"{source}: unknown split or configuration {wanted!r}; splits: {', '.join(splits)}")
    if not wanted and len(splits) > 1 and "train" not in splits:
        raise UserError(f"{source} has several splits; name one with hf:NAME:SPLIT: {', '.join(splits)}")
    return splits[wanted or ("train" if "train" in splits else next(iter(splits)))]
