"""Rank correlation of annotator and judge with the evaluation scorers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from isoalign.core.lazy import scipy
from isoalign.data.prompts import Prompt
from isoalign.evaluation import samples
from isoalign.stages.opinions import Opinion

VERSION = 3


def make_agreement(
    work: Path, drawn: Path, scores: Path, opinions: Mapping[str, Opinion], chosen: Sequence[Prompt] = ()
) -> None:
    """Write ``correlation.json``: Spearman's rank correlation, over samples, of annotator and judge with each scorer and with
    each other. The paths are stage folders, ``chosen`` the prompts. A column of one value has no rank, and is left out."""
    by_scorer = json.loads((scores / "scores.json").read_text())
    rows = samples.read_samples(drawn)
    turns = {prompt.id: prompt.turns for prompt in chosen}
    prompts, texts = [turns.get(row.prompt_id) or row.prompt for row in rows], [row.completion for row in rows]
    columns = by_scorer | {by: each.raw(prompts, texts) for by, each in opinions.items()}
    couples = [(by, name) for by in opinions for name in by_scorer]
    couples += [("judge", "annotator")] if {"judge", "annotator"} <= opinions.keys() else [tuple(by_scorer)[:2]]
    found = {}
    for by, other in couples:
        first, second = _known(columns[by], columns[other])
        if len(set(first)) > 1 < len(set(second)):
            found[f"{by} with {other}"] = round(float(scipy.stats.spearmanr(first, second)[0]), 3)
    (work / "correlation.json").write_text(json.dumps(found))


def _known(first: list[float | None], second: list[float | None]) -> tuple[list[float], list[float]]:
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return [a for a, _ in both], [b for _, b in both]
