"""Result cards on disk: one JSON file per run, checked in full when it is read, without secrets."""

import dataclasses
import functools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from isoalign.core import outside_json
from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.json_output import to_lines
from isoalign.core.progress import track
from isoalign.core.records import Card, Flag, PromptValues
from isoalign.core.redaction import redact
from isoalign.core.store import digest
from isoalign.core.typed import finite, parse
from isoalign.evaluation import packs
from isoalign.evaluation.seals import broken_seals, seal, seals_of

FORMAT, PUBLISHED = 4, 5
READS = (1, 2, 3, 4, 5)
"""1 has no values by prompt, curve and seals; up to 2 flags were lines of text; up to 3 nothing was shared; of 5, which is
published, a part is in the pack beside it."""
LONGEST_NAME = 200  # characters, and bytes in the name of a file
MANY = 200  # cards of which a bar says how far reading them is
LINES = ("metrics", "flags", "data", "values", "curve", "families", "seals")  # fields whose entries have a line each
DENSE = ("values", "curve")
FAMILY = "metric "  # prefix of the versions of families of metrics on a card
CODE = " code"  # suffix of the digest of a plug-in's code among the versions; older cards have none
INNER: dict[str, Any] = {
    "notes.flags": list[Flag],
    "training.reported": dict[str, float | None],
    "training.reported_error": dict[str, float | None],
    "data.calibration.reliability": list[dict[str, float | None]],
}
"""What boards and reports read within the mappings of a card, and of which type it is."""


def write_card(card: Card, folder: Path) -> Path:
    """Write a card into a folder, which is created if needed, under its ``file_name``; returns the path.

    Raises UserError if the folder can't be written, a value is not finite or a name is too long; no partial file is left.
    """
    check_row_name(card.algorithm)
    path = Path(folder) / file_name(card)
    _check_names(card, path)
    save(path, to_json(card, path))
    return path


def read_card(path: Path) -> Card:
    """The card in a file. Raises UserError that names the file and the field which is missing or wrong."""
    path = Path(path)
    try:
        # a number that a card repeats is kept once: half of them are
        data = outside_json.decode(path.read_text(encoding="utf-8"), parse_float=functools.cache(float))
    except OSError as error:
        raise UserError(f"cannot read the card {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a card: not JSON ({error})") from error
    if not isinstance(data, dict) or "format" not in data:
        raise UserError(f'{path} is not a card: it has no "format"')
    number = data.pop("format")
    if isinstance(number, bool) or number not in READS:
        raise UserError(f"{path}: unknown card format {number!r}; this version of isoalign reads formats 1 to {PUBLISHED}")
    if number < 3:
        _upgrade_flags(data, path)
    if number == PUBLISHED:
        _unfold(data, path)
    points = data["curve"] if isinstance(data.get("curve"), list) else []
    lists: list[list[str]] = []
    for holder, where in [(data, "values"), *((p, f"curve[{i}].values") for i, p in enumerate(points))]:
        if isinstance(holder, dict) and "values" in holder:
            holder["values"] = _unpack(holder["values"], lists, where, path)
    card: Card = parse(data, Card, "", path)
    _check_names(card, path)
    for place, hint in INNER.items():
        _check_inner(card, place.split("."), hint, path)
    if card.metered or card.spent:
        parse(card.budget.get("flops"), float, "budget.flops", path)
        _check_bill(card.spent, path)
    return card


def check_row_name(name: str) -> None:
    """Raise UserError for a name that a row of a board can't have: no file could be named after it."""
    longest = max(len(name), len(os.fsencode(_safe(name))))
    if longest > LONGEST_NAME:
        raise UserError(f"the name {name[:20]}... has {longest:,} characters or bytes, of which {LONGEST_NAME} are the most")


def _check_names(card: Card, path: Path) -> None:
    for name in ("task", "algorithm", "key"):
        if (length := len(getattr(card, name))) > LONGEST_NAME:
            raise UserError(f"{path}: {name} has {length:,} characters, of which {LONGEST_NAME} are the most")


def published(card: Card) -> Card:
    """The card with fewer digits and a seal for each field, as `published_texts` writes it."""
    small = packs.rounded(card)
    return card if small is card else sealed(small)


