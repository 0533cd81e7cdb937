"""Rows of data sets read with the `datasets` library, from the hub, its cache or a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.core.lazy import datasets, huggingface_hub, pyarrow
from isoalign.data.formats.rows import Row
from isoalign.data.hub import offline

PREFIX = "hf:"
FORM = "hf:NAME[:CONFIG][@REVISION][#SPLIT]"
Splits = tuple[Mapping[str, Any], str]
"""The splits by name, and the one that is asked for; empty for any."""
_SAVED = ("state.json", "dataset_dict.json")  # files that save_to_disk writes


@dataclass(frozen=True)
class Address:
    """Where a data set is. ``config``: a configuration, a folder of the data set, or where ``guess``, maybe a split."""

    name: str
    config: str = ""
    revision: str = ""
    split: str = ""
    guess: bool = False

    @classmethod
    def parse(cls, source: str) -> Address:
        """The parts of ``hf:NAME[:CONFIG][@REVISION][#SPLIT]``; ``hf:NAME:SPLIT`` and ``hf:NAME:CONFIG:SPLIT`` mean the same.

        Raises UserError.
        """
        rest = source.removeprefix(PREFIX)
        if rest and Path(rest).exists():
            return cls(rest)
        rest, sign, split = rest.partition("#")
        revision = ""
        if not Path(rest.partition(":")[0]).exists():  # a folder may have an @ in its name
            rest, _, revision = rest.partition("@")
        name, *words = rest.split(":")
        if not name or len(words) > 2 - bool(sign) or ":" in revision:
            raise UserError(f"{source}: name a data set of the hub as {FORM}")
        if revision and Path(name).is_dir():
            raise UserError(f"{source}: a folder has no revision; {name} is read as it is")
        if len(words) == 2:
            split = words.pop()
        return cls(name, words[0] if words else "", revision, split, guess=bool(words) and not split)


def hub_rows(source: str) -> Iterator[Row]:
    """The rows of a split of a data set, see `Address`; of ``train``, or of the only split, if none is named.

    Reads the cache only, unless HF_HUB_OFFLINE is set to 0. Never runs code of a data set. Raises UserError.
    """
    return _iterate(source, Address.parse(source))


def folder_rows(path: Path) -> Iterator[Row]:
    """The rows of a folder written by `save_to_disk`, or of data files that `load_dataset` reads. Raises UserError."""
    return _iterate(str(path), Address(str(path)))


def _iterate(source: str, address: Address) -> Iterator[Row]:
    number = 0
    try:
        splits, wanted = _load_splits(address)
        split = _choose_split(source, splits, wanted)
        for values in split:
            number += 1
            yield Row(number, values)
        if not Path(address.name).exists():
            _check_complete(source, split, number)
    except UserError:
        raise
    except Exception as error:  # the library and its dependencies raise any type
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "; set HF_HUB_OFFLINE=0 to allow the download" if offline() and not Path(address.name).exists() else ""
        raise UserError(f"cannot read {source}{f' after row {number}' if number else ''}: {reason}{advice}") from error


def _load_splits(address: Address) -> Splits:
    """The splits of a folder, of files in the cache of the hub, of the cache of `datasets`, or of the hub."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # the exception repeats its messages
    name, revision = address.name, address.revision
    if Path(name).is_dir():
        if any((Path(name) / file).exists() for file in _SAVED):
            saved, wanted = datasets.load_from_disk(name), address.split or address.config
            return saved if isinstance(saved, dict) else {wanted: saved}, wanted
        return _load(name, address, streaming=True)  # reads in place, without a copy in the cache
    if not offline():
        return _load(name, address, revision=revision)
    # both read the environment at import, possibly before the variable was set
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        files = huggingface_hub.snapshot_download(name, repo_type="dataset", revision=revision or None, local_files_only=True)
        return _load(files, address, streaming=True)
    except (FileNotFoundError, ValueError):  # not there, or not with the files that are asked for
        if revision:
            _check_revision(address)
        return _load(name, address)


def _load(name: str, address: Address, streaming: bool = False, revision: str = "") -> Splits:
    """`load_dataset` with the configuration, or a folder of this name; or with neither, where it may name a split."""
    config = address.config
    choices: list[dict[str, str]] = [{"name": config}, {"data_dir": config}] if config else [{}]
    choices += [{}] if address.guess else []
    failures = []
    for choice in choices:
        try:
            splits = _stream(name, **choice) if streaming else datasets.load_dataset(name, revision=revision or None, **choice)
        except (ValueError, FileNotFoundError) as error:
            failures.append(error)
        else:
            return splits, address.split if choice or not config else config
    raise failures[0]


def _stream(folder: str, **choice: str) -> Any:
    """The splits of a folder, read a part at a time."""
    builder = datasets.load_dataset_builder(folder, **choice)
    if hasattr(builder.config, "fragment_scan_options"):  # parquet, else read by row groups, which may be the whole file
        builder.config.batch_size = 256
        builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
    return builder.as_streaming_dataset()


def _check_revision(address: Address) -> None:
    """Raise UserError unless the cache of `datasets`, whose folders are named after the commit, holds the revision."""
    found = datasets.load_dataset_builder(address.name, address.config or None).hash
    if found != address.revision:
        raise UserError(f"{PREFIX}{address.name}: the cache holds commit {found}, not revision {address.revision}")


def _check_complete(source: str, split: Any, number: int) -> None:
    """Raise UserError if the data set's card says that the split has more rows: a cache may hold some of its files only."""
    described = (split.info.splits or {}).get(str(split.split))
    if described and described.num_examples and described.num_examples > number:
        raise UserError(
            f"cannot read {source}: only {number:,} of {described.num_examples:,} rows are in the cache; download it again"
        )


def _choose_split(source: str, splits: Mapping[str, Any], wanted: str) -> Any:
    if wanted and wanted not in splits:
        raise UserError(f"{source}: unknown split or configuration {wanted!r}; splits: {', '.join(splits)}")
    if not wanted and len(splits) > 1 and "train" not in splits:
        raise UserError(f"{source} has several splits; name one with {FORM}: {', '.join(splits)}")
    return splits[wanted or ("train" if "train" in splits else next(iter(splits)))]
