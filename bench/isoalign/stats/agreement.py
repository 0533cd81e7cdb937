"""Agreement between annotators: the share of equal labels, Cohen's and Fleiss' kappa, and Krippendorff's alpha.

A table has a row for each item and a column for each annotator; labels are nominal, and a missing rating is None or NaN.
Intervals are over items, by deleting groups of them (`stats.jackknife`); annotators are taken as fixed: intervals do not
cover other annotators.

What is undefined is None: agreement of one annotator, of annotators who share no item, and chance-corrected agreement if all
labels are equal, which is 0 / 0. An interval is also None if a statistic is undefined without one of the groups of items.

With two labels at equal rates, and annotators who each flip the true one at rate e, the three corrected statistics are
(1 - 2 e)^2. Annotators may agree and be wrong together: agreement is not accuracy, for which see `consensus.calibrate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.lazy import krippendorff, statsmodels
from isoalign.core.records import Estimate

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def agreement(labels: Sequence[Sequence[float | None]] | Floats) -> dict[str, Estimate]:
    """Four statistics of a table [items, annotators]; ``n`` counts the items that each rests on, ``missing`` the others.

    ``agreement``: share of equal pairs among all pairs of labels of the same item. ``cohen_kappa``: mean over pairs of
    annotators (Light 1971) of Cohen's kappa (1960); pairs for which it is undefined are left out. ``fleiss_kappa`` (1971), by
    statsmodels: it needs equally many labels per item, so it is computed on items with the most common number (the larger of
    two equally common ones). ``krippendorff_alpha``, by krippendorff: nominal (Hayes and Krippendorff 2007), on all items
    with two labels or more. Raises UserError if ``labels`` is not a table.
    """
    cells = np.array(labels, dtype=float)
    if cells.ndim != 2:
        raise UserError(f"agreement needs a table of items and annotators, not an array of {cells.ndim} dimension(s)")
    given = cells[:, :, None] == np.unique(cells[np.isfinite(cells)])  # [items, annotators, labels]
    given = given[given.sum((1, 2)) >= 2]
    counts = given.sum(1)  # [items, labels]
    rated = counts.sum(1)
    even = rated == _commonest(rated)

    def statistics(kept: Ints) -> list[float]:
        own = counts[kept]
        return [_equal(own), _cohen(given[kept]), _fleiss(own[even[kept]]), _alpha(own)]

    names = ("agreement", "cohen_kappa", "fleiss_kappa", "krippendorff_alpha")
    sizes = (len(given), len(given), int(even.sum()), len(given))
    estimates = stats.jackknife(statistics, len(given))
    return {
        name: replace(_within(estimate), n=size, missing=len(cells) - size)
        for name, estimate, size in zip(names, estimates, sizes, strict=True)
    }


def _equal(counts: Ints) -> float:
    """Share of equal pairs among the pairs of labels of the same item."""
    pairs = counts.sum(1) * (counts.sum(1) - 1)
    return float((counts * (counts - 1)).sum() / pairs.sum()) if pairs.any() else np.nan


def _cohen(given: Bools) -> float:
    """Mean over pairs of annotators of (observed - expected) / (1 - expected); ``given`` [items, annotators, labels].

    All tables come from one matrix product: 25 annotators have 300 pairs, for each of which scikit-learn takes 1 ms.
    """
    items, annotators, labels = given.shape
    flat = given.reshape(items, annotators * labels).astype(float)
    tables = (flat.T @ flat).reshape(annotators, labels, annotators, labels).swapaxes(1, 2)[np.triu_indices(annotators, 1)]
    shared = tables.sum((1, 2))
    tables = tables[shared > 0] / shared[shared > 0, None, None]
    observed = np.trace(tables, axis1=1, axis2=2)
    expected = (tables.sum(1) * tables.sum(2)).sum(1)
    known = expected < 1 - 1e-12  # 1 up to rounding: both annotators always gave one label
    return float(np.mean((observed - expected)[known] / (1 - expected[known]))) if known.any() else np.nan


def _fleiss(counts: Ints) -> float:
    """Fleiss' kappa of items with equally many labels."""
    return float(statsmodels.stats.inter_rater.fleiss_kappa(counts)) if _varied(counts) else np.nan


def _alpha(counts: Ints) -> float:
    """Krippendorff's alpha of nominal labels."""
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")) if _varied(counts) else np.nan


def _varied(counts: Ints) -> bool:
    """Whether there are different labels, so that some disagreement is expected by chance."""
    return int((counts.sum(0) > 0).sum()) > 1


def _commonest(numbers: Ints) -> int:
    """The most frequent number, the larger of two equally frequent ones; 0 for no numbers."""
    return int(np.flatnonzero((times := np.bincount(numbers, minlength=1)) == times.max())[-1])


def _within(estimate: Estimate) -> Estimate:
    """The estimate with bounds clipped to [-1, 1], which the jackknife's symmetric bounds may exceed."""
    low, high = (None if bound is None else min(max(bound, -1.0), 1.0) for bound in (estimate.low, estimate.high))
    return replace(estimate, low=low, high=high)