def published_texts(card: Card, path: Path | str = "card") -> tuple[str, str]:
    """The JSON of a `published` card, and its line in the pack of its folder."""
    data = json.loads(to_json(card, path)) | {"format": PUBLISHED}
    data["metrics"] = {
        name: [e["value"], e["low"], e["high"], e["n"], *([e["missing"]] if e["missing"] else [])]
        for name, e in data["metrics"].items()
    }
    data, packed = packs.parted(data)
    line = {"card": file_name(card)} | packed
    return to_lines(data, (*LINES, "config"), DENSE), json.dumps(line, separators=(",", ":")).replace(",", ", ", 1)


def _unfold(data: dict[str, Any], path: Path) -> None:
    """Put what the pack has of a published card into it, and names to the numbers of its metrics."""
    for name in ("algorithm", "key"):
        parse(data.get(name), str, name, path)
    name = f"{_safe(data['algorithm'])}-s{parse(data.get('seed'), int, 'seed', path)}-{_safe(data['key'][:8])}.json"
    packs.join(data, name, path)
    names = ("value", "low", "high", "n", "missing")
    for name, numbers in parse(data.get("metrics"), dict[str, list[Any]], "metrics", path).items():
        if len(numbers) not in (4, 5):
            raise UserError(f"{path}: metrics.{name} must be [value, low, high, n] or [value, low, high, n, missing]")
        data["metrics"][name] = dict(zip(names, numbers, strict=False))


def _check_inner(card: Card, place: list[str], hint: Any, path: Path) -> None:
    """Check what a mapping of the card holds at some place, if anything."""
    value: Any = getattr(card, place[0])
    for depth, name in enumerate(place[1:], 1):
        if name not in parse(value, dict[str, Any], ".".join(place[:depth]), path):
            return
        value = value[name]
    parse(value, hint, ".".join(place), path)


def _upgrade_flags(data: dict[str, Any], path: Path) -> None:
    """Turn the flags of a card of format 1 or 2, which are lines of text, into those of format 3.

    A seal that matches its entry is replaced by the seal of the new entry; one that does not match is kept, and does not
    match the new entry either.
    """
    seals = data["seals"] = parse(data.get("seals", {}), dict[str, str], "seals", path)
    notes = data["notes"] = parse(data.get("notes", {}), dict[str, Any], "notes", path)
    lines = parse(data.get("flags", []), list[str], "flags", path)
    data["flags"] = list(map(_flag_of, lines))
    for i, line in enumerate(lines):
        _reseal(seals, f"flags.{i}", line, f"flags.{i}", data["flags"][i])
    if "warnings" in notes:
        lines = parse(notes.pop("warnings"), list[str], "notes.warnings", path)
        notes["flags"] = list(map(_flag_of, lines))
        _reseal(seals, "notes.warnings", lines, "notes.flags", notes["flags"])


def _flag_of(line: str) -> dict[str, str]:
    kind, _, text = line.partition(": ")
    return {"kind": kind, "text": text} if kind == "gate" else {"kind": "warning", "text": line}


def _reseal(seals: dict[str, Any], old_name: str, old: Any, name: str, new: Any) -> None:
    if old_name in seals:
        kept = seals.pop(old_name)
        seals[name] = seal(new) if kept == seal(old) else kept


def _check_bill(spent: dict[str, Any], path: Path) -> None:
    """Check ``spent`` as a meter writes it: ``flops``, counts (or counts by source) of the other limits, and its items."""
    parse(spent.get("flops"), float, "spent.flops", path)
    for name in spent.keys() - {"items"}:
        parse(spent[name], dict[str, float] if isinstance(spent[name], dict) else float | None, f"spent.{name}", path)
    for i, item in enumerate(parse(spent.get("items", []), list[dict[str, Any]], "spent.items", path)):
        parse(item.get("role"), str, f"spent.items[{i}].role", path)
        parse(item.get("flops"), float, f"spent.items[{i}].flops", path)


def read_unchanged(path: Path) -> Card:
    """The card in a file. Raises UserError as `read_card` does, and for one that was changed since it was written."""
    card = read_card(path)
    if broken := broken_seals(card):
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise UserError(
            f"{path} was changed since it was written: {broken[0]}{more}; `isoalign verify` says what; make "
            "it anew by its command, or move it away"
        )
    return card


def read_cards(folder: Path) -> list[Card]:
    """Every card of a folder, by file name; none if there is no folder. Raises UserError for one that was changed."""
    return [read_unchanged(path) for path in track(sorted(Path(folder).glob("*.json")), "reading cards", least=MANY)]


def package_of(card: Card) -> str:
    """The package that a card's algorithm comes from, without its version; empty for isoalign."""
    packages = card.notes.get("packages")
    return str(packages.get("algorithm", "")).partition(" ")[0] if isinstance(packages, dict) else ""


