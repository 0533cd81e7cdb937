"""Exporting results, not weights: cards and samples in the formats of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isoalign.core.complaint import say
from isoalign.core.errors import UserError, unknown
from isoalign.core.files import new_folder
from isoalign.core.progress import track
from isoalign.core.records import Card
from isoalign.core.store import Store
from isoalign.evaluation.card import read_cards, read_unchanged, redacted
from isoalign.evaluation.kept import stage_of
from isoalign.evaluation.samples import read_samples
from isoalign.tools.exports import every_eval_ever, hub, inspect_log, lm_eval, parquet
from isoalign.tools.exports.evidence import Evidence

Writer = Callable[[Sequence[Evidence], Path, str], None]


@dataclass(frozen=True)
class Format:
    """How results are written. ``samples``: whether the format is of samples, and is empty without; ``dataset``: whether it
    names the benchmark's data set on the hub."""

    write: Writer
    samples: bool = False
    dataset: bool = False


FORMATS = {
    "every_eval_ever": Format(every_eval_ever.write),
    "eval_results": Format(hub.write_eval_results, dataset=True),
    "model_index": Format(hub.write_model_index),
    "lm_eval": Format(lm_eval.write),
    "inspect": Format(inspect_log.write, samples=True),
    "parquet": Format(parquet.write),
}


def export_results(source: Path, store: Store, folder: Path, name: str, dataset: str = "") -> Path:
    """Write the results of a card, or of all cards of a folder, into a new folder, whole or not at all; returns the folder.

    Samples are added where the store holds them; stderr says of how many cards it does not. Raises UserError for an unknown
    format, for no cards, and for what the format needs and is not there.
    """
    if name not in FORMATS:
        raise UserError(unknown("format", name, list(FORMATS)))
    chosen = FORMATS[name]
    if chosen.dataset and dataset.count("/") != 1:
        raise UserError(f"--to {name} needs the benchmark's data set on the hub, as --dataset NAME/NAME, not {dataset!r}")
    cards = read_cards(source) if source.is_dir() else [read_unchanged(source)]
    if not cards:
        raise UserError(f"no cards in {source}; name a card, or the folder of a task, as results/local/nano")
    if again := len(cards) - len({(card.algorithm, card.seed, card.key) for card in cards}):
        raise UserError(f"{source}: {again} of {len(cards)} cards are there twice; move the copies away")
    evidence = [_evidence(redacted(card), store, chosen.samples) for card in track(cards, "reading samples", least=20)]
    if bare := sum(not one.samples for one in evidence):
        say(f"the store {store.root} does not hold the samples of {bare} of {len(cards)} cards, which are exported without")
    with new_folder(folder) as work:
        chosen.write(evidence, work, dataset)
        if not any(work.iterdir()):
            raise UserError(f"{source}: no card has a value for --to {name}: it takes gains, which the SFT base has none of")
    return folder


def _evidence(card: Card, store: Store, needed: bool) -> Evidence:
    """Raises UserError where samples that are needed are not in the store, and for those that are there and were changed."""
    held = all(name in card.parents and store.find(card.parents[name]) for name in ("samples", "scores"))
    if not (held or needed):
        return Evidence(card)
    folder = stage_of(card, store, "scores")
    samples = read_samples(stage_of(card, store, "samples"))
    return Evidence(card, tuple(samples), json.loads((folder / "scores.json").read_text(encoding="utf-8")))
