"""What of published cards only programs read, in one compressed file of a folder, a line a card.

A published card is JSON that people and git can read. Its values by prompt, its curve and what plots need, rounded, its
metrics on parts of the prompts, its task and its digests, most of its size, are in `PACK` beside the cards, where what cards
share is there once.
"""

from __future__ import annotations

import functools
import lzma
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from isoalign.core import claims, outside_json
from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.objective import objective_of
from isoalign.core.records import Card, Estimate, PromptValues
from isoalign.core.remote import PACK
from isoalign.evaluation.spread import typical_spread

FIELDS = ("values", "curve", "families", "data")
FURTHER = ("parents", "contents", "seals", "config.task")  # in packs since 2026-11-29
PARTS = "metrics of parts"  # toxicity_mean/clean, ead@common: of some prompts, or fewer draws or tokens; since 2026-11-30
DIGITS, DECIMALS = 3, 5  # of values by prompt: significant digits, and decimals at most
FIGURES = 6  # significant digits of metrics
LARGEST = 2**29  # bytes that a pack may unfold to
MEMORY = 2**27  # bytes that unfolding may need besides


def rounded(card: Card) -> Card:
    """The card as it is published, still without new seals; one that was published with as few digits as it is."""
    if card.digits is not None and card.digits <= DIGITS:
        return card
    objective = objective_of(card)
    far = max(-objective.low, objective.high) > 1
    points = [replace(p, metrics=_metrics(p.metrics), values=_columns(p.values, far)) for p in card.curve]
    return replace(card, digits=DIGITS, metrics=_metrics(card.metrics), values=_columns(card.values, far), curve=points)


