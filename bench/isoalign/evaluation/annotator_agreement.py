"""Rank correlation of annotator and judge with the evaluation scorers."""

from __future__ import annotations

import json
from pathlib import Path

from isoalign.core.lazy import scipy
from isoalign.evaluation import samples
from isoalign.stages import pairs

VERSION = 3


def make_agreement(work: Path, drawn: Path, scores: Path, annotators: Path) -> None:
    """Write ``correlation.json``: Spearman's rank correlation, over samples, of annotator and judge with each scorer and with
    each other, where neither is constant. The paths are stage folders."""
    by_scorer = json.loads((scores / "scores.json").read_text())
    texts = [row.completion for row in samples.read_samples(drawn)]
    columns = by_scorer | {by: pairs.classifier_of(annotators, by)(texts).tolist() for by in pairs.SOURCES}
    varied = {name for name, column in columns.items() if len(set(column) - {None}) > 1}
    couples = [*((by, name) for by in pairs.SOURCES for name in by_scorer), ("judge", "annotator")]
    rows = {
        f"{by} with {other}": round(float(scipy.stats.spearmanr(columns[by], columns[other], nan_policy="omit")[0]), 3)
        for by, other in couples
        if {by, other} <= varied
    }
    (work / "correlation.json").write_text(json.dumps(rows))
