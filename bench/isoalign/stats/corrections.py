"""p-values corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given: the i-th of m sorted ones is max over j <= i of (m - j + 1) p_j."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, dtype=float)[order]), 1)
    return adjusted.tolist()


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Benjamini and Hochberg 1995), in the order given: the i-th of m sorted ones is min over j >= i of
    m p_j / j. Of those below a level at most this share is wrong on average, also where they depend on one another positively,
    as comparisons with one control do (Benjamini and Yekutieli 2001)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(order) / np.arange(1, len(order) + 1)
    adjusted = np.empty(len(order))
    scaled = factors * np.asarray(p_values, dtype=float)[order]
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return adjusted.tolist()
