"""How the settings of a card were found, as its notes tell it: by tuning, by default or by hand."""

import re

from isoalign.core.records import Card

BY_HAND, DEFAULT, TUNED = "by hand", "default", "tuned"
OTHER_BASE = f"{DEFAULT}; what tuning chose is for another base"


def track(card: Card) -> str:
    """The track of a card: tuned, default or by hand (of cards before November 2026 that may be default); empty for none."""
    told = str(card.notes.get("tuning") or "")
    return next((kind for kind in (BY_HAND, DEFAULT) if told.startswith(kind)), TUNED if told else "")


def tuning(card: Card) -> str:
    """How the settings of a card were found, in a few words; empty if it is not told."""
    return re.sub(",? on [a-z ]+(, by [a-z_]+)?", "", str(card.notes.get("tuning") or ""))
