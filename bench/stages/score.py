"""Scores: the evaluation scorers read the samples, then every metric is a function of what they said."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config import EvaluationConfig
from bench.machine import device
from bench.stages import sample
from bench.types import Estimate

if TYPE_CHECKING:
    from bench.metrics.evidence import Evidence

VERSION = 1


def make(work: Path, samples: Path, base: Path | None, config: EvaluationConfig, vocabulary: int) -> None:
    """Write ``scores.json`` (what the models said of each completion), ``metrics.json``, ``flags.json``.

    ``base`` is the score stage of the SFT row, for paired reductions and the gates; None when this is it.
    """
    import numpy as np

    from bench import metrics
    from bench.metrics.quality import gates
    from bench.models.embed import embed
    from bench.models.scorers import load_scorer

    drawn, _ = sample.read(samples)
    texts = [row.completion for row in drawn]
    scores = {name: load_scorer(name, device())(texts) for name in (config.scorer, config.second_scorer)}
    (work / "scores.json").write_text(json.dumps(scores))
    np.save(work / "embeddings.npy", embed(texts, device=device()).cpu().numpy().astype(np.float16))
    (work / "source.json").write_text(json.dumps({"samples": samples.name, "base": base.name if base else None}))
    evidence = read(work, config, vocabulary)
    found = metrics.measure_all(evidence)
    reference = metrics_of(base) if base else found
    (work / "metrics.json").write_text(json.dumps({name: asdict(value) for name, value in found.items()}, indent=1))
    flags = [f"gate: {line}" for line in gates(found, reference)] if base else []
    (work / "flags.json").write_text(json.dumps(flags))
    (work / "values.json").write_text(json.dumps(metrics.values_all(evidence)))
    (work / "versions.json").write_text(json.dumps(metrics.versions()))


def read(folder: Path, config: EvaluationConfig, vocabulary: int) -> Evidence:
    """The evidence of a scored run, its SFT row's beside it; stages are neighbours in the store."""
    import numpy as np

    from bench.metrics.evidence import Evidence

    source = json.loads((folder / "source.json").read_text())
    samples, pairs = sample.read(folder.parent / source["samples"])
    return Evidence(
        samples=samples,
        pairs=pairs,
        scores=json.loads((folder / "scores.json").read_text()),
        embeddings=np.load(folder / "embeddings.npy").astype(np.float32),
        base=read(folder.parent / source["base"], config, vocabulary) if source["base"] else None,
        main_scorer=config.scorer,
        second_scorer=config.second_scorer,
        vocabulary=vocabulary,
    )


def metrics_of(folder: Path) -> dict[str, Estimate]:
    """The metrics of a score stage."""
    rows = json.loads((folder / "metrics.json").read_text())
    return {name: Estimate(**row) for name, row in rows.items()}