def _metrics(metrics: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {name: _estimate(e) for name, e in metrics.items()}


def _estimate(e: Estimate) -> Estimate:
    """Value and interval with `FIGURES`, or with more decimals, in steps of a thousandth of the interval or less."""
    width = e.high - e.low if e.low is not None and e.high is not None else 0.0
    finer = math.ceil(-math.log10(width / 1000)) if width > 0 else 0
    return replace(e, value=_short(e.value, finer), low=_short(e.low, finer), high=_short(e.high, finer))


def _columns(values: PromptValues, far: bool) -> PromptValues:
    """Columns with fewer digits; one of a single value, which takes no room, as it is."""
    return {name: _column(by, far) if len(set(map(repr, by.values()))) > 1 else by for name, by in values.items()}


def _column(by: dict[str, float | None], far: bool) -> dict[str, float | None]:
    """Values with `DIGITS` and `DECIMALS`, or with more decimals, in steps of a twentieth of their spread or less: scores
    about 1,500 that differ by 2, or of a hundred thousandth, would be one value else.

    ``far``: scores may lie far from 0, so the spread is the `typical_spread` if that is less. A column without one is kept as
    it is: its most frequent value takes no room.
    """
    known = [value for value in by.values() if value is not None]
    spread = statistics.pstdev(known)
    if far:
        spread = min(spread, typical_spread(known))
        if not spread:
            return by
    finer = math.ceil(-math.log10(spread / 20)) if spread else 0
    return {prompt: value if value is None else _shorter(value, finer) for prompt, value in by.items()}


def _short(value: float | None, finer: int) -> float | None:
    """``finer``: decimals that are kept in any case."""
    if not isinstance(value, float) or not value:
        return value
    return round(value, max(FIGURES - 1 - math.floor(math.log10(abs(value))), finer))


def _shorter(value: float, finer: int) -> float:
    """``finer``: decimals that are kept in any case."""
    if not isinstance(value, float):
        return value
    digits = DIGITS - 1 - math.floor(math.log10(abs(value))) if value else 0
    return round(value, max(min(digits, DECIMALS), finer))


def same_metrics(first: Card, second: Card) -> bool:
    """Whether two cards have the same metrics, as far as either was published."""

    def short(card: Card) -> dict[str, tuple[float | None, ...]]:
        numbers = {name: (e.value, e.low, e.high) for name, e in card.metrics.items()}
        return {name: tuple(None if n is None else float(f"{n:.{FIGURES}g}") for n in each) for name, each in numbers.items()}

    return short(first) == short(second)


def shift(place: str, value: object, digits: int) -> float:
    """By how much rounding may move a number of a card with values of some ``digits``, at most; ``place``: its dotted path on
    the card."""
    found = re.match(r"(?:curve\[\d+\]\.)?(metrics|values)\.", place)
    if not found or not isinstance(value, float) or not math.isfinite(value) or not value:
        return 0.0
    if found[1] == "metrics":
        return _half_a_digit(value, FIGURES)
    last = 0.5 * 10.0**-DECIMALS
    cut = 1.1 * _half_a_digit(value, digits)  # it may have been published with a digit more before
    return cut if cut > last else cut + last  # the decimals round once more what has digits beyond them


def _half_a_digit(value: float, digits: int) -> float:
    """Half a unit of the last of some significant digits."""
    return 0.5 * 10.0 ** (math.floor(math.log10(abs(value))) + 1 - digits)


def parted(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A card as JSON without what the pack has, which is named in its place, and that by its place."""
    data, packed = dict(data), {}
    if parts := {name: metric for name, metric in data["metrics"].items() if "/" in name or "@" in name}:
        data["metrics"] = {name: metric for name, metric in data["metrics"].items() if name not in parts}
        data[PARTS] = parts
    for place in (*FIELDS, *FURTHER, PARTS):
        holder, name = _holder(data, place)
        if holder is not None and name in holder:
            packed[place], holder[name] = holder[name], PACK
    return data, packed


def _holder(data: dict[str, Any], place: str) -> tuple[dict[str, Any] | None, str]:
    """The mapping within a card that a place is in, if it has one, and the place's name there."""
    field, _, name = place.rpartition(".")
    found = data.get(field) if field else data
    return (found if isinstance(found, dict) else None), name


@contextmanager
def held(folders: Iterable[Path]) -> Iterator[None]:
    """Context in which this process alone changes the published cards of folders, which are made if needed; waits for others.

    Raises UserError where they can't be written.
    """
    with ExitStack() as stack:
        for folder in sorted({folder.resolve() for folder in folders}):  # in one order, so that no two wait for each other
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(claims.claimed(folder, PACK))
            except OSError as error:
                raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
        yield


def join(data: dict[str, Any], name: str, card: Path) -> None:
    """Put what the pack beside a ``card`` holds of it, by the ``name`` of its file, into its data. Raises UserError, with the
    place of the card, where there is nothing."""
    for field in FIELDS:
        if data.get(field) != PACK:
            raise UserError(f"{card}: {field} of a published card must be {PACK!r}, the file beside it that has them")
    found = _read(card.parent, name, card)
    for place in (*FIELDS, *FURTHER, PARTS):
        holder, within = _holder(data, place)
        if holder is not None and holder.get(within) == PACK:
            holder[within] = found.get(place)
    metrics, parts = data.get("metrics"), data.get(PARTS)
    if isinstance(metrics, dict) and isinstance(parts, dict):
        data["metrics"] = dict(sorted((metrics | parts).items()))
        del data[PARTS]


def _read(folder: Path, name: str, card: Path) -> dict[str, Any]:
    path = folder / PACK
    with _told(path, f"the values by prompt of {card.name}"):
        try:
            about = path.stat()
            lines = _lines(path, about.st_mtime_ns, about.st_size)
        except FileNotFoundError:
            raise UserError(f"{card} has its values by prompt in {PACK}, which is not beside it; copy that file too") from None
        if name not in lines and card.name in lines:
            raise UserError(
                f"{card} was changed since it was written: its algorithm, seed and key are those of {name}; make it anew by "
                "its command, or move it away"
            )
        if name not in lines:
            again = "publish the card again, at once with any others that the file lacks"
            raise UserError(f"{path} does not have the values by prompt of {card.name}; {again}")
        found: dict[str, Any] = outside_json.decode(lines[name], parse_float=functools.cache(float))
        return found


def write(folder: Path, texts: Mapping[str, str], kept: set[str]) -> None:
    """Put lines into the pack of a folder, by the names of their cards' files; of its others the ``kept`` stay.

    Call it while the folder is `held`. Raises UserError for a pack that can't be read, if anything of it is to stay.
    """
    path = folder / PACK
    old = {}
    if kept - texts.keys() and path.exists():
        with _told(path, "the values by prompt of the cards beside it"):
            old = _parsed(path.read_bytes())
    lines = {name: text for name, text in old.items() if name in kept} | dict(texts)
    data = "".join(f"{text}\n" for _, text in sorted(lines.items())).encode()
    if len(data) > LARGEST:
        raise UserError(f"{path} would unfold to {len(data):,} bytes, of which {LARGEST:,} are the most")
    if lines:
        save(path, lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Context in which a pack that can't be read is one line."""
    try:
        yield
    except UserError:
        raise
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise UserError(f"cannot read {path}, which has {what}: {' '.join(str(error).split())}") from error


@functools.lru_cache(maxsize=4)
def _lines(path: Path, changed: int, size: int) -> dict[str, str]:
    """Lines by the name of their card's file; ``changed`` and ``size`` tell one content of the file from another."""
    return _parsed(path.read_bytes())


def _parsed(packed: bytes) -> dict[str, str]:
    return {_card_of(line): line for line in _unfolded(packed).decode().splitlines()}


def _card_of(line: str) -> str:
    """The name of the card's file that a line is of."""
    start, comma, _ = line.partition(", ")
    name = outside_json.decode(start + "}").get("card") if comma and start.startswith("{") else None
    if not isinstance(name, str):
        raise ValueError(f"the line that begins with {line[:20]!r} is of no card")
    return name


def _unfolded(packed: bytes) -> bytes:
    """What was compressed, unless it is too large."""
    machine = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
    data = machine.decompress(packed, max_length=LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it unfolds to more than {LARGEST:,} bytes")
    if not machine.eof:
        raise EOFError("it is cut short")
    if machine.unused_data:
        raise ValueError("more follows its end")
    return data
