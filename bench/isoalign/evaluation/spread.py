"""How far apart the values of a column lie, for the digits that it keeps."""

from __future__ import annotations

import statistics
from collections.abc import Collection


def typical_spread(values: Collection[float]) -> float:
    """The median distance from the median, which a few values that lie elsewhere, as scores of empty answers, do not change.

    0 where half of the values or more are one value, or differ from it by rounding.
    """
    middle = statistics.median(values)
    spread = statistics.median(abs(value - middle) for value in values)
    return spread if spread > 1e-12 * abs(middle) else 0.0
