"""Intervals and comparisons over prompts, seeds and tasks, on numpy and scipy alone."""

from isoalign.stats.aggregates import Runs, improvement, iqm, stratified
from isoalign.stats.comparisons import (
    Seeds,
    compare,
    each_hierarchical,
    hierarchical,
    tables_of,
)
from isoalign.stats.corrections import benjamini_hochberg, holm
from isoalign.stats.intervals import (
    LEVEL,
    RESAMPLES,
    SEED,
    VERSION,
    Array,
    Values,
    bca,
    difference,
    exact_ends,
    exact_gain,
    jackknife,
    mean,
    ratio,
    relative_reduction,
    resample,
    share_difference,
)
from isoalign.stats.pairs import Comparison
from isoalign.stats.ranks import ranks, resolvable
from isoalign.stats.variance import Parts, components, drawn_error, parts_of

__all__ = [
    "LEVEL", "RESAMPLES", "SEED", "VERSION", "Array", "Comparison", "Parts", "Runs", "Seeds", "Values", "bca",
    "benjamini_hochberg", "compare", "components", "difference", "drawn_error", "each_hierarchical", "exact_ends",
    "exact_gain", "hierarchical", "holm", "improvement", "iqm", "jackknife", "mean", "parts_of", "ranks", "ratio",
    "relative_reduction", "resample", "resolvable", "share_difference", "stratified", "tables_of",
]  # fmt: skip
