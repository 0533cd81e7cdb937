"""What the store keeps of the run behind a card: its stages, its samples with their scores, and the log of its training."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows
from isoalign.core.manifests import content
from isoalign.core.records import Card
from isoalign.core.store import Store

NOT_HELD = "not in the store"
CHANGED = "the store holds another than the card was made from"


@dataclass(frozen=True)
class Kept:
    """Samples as rows of ``samples.jsonl``; their ``scores`` by scorer, aligned with them; the ``log`` of training, with a row
    of scalars for each step. ``lacking``: for what of these is not there, by name, why."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)


def read_kept(card: Card, store: Store | None) -> Kept:
    """What the store keeps of a card's run; what it does not is named, so a report of cards alone is one too."""
    folders: dict[str, Path] = {}
    lacking: dict[str, str] = {}
    for name in ("samples", "scores", "train"):
        key = card.parents.get(name)
        if store is None or not key or store.find(key) is None:
            lacking[name] = NOT_HELD
            continue
        try:
            folders[name] = stage_of(card, store, name)
        except UserError:  # which names a path of this machine, and a report is for others too
            lacking[name] = CHANGED
    samples = read_rows(folders["samples"] / "samples.jsonl") if "samples" in folders else []
    scores = json.loads((folders["scores"] / "scores.json").read_text(encoding="utf-8")) if "scores" in folders else {}
    log = read_rows(folders["train"] / "log.jsonl") if "train" in folders else []
    return Kept(samples, {name: column for name, column in scores.items() if len(column) == len(samples)}, log, lacking)


def stage_of(card: Card, store: Store, name: str) -> Path:
    """A stage behind a card. Raises UserError where the store does not hold it."""
    key = card.parents.get(name)
    folder = store.find(key) if key else None
    if folder is None:
        what = f"{name} ({key or 'no key on the card'})"
        raise UserError(
            f"{card.algorithm} seed {card.seed}: the store {store.root} does not hold its {what}; "
            "name the store of the run with --store, or run it again by the card's command"
        )
    if wrong := store.damage(folder):
        raise UserError(
            f"{card.algorithm} seed {card.seed}: {folder.name} in the store {store.root} is not as it was made ({wrong}); "
            "run it again by the card's command, which makes it anew"
        )
    if card.contents.get(name, content(folder)) != content(folder):
        raise UserError(
            f"{card.algorithm} seed {card.seed}: {folder.name} in the store {store.root} is another than the card was "
            "made from; run it again by the card's command, which writes the card anew"
        )
    return folder
