"""The variance of a mean over prompts and seeds: its two parts, and draws of its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import fdtri, ndtr, ndtri, stdtrit

from isoalign.stats.intervals import SEED, TAIL, Array

TIE = 1e-9  # standard errors
ALONE = 7  # where one variance is all that seeds add, it is small by chance more often than the sum of two (`compare`)


@dataclass(frozen=True)
class Parts:
    """A mean over prompts and seeds with the two parts of its variance, ``prompts`` and ``seeds``, and its degrees of
    ``freedom``, and ``strict`` ones for the p of a comparison among many; ``scale`` shrinks deviations of the prompts'
    means to the prompts' own part of the variance."""

    value: float
    prompts: float
    seeds: float
    freedom: float
    scale: float
    strict: float

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.prompts + self.seeds)

    def bounds(self, quantiles: Array) -> tuple[float, float]:
        """The interval between two quantiles of standardised draws, which are normal up to the skewness of the prompts."""
        low, high = self.value + self.error * stdtrit(self.freedom, ndtr(quantiles))
        return float(low), float(high)


def parts_of(means: Array, tables: Sequence[Array]) -> Parts:
    """A mean and its variance, as in `hierarchical`. ``means`` [prompts]: over the seeds of ``tables``, each [seeds, prompts];
    for a sum or difference of several methods' means the table of each, times its factor. Two prompts or more."""
    return parts_from(float(means.mean()), float(variances(means)), len(means), list(map(shares_of, tables)))


@dataclass(frozen=True)
class Shares:
    """What a method's table says of the variance of its mean: what prompts' means owe to the ``rest``, and the variance of the
    means of its ``count`` seeds."""

    count: int
    rest: float
    seeds: float


def shares_of(table: Array) -> Shares:
    """Of a table [seeds, prompts] without missing values."""
    count, n = table.shape
    if count < 2 or n < 2:
        return Shares(count, 0.0, 0.0)
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    squares = float(np.square(rest).sum()) if np.abs(rest).max() > 1e-12 * np.abs(table).max() else 0.0  # else by rounding
    return Shares(count, squares / ((count - 1) * (n - 1)) / (count * n), float(variances(table.mean(1))))


def parts_from(value: float, variance: float, n: int, methods: Sequence[Shares]) -> Parts:
    """As `parts_of`, from the mean and variance of the ``means``, and tables that many differences share."""
    spread = variance / n
    prompts, seeds, uncertain, fewest, varying = spread, 0.0, 0.0, math.inf, 0
    for one in methods:
        if one.count > 1:
            prompts -= one.rest
            # shares tie by chance, and seeds that tie don't vary less than the noise in them, which prompts have lost
            own = one.seeds / one.count or one.rest
            varying += own > 0
            seeds += own
            uncertain += own**2 / (one.count - 1)
            fewest = min(fewest, one.count)
    prompts = max(prompts, 0.0)
    scale = math.sqrt(prompts / spread * n / (n - 1)) if spread else 0.0
    freedom = strict = float(n - 1)
    if seeds:
        share = seeds / (prompts + seeds)
        unsure = uncertain / seeds**2 if fewest > 2 else 1.0  # by Welch, the seeds alone have seeds^2 / uncertain
        freedom = 1 / ((1 - share) / (n - 1) + share ** (1.0 if fewest > 2 else 0.5) * unsure)
        power = (fewest - 1) / (fewest + (1 if varying > 1 else ALONE))
        strict = 1 / ((1 - share) / (n - 1) + share**power * unsure)
    return Parts(value, prompts, seeds, freedom, scale, strict)


def variances(values: Array) -> Array:
    """The variances [...] of values [..., n], 0 where they differ by rounding only: an error of that size would make bounds
    infinite."""
    return np.where(np.ptp(values, axis=-1) > 1e-12 * np.abs(values).max(-1), values.var(-1, ddof=1), 0.0)


@dataclass(frozen=True)
class Components:
    """The variance of runs ``between`` bases, and between seeds of one base (``within``); the ``share`` of the first has the
    95% interval from ``low`` to ``high``."""

    between: float
    within: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """That between bases."""
        return self.between / (self.between + self.within)


def components(groups: Sequence[Sequence[Sequence[float]]]) -> Components | None:
    """The variance of runs between bases, and between seeds of one base: a nested analysis of variance, mean squares pooled
    over methods. ``groups``: method to base to values of its runs. None unless methods have two bases or more and
    bases two runs or more, and where nothing varies.

    The interval is that of F (Searle, Casella & McCulloch 1992, section 3.6), between bases with as many degrees of freedom as
    one method has: methods share their bases, so that more of them tell little more of what bases do.
    """
    between = within = apart = inside = size = most = 0.0
    for group in groups:
        each = [np.asarray(values, dtype=float) for values in group if len(values)]
        counts = np.array([len(values) for values in each], dtype=float)
        if len(each) < 2:
            continue
        means = np.array([values.mean() for values in each])
        between += float(counts @ (means - counts @ means / counts.sum()) ** 2)
        within += float(sum(np.square(values - values.mean()).sum() for values in each))
        apart, inside = apart + len(each) - 1, inside + float(counts.sum()) - len(each)
        most = max(most, len(each) - 1)
        size += float(counts.sum() - np.square(counts).sum() / counts.sum())
    if not apart or not inside or not between + within:
        return None
    seeds, runs = within / inside, size / apart
    if not seeds:
        return Components(between / size, 0.0, 1.0, 1.0)
    ratio = between / apart / seeds
    low, high = (max(0.0, ratio / fdtri(most, inside, level) - 1) for level in (1 - TAIL, TAIL))
    return Components(max(0.0, (between - apart * seeds) / size), seeds, low / (low + runs), high / (high + runs))


def drawn_error(sums: Array, n: int, part: Parts) -> Array:
    """Standardised draws [resamples] of the error of a mean over ``n`` prompts, from its ``sums`` over resampled prompts
    [resamples]; the part of the seeds is normal."""
    moved = part.scale * (sums / n - part.value)
    return (moved + math.sqrt(part.seeds) * _normal(len(sums))) / (part.error or 1.0)


def levels_of(draws: Array, acceleration: float) -> Array:
    """Levels of the quantiles of standardised draws that bound the mean, as in `bca`."""
    below = (np.mean(draws < -TIE) + np.mean(draws <= TIE)) / 2  # a tie counts half, whatever its last bit
    shift = ndtri(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
    reach = ndtri([TAIL, 1 - TAIL]) + shift
    return ndtr(shift + reach / np.maximum(1 - acceleration * reach, 1e-9))


@lru_cache(maxsize=4)
def _normal(size: int) -> Array:
    """Evenly spaced quantiles of a normal in random order: with random draws the bounds would be unstable."""
    return ndtri(np.random.default_rng(SEED).permutation((np.arange(size) + 0.5) / size))
