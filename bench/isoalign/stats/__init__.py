"""Intervals and comparisons over prompts, seeds and tasks, on numpy and scipy alone."""

from isoalign.stats.aggregates import Runs, improvement, iqm, stratified
from isoalign.stats.comparisons import (
    Comparison,
    Parts,
    Seeds,
    compare,
    drawn_error,
    hierarchical,
    holm,
    parts_of,
    ranks,
    resolvable,
    tables_of,
)
from isoalign.stats.intervals import (
    LEVEL,
    RESAMPLES,
    SEED,
    VERSION,
    Array,
    Values,
    bca,
    difference,
    jackknife,
    mean,
    ratio,
    relative_reduction,
    resample,
)

__all__ = [
    "LEVEL", "RESAMPLES", "SEED", "VERSION", "Array", "Comparison", "Parts", "Runs", "Seeds", "Values", "bca", "compare",
    "difference", "drawn_error", "hierarchical", "holm", "improvement", "iqm", "jackknife", "mean", "parts_of", "ranks",
    "ratio", "relative_reduction", "resample", "resolvable", "stratified", "tables_of",
]  # fmt: skip
