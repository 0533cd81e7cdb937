"""Names of rows: the algorithm's, with what tells rows of one algorithm apart."""

import json
from collections import defaultdict
from typing import Any

from isoalign.core.records import Card
from isoalign.evaluation.card import package_of
from isoalign.report.board.rows import flatten, settings_of


def distinct_names(cards: list[Card]) -> list[str]:
    """A name for each card: its algorithm's, with its package where several have one of that name, and with the settings in
    which configurations of one algorithm differ."""
    flat = [flatten(json.loads(settings_of(card))) for card in cards]
    twins: dict[str, list[dict[str, Any]]] = defaultdict(list)
    packages: dict[str, set[str]] = defaultdict(set)
    for card, settings in zip(cards, flat, strict=True):
        twins[card.algorithm].append(settings)
        packages[card.algorithm].add(package_of(card))
    varied = {name: _varied(own) for name, own in twins.items()}
    names = []
    for card, settings in zip(cards, flat, strict=True):
        keys, of = varied[card.algorithm], package_of(card)
        shown = ", ".join(f"{key.removeprefix('algorithm.')}={settings[key]}" for key in keys if key in settings)
        name = f"{card.algorithm} of {of}" if of and len(packages[card.algorithm]) > 1 else card.algorithm
        names.append(f"{name} ({shown or 'default'})" if keys else name)
    return names


def _varied(twins: list[dict[str, Any]]) -> list[str]:
    """The settings in which configurations differ."""
    keys = sorted({key for twin in twins for key in twin})
    return [key for key in keys if len({repr(twin[key]) if key in twin else "" for twin in twins}) > 1]
