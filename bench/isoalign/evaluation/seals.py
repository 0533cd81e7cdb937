"""Seals: a digest of each entry of a card, by which a change since it was written is found and named."""

from __future__ import annotations

from dataclasses import replace

from isoalign.core.records import Card
from isoalign.core.store import digest


def seals_of(card: Card) -> dict[str, str]:
    """Name to seal of every field, and of every entry of fields that are mappings or lists; of a published card of the fields
    alone, as it shall be small."""
    if card.digits is not None:
        return {name: seal(value) for name, value in vars(card).items() if name != "seals"}
    seals: dict[str, str] = {}
    for name, value in vars(replace(card, seals={})).items():
        if name == "digits":  # of a published card
            continue
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        seals |= {f"{name}.{key}": seal(item) for key, item in entries} or {name: seal(value)}
    del seals["seals"]
    return seals


def broken_seals(card: Card) -> list[str]:
    """The names of entries that do not agree with their seals, or have none; nothing for a card of a version without seals."""
    if not card.seals:
        return ["seals"] if card.contents or card.values else []
    # a field that came later, and is empty on this card, has no seal
    seals = {name: each for name, each in seals_of(card).items() if name in card.seals or getattr(card, name, True)}
    return [name for name in sorted(seals.keys() | card.seals.keys()) if seals.get(name) != card.seals.get(name)]


def seal(value: object) -> str:
    """The first eight hex digits of the value's digest."""
    return digest(value)[:8]