def file_name(card: Card) -> str:
    """``{algorithm}-s{seed}-{key[:8]}.json``, with characters that are unsafe in file names replaced."""
    return f"{_safe(card.algorithm)}-s{card.seed}-{_safe(card.key[:8])}.json"


def to_json(card: Card, path: Path | str = "card") -> str:
    """A card as JSON, without secrets. Raises UserError that names the field which JSON can't hold."""
    card = redacted(card)
    brief = dataclasses.replace(card, values={}, curve=[])  # asdict copies, which takes most of the time of values by prompt
    points = [dataclasses.asdict(dataclasses.replace(point, values={})) | {"values": point.values} for point in card.curve]
    data: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(brief)} | {"values": card.values, "curve": points}
    if card.digits is None:
        del data["digits"]  # of published cards alone
    finite(data, "", path)
    lists: list[list[str]] = []
    data["values"] = _pack(data["values"], lists)
    data["curve"] = [point | {"values": _pack(point["values"], lists)} for point in data["curve"]]
    try:
        return to_lines(data, LINES, DENSE)
    except TypeError as error:
        raise UserError(f"{path}: a card can hold JSON only: {error}") from error


def _pack(values: PromptValues, lists: list[list[str]]) -> list[dict[str, Any]]:
    """Values by prompt as columns that share a list of prompts, a seventh of the size. A list that is among the ``lists`` of
    this card before it is its place there; a column of one value is this value."""
    groups: dict[tuple[str, ...], dict[str, list[float | None]]] = {}
    for name, by in values.items():
        groups.setdefault(tuple(by), {})[name] = list(by.values())
    return [
        {"prompts": _placed(list(prompts), lists), "columns": {name: _shortened(column) for name, column in columns.items()}}
        for prompts, columns in groups.items()
    ]


def _placed(prompts: list[str], lists: list[list[str]]) -> list[str] | int:
    if prompts in lists:
        return lists.index(prompts)
    lists.append(prompts)
    return prompts


def _shortened(column: list[float | None]) -> Any:
    return column[0] if len(set(map(repr, column))) == 1 else column  # 0 is not 0.0 to a seal


def _unpack(groups: Any, lists: list[list[str]], where: str, path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for i, group in enumerate(parse(groups, list[dict[str, Any]], where, path)):
        place = group.get("prompts")
        if type(place) is int and 0 <= place < len(lists):
            prompts = lists[place]
        else:
            prompts = list(map(sys.intern, parse(place, list[str], f"{where}[{i}].prompts", path)))
            lists.append(prompts)
        for name, packed in parse(group.get("columns"), dict[str, Any], f"{where}[{i}].columns", path).items():
            column = packed if isinstance(packed, list) else [packed] * len(prompts)
            if len(column) != len(prompts):
                raise UserError(f"{path}: {where}: {name} has {len(column)} values for {len(prompts)} prompts")
            values[name] = dict(zip(prompts, column, strict=True))
    return dict(sorted(values.items()))


def key_of(card: Card) -> str:
    """The key that follows from a card's content: the scores behind it, the method's settings, seed, budget and evaluation."""
    card = redacted(card)
    scores = "scores" if "scores" in card.parents else "readings"  # as cards of formats 1 and 2 call them
    evaluation = (card.config.get("task") or {}).get("evaluation")
    if isinstance(evaluation, dict):  # the stage of the win rate stands for its settings, and for none where there is none
        evaluation = {name: value for name, value in evaluation.items() if name != "win_rate"}
    return digest(
        {
            scores: card.parents.get(scores, ""), "algorithm": card.config.get("algorithm"), "seed": card.seed,
            "budget": card.budget, "evaluation": evaluation,
        } | ({} if card.metered else {"name": card.algorithm})
        | ({"win_rate": card.parents["win_rate"]} if "win_rate" in card.parents else {})
    )  # fmt: skip


def sealed(card: Card) -> Card:
    """The card, without secrets, with a digest of each of its entries, by which `isoalign verify` finds and names a change."""
    card = redacted(card)
    return dataclasses.replace(card, seals=seals_of(card))


def redacted(card: Card) -> Card:
    """The card with every secret of its command and configuration replaced by ``[redacted]``."""
    return dataclasses.replace(card, command=redact(card.command), config=redact(card.config))


def _safe(name: str) -> str:
    return re.sub(r"[^\w.\-]+|^\.+", "-", name)
