"""What comparisons show of the order of methods: the ranks that each may have, and the differences that could be resolved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import nctdtr, nctdtrinc, stdtrit

from isoalign.stats.intervals import LEVEL, Array
from isoalign.stats.pairs import Comparison

NOMINAL = 0.84  # power, if errors were known, at which it is 80%
HALVINGS = 12  # of an interval of differences, to the one with that power
FAR = 10  # times what must be exceeded: with that noncentrality a t misses it once in 10^20 times or less, and power is 1


def ranks(names: Sequence[str], better: Callable[[str, str], bool]) -> dict[str, tuple[int, int]]:
    """The first and last rank that each may have: 1 + the number that are ``better``, and n - the number it is better than.

    If ``better`` is wrong about any pair with a probability of at most 5%, as after Holm's correction, all spans together
    contain the true ranks with 95% (Mogstad et al. 2024, "Inference for Ranks", section 3).
    """
    return {
        name: (1 + sum(better(other, name) for other in others), len(names) - sum(better(name, other) for other in others))
        for name in names
        for others in [[other for other in names if other != name]]
    }


def resolvable(comparisons: Iterable[Comparison]) -> float | None:
    """The smallest difference that these comparisons could resolve: found with 80% power at Holm's strictest step, on average
    over the pairs.

    For m pairs, each with standard error e and d degrees of freedom, a difference delta is found where a t with d degrees of
    freedom and noncentrality delta / e lies above t(1 - .05 / (2 m), d). The errors are estimates, and a few of them: what
    should be found with `NOMINAL` power is found with 80% in simulations (tests/test_validity.py). None if nothing could be
    compared.
    """
    tested = [(c.error, c.freedom) for c in comparisons if c.error and c.freedom is not None]
    if not tested:
        return None
    error, freedom = (np.array(column) for column in zip(*tested, strict=True))
    least = stdtrit(freedom, 1 - (1 - LEVEL) / (2 * len(tested)))
    ends = _ends(error, freedom)
    each = nctdtrinc(freedom[ends], 1 - NOMINAL, least[ends]) * error[ends]
    low, high = float(each.min()), float(each.max())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        near = middle / error < FAR * least
        missed = np.nan_to_num(nctdtr(freedom[near], middle / error[near], least[near]))  # nan far above: 0
        low, high = (middle, high) if 1 - missed.sum() / len(tested) < NOMINAL else (low, middle)
    return (low + high) / 2


def _ends(error: Array, freedom: Array) -> NDArray[np.intp]:
    """The pairs among which are those that resolve the smallest and the largest difference. It grows with the error and falls
    with the degrees of freedom: they are those that no other has less, or more, of both."""
    rising = np.argsort(freedom)
    falling = rising[::-1]
    smallest = falling[error[falling] <= np.minimum.accumulate(error[falling])]
    largest = rising[error[rising] >= np.maximum.accumulate(error[rising])]
    return np.concatenate([smallest, largest])
