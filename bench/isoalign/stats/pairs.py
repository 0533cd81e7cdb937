"""Pairs of methods compared on the prompts that both have, many pairs at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, ndtr, ndtri, stdtr, stdtrit

from isoalign.stats.intervals import LEVEL, TAIL, Array, finite, resample
from isoalign.stats.tails import quantile, tails
from isoalign.stats.variance import Parts, Shares, drawn_error, parts_from, shares_of, variances

FEW = 30  # prompts; resamples of fewer have no tails, and p is that of a t, if that is larger


@dataclass(frozen=True)
class Comparison:
    """First minus second of two methods, with its 95% interval, over ``n`` prompts; ``missing`` prompts lack a value.

    ``p``: two-sided, of no difference; ``p_holm``: the same after Holm's correction over all compared pairs; ``error``:
    standard error; ``freedom``: its degrees of freedom. None with fewer than two prompts. ``single``: whether a side is one
    training seed, so that it says nothing of the methods and has no ``p_holm``.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    n: int
    missing: int
    error: float | None = None
    freedom: float | None = None
    single: bool = False

    @property
    def resolved(self) -> bool:
        """Whether the two differ, after correction for all compared pairs."""
        return self.p_holm is not None and self.p_holm < 1 - LEVEL


class Side(NamedTuple):
    """A method's answers [seeds, prompts] without missing values, their means by prompt, and what they say of its variance."""

    table: Array
    means: Array
    shares: Shares


def side_of(table: Array) -> Side:
    """What comparisons of a method need of its table, however many they are."""
    return Side(table, table.mean(0), shares_of(table))


def compared(
    sides: Mapping[str, Side],
    pairs: Sequence[tuple[str, str]],
    resamples: int,
    exact: bool,
    bases: Mapping[str, Sequence[int]],
    missing: int,
    lone: Collection[str],
) -> dict[tuple[str, str], Comparison]:
    """Comparisons of pairs on the same prompts; p_holm is still None. By ``resamples`` if ``exact``, else by what they would
    show on average."""
    first, second = (np.array([sides[pair[of]].means for pair in pairs]) for of in (0, 1))
    n = first.shape[1]
    single = [a in lone or b in lone for a, b in pairs]
    if n < 2:
        values = [finite(each[0]) if n else None for each in first - second]
        alone = zip(pairs, values, single, strict=True)
        return {pair: Comparison(value, None, None, None, None, n, missing, single=one) for pair, value, one in alone}
    gaps = _apart(first, second)
    based = [a in bases and list(bases[a]) == list(bases.get(b, ())) for a, b in pairs]
    varied = [
        [shares_of(sides[a].table - sides[b].table)] if same else [sides[a].shares, sides[b].shares]
        for (a, b), same in zip(pairs, based, strict=True)
    ]
    means, spreads = gaps.mean(1).tolist(), variances(gaps).tolist()
    parts = [parts_from(mean, spread, n, each) for mean, spread, each in zip(means, spreads, varied, strict=True)]
    answered = {name: sides[name].means for name in dict.fromkeys(chain.from_iterable(pairs))}
    made = _resampled(answered, pairs, parts, resamples) if exact else _approximated(gaps, parts, resamples)
    found = {}
    for pair, part, sign, one, (low, high, beyond) in zip(pairs, parts, _by_signs(gaps), single, made, strict=True):
        p = min(1.0, 2 * (beyond + 1) / (resamples + 1))
        p = max(p, sign)
        if n < FEW and part.error:
            p = max(p, 2 * float(stdtr(part.strict, -abs(part.value) / part.error)))
        found[pair] = Comparison(part.value, low, high, p, None, n, missing, part.error, part.strict, one)
    return found


def _resampled(
    means: Mapping[str, Array], pairs: Sequence[tuple[str, str]], parts: Sequence[Parts], resamples: int
) -> Iterable[tuple[float, float, float]]:
    """The interval of each pair, and the number of draws on the other side of no difference."""
    stacked = np.array(list(means.values()))
    drawn = resample(lambda weights: weights @ stacked.T, stacked.shape[1], resamples)
    sums = dict(zip(means, np.ascontiguousarray(drawn.T), strict=True))
    for (a, b), part, at in zip(pairs, parts, _no_difference(parts), strict=True):
        if part.error:
            draws = drawn_error(sums[a] - sums[b], stacked.shape[1], part)
            bounds = part.bounds(np.quantile(draws, [TAIL, 1 - TAIL]))
            yield *bounds, float(min(np.sum(draws <= at), np.sum(draws >= at)))
        else:
            yield part.value, part.value, 0 if part.value else resamples


def _approximated(gaps: Array, parts: Sequence[Parts], resamples: int) -> Iterable[tuple[float, float, float]]:
    """The same without draws, for the differences of each prompt [pairs, prompts]; the number is the expected one."""
    value, seeds, freedom, scale, error = np.array(
        [(part.value, part.seeds, part.freedom, part.scale, part.error) for part in parts]
    ).T
    unit = np.where(error > 0, error, 1.0)
    deviations = (scale / unit / gaps.shape[1])[:, None] * (gaps - value[:, None])
    seeds = seeds / unit**2
    beyond = resamples * tails(deviations, seeds, np.clip(_no_difference(parts), -40, 40))
    between = np.stack([quantile(deviations, seeds, level) for level in (TAIL, 1 - TAIL)], 1)
    bounds = value[:, None] + error[:, None] * stdtrit(freedom[:, None], ndtr(between))
    for part, (low, high), expected in zip(parts, bounds.tolist(), beyond.tolist(), strict=True):
        if part.error:
            yield low, high, expected
        else:
            yield part.value, part.value, 0 if part.value else resamples


def _by_signs(gaps: Array) -> list[float]:
    """The p of a sign test of differences [pairs, prompts], where all that are not 0 are of one size or of one sign; else 0,
    as sizes tell more."""
    more, less = (gaps > 0).sum(1), (gaps < 0).sum(1)
    largest, smallest = np.abs(gaps).max(1), np.where(gaps == 0, np.inf, np.abs(gaps)).min(1)
    alike, fewer = largest - smallest <= 1e-9 * largest, np.minimum(more, less)
    p = np.minimum(1.0, 2 * bdtr(fewer, more + less, 0.5))
    return np.where(alike | (fewer == 0), p, 0.0).tolist()


def _no_difference(parts: Sequence[Parts]) -> Array:
    """The place of no difference among standardised draws of each."""
    strict, value, error = np.array([(part.strict, part.value, part.error) for part in parts]).T
    return np.where(error > 0, ndtri(stdtr(strict, -value / np.where(error > 0, error, 1.0))), 0.0)


def _apart(first: Array, second: Array) -> Array:
    """First minus second [pairs, prompts], 0 where they differ by rounding only: the mean of three equal numbers need not be
    that number. One value where they are the same on every prompt up to rounding."""
    gap, size = first - second, np.maximum(np.abs(first), np.abs(second))
    level = np.ptp(gap, axis=1) <= 1e-12 * size.max(1)
    gap = np.where(level[:, None], gap[:, :1], gap)
    return np.where(np.abs(gap) <= 1e-12 * size, 0.0, gap)
