"""What of published cards only programs read, in one compressed file of a folder, a line a card.

A published card is JSON that people and git can read. Its values by prompt, its curve and what plots need, three quarters of
its size, are rounded and kept in `PACK` beside the cards, where what cards share is there once. No mean moves by over a ten
thousandth; bounds of intervals move by up to a hundredth of their width, as with other resamples.
"""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from isoalign.core import outside_json
from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.records import Card, Estimate, PromptValues
from isoalign.core.remote import PACK

FIELDS = ("values", "curve", "families", "data")
DIGITS, DECIMALS = 4, 5  # of values by prompt: significant digits, and decimals at most
FIGURES = 6  # significant digits of metrics


def rounded(card: Card) -> Card:
    """The card as it is published, still without new seals; one that was published before as it is."""
    if card.digits is not None:
        return card
    points = [replace(p, metrics=_metrics(p.metrics), values=_columns(p.values)) for p in card.curve]
    return replace(card, digits=DIGITS, metrics=_metrics(card.metrics), values=_columns(card.values), curve=points)


def _metrics(metrics: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {name: replace(e, value=_short(e.value), low=_short(e.low), high=_short(e.high)) for name, e in metrics.items()}


def _columns(values: PromptValues) -> PromptValues:
    """Columns with fewer digits; one of a single value, which takes no room, as it is."""
    return {
        name: {p: v if v is None else _shorter(v) for p, v in by.items()} if len(set(map(repr, by.values()))) > 1 else by
        for name, by in values.items()
    }  # fmt: skip


def _short(value: float | None) -> float | None:
    return float(f"{value:.{FIGURES}g}") if isinstance(value, float) else value


def _shorter(value: float) -> float:
    return round(float(f"{value:.{DIGITS}g}"), DECIMALS) if isinstance(value, float) else value


def read(folder: Path, name: str, card: Path) -> dict[str, Any]:
    """The fields of a card that the pack of its folder holds, by the name of its file. Raises UserError, with the place of the
    ``card``, where there are none."""
    path = folder / PACK
    try:
        about = path.stat()
        lines = _lines(path, about.st_mtime_ns, about.st_size)
    except FileNotFoundError:
        raise UserError(f"{card} has its values by prompt in {PACK}, which is not beside it; copy that file too") from None
    except (OSError, EOFError, ValueError, lzma.LZMAError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}, which has the values by prompt of {card.name}: {error}") from error
    if name not in lines:
        raise UserError(f"{path} does not have the values by prompt of {card.name}; publish the card again")
    found = outside_json.decode(lines[name], parse_float=functools.cache(float))
    return {field: found.get(field) for field in FIELDS}


def write(folder: Path, texts: Mapping[str, str], kept: set[str]) -> None:
    """Put lines into the pack of a folder, by the names of their cards' files; of its others the ``kept`` stay."""
    path = folder / PACK
    old = {}
    if path.exists():
        about = path.stat()
        old = _lines(path, about.st_mtime_ns, about.st_size)
    lines = {name: text for name, text in old.items() if name in kept} | dict(texts)
    data = "".join(f"{text}\n" for _, text in sorted(lines.items())).encode()
    if lines:
        save(path, lzma.compress(data))
    else:
        path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=4)
def _lines(path: Path, changed: int, size: int) -> dict[str, str]:
    """Lines by the name of their card's file; ``changed`` and ``size`` tell one content of the file from another."""
    lines = lzma.decompress(path.read_bytes()).decode().splitlines()
    return {json.loads(line[: line.index(", ")] + "}")["card"]: line for line in lines}
