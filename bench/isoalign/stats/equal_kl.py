"""Methods compared at equal KL from the base, read off their curves along the budget.

A curve is read between two snapshots that are neighbours, by a line in d = sqrt(KL); between snapshots that lie farther apart
it is not measured, and nothing is read. KL here is the price of a change, not how hard a method optimised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from isoalign.core.records import Estimate
from isoalign.stats.comparisons import compare, each_hierarchical
from isoalign.stats.corrections import holm
from isoalign.stats.curves import NONE, Curves
from isoalign.stats.intervals import LEVEL, Array
from isoalign.stats.lines import Statistic
from isoalign.stats.pairs import Comparison
from isoalign.stats.ranks import ranks

MOVED = 0.1  # nats: a method that ends below it has hardly left the base, and sets no KL at which others are compared
NEAR = 0.5  # in sqrt(KL): how far from a snapshot a curve is known
RATIO = 5 / 3  # of the sqrt(KL) of two neighbours, at most: near the base curves bend most
GRID = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # nats at which boards compare
COUNTED = 45  # pairs, those of ten methods: of more, p is not counted in resamples
STEPS = 33  # readings of which an area is the mean


def read_off(kl: Array, score: Array, at: float | Array) -> Array:
    """The score [...] of curves [..., points] where they first reach a KL, one for all or of each [...], by linear
    interpolation in sqrt(KL); NaN where a curve does not reach it, or between snapshots that are not `neighbours`.

    Gains are roughly linear in the root; interpolation in KL would bend every curve near the base. Of the law of Gao et al.
    2023 such a line is less than 2% off (tests/test_equal_kl.py). A curve whose KL falls again is read where it first crosses
    ``at``.
    """
    d, goal = np.sqrt(np.maximum(kl, 0)), np.sqrt(np.asarray(at, dtype=float))[..., None]
    left, right = _around(d, goal)
    d0, d1 = np.take_along_axis(d, left, -1), np.take_along_axis(d, right, -1)
    share = np.divide(goal - d0, d1 - d0, out=np.ones_like(d0), where=d1 > d0)
    low, high = np.take_along_axis(score, left, -1), np.take_along_axis(score, right, -1)
    known = (d1 >= goal) & (neighbours(d0, d1) | (d1 == goal))
    return np.where(known, (1 - share) * low + share * high, np.nan)[..., 0]


def neighbours(d0: Array, d1: Array) -> NDArray[np.bool_]:
    """Whether a curve is known between two snapshots at sqrt(KL) d0 < d1: at most twice `NEAR` apart, so that a snapshot lies
    within `NEAR` of any place between, and at most `RATIO` apart."""
    return (d1 - d0 <= 2 * NEAR) & (d1 <= RATIO * d0)


def _around(d: Array, goal: float | Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The points [..., 1] before and behind which curves first reach a place."""
    right = (d >= goal).argmax(-1)[..., None]
    return np.maximum(right - 1, 0), right


def area(kl: Array, score: Array, to: float) -> Array:
    """The mean score [...] of curves [..., points] over sqrt(KL) from the first KL of `GRID` to another: the area under the
    curve, by its width. NaN where a part of it is not known."""
    places = np.linspace(math.sqrt(GRID[0]), math.sqrt(to), STEPS) ** 2
    return read_off(kl[..., None, :], score[..., None, :], places).mean(-1)


def gap_at(kl: Array, at: float) -> tuple[float, float] | None:
    """The KL of the snapshots between which a curve [points] is not known at a KL that it passes; None where it is known."""
    d, goal = np.sqrt(np.maximum(kl, 0)), math.sqrt(at)
    left, right = (int(place[0]) for place in _around(d, goal))
    if d[right] < goal or d[right] == goal or neighbours(d[left], d[right]):
        return None
    return float(kl[left]), float(kl[right])


def reaches(curves: Curves, kl: float) -> bool:
    """Whether the curve of every run reaches a KL."""
    return farthest(curves) >= kl


def farthest(curves: Curves) -> float:
    """The largest KL that every run reaches, wherever it ends."""
    return min(float(run[0].mean(-1).max()) for run in curves.every_run)


@dataclass(frozen=True)
class Reading:
    """A score read off a method's curves at a KL: ``seeds`` [seeds, prompts], on the same prompts for all methods. ``error``:
    how far off the line between two snapshots may be, by the bend of the curve beside them; ``bases``: those of `Curves`, by
    which readings are paired."""

    seeds: Array
    error: float = 0.0
    bases: tuple[int, ...] = ()

    def estimate(self) -> Estimate:
        """The mean with its interval, which allows for prompts, seeds and the line between snapshots."""
        return estimates({"": self})[""]


def estimates(readings: Mapping[str, Reading]) -> dict[str, Estimate]:
    """The mean of each reading with its interval, which allows for prompts, seeds and the line between snapshots."""
    means = each_hierarchical([reading.seeds for reading in readings.values()])
    return {
        name: mean if mean.low is None or mean.high is None else replace(mean, low=mean.low - error, high=mean.high + error)
        for (name, error), mean in zip(((name, one.error) for name, one in readings.items()), means, strict=True)
    }


def read_curves(curves: Curves, statistic: Statistic, gain: bool = False) -> Reading | None:
    """A statistic of each seed's curve by prompt, of the ``gain`` over the base or of the score; None where it is not known of
    every run. Of several runs of a seed, or on a base, it is the mean of what each gives: the mean of curves that go different
    ways is none of them.
    """
    error = float(line_error(curves, statistic, gain))
    if not np.isfinite(error):
        return None
    lines = curves.gains if gain else curves.scores
    seeds = np.array([np.mean([line.by_prompt(statistic) for line in same], axis=0) for same in lines])
    return Reading(seeds, error, curves.bases)


def line_error(curves: Curves, statistic: Statistic, gain: bool = False) -> Array:
    """The error of a `Reading`, or of readings [...] at once; NaN where one is not known of every run."""
    lines = curves.gains if gain else curves.scores
    return np.abs(np.mean([np.mean([line.bend(statistic) for line in same], axis=0) for same in lines], axis=0))


@dataclass(frozen=True)
class AtKL:
    """A method at a given KL. ``behind``: how much worse its score is than the best, paired by prompt (missing for that
    method); ``end``: the KL at the end of its curve, mean over seeds; ``again``: whether the KL of a run crosses this value
    more than once (the first time counts); ``gap``: the KL of the snapshots between which it is not measured; ``rank``: first
    and last rank that it may have by its gain."""

    level: Estimate
    gain: Estimate
    behind: Estimate
    end: float
    again: bool
    gap: tuple[float, float] | None = None
    rank: tuple[int, int] | None = None


def common_kl(methods: Mapping[str, Curves]) -> float | None:
    """The largest KL that every run of at least nine in ten methods reaches; of fewer than ten methods, all. None without
    methods.

    Only methods that moved (`MOVED`) count: otherwise one that did not would have all others compared at the base. Among many,
    so would one that hardly moves by design.
    """
    ends = sorted(map(farthest, methods.values()))
    moved = [end for end in ends if end >= MOVED] or ends[:1]
    return moved[len(moved) // 10] if moved else None


def matched(methods: Mapping[str, Curves], kl: float, ranked: Sequence[str] | None = None) -> dict[str, AtKL]:
    """Each method at equal exact KL, with 95% intervals for this KL; values are missing where the curve of a seed does not
    reach it, or is not known there.

    ``behind`` compares with the best of the ``ranked`` methods (default: all). Its interval is narrower than those of the two
    values, since the difficulty of the prompts cancels. It makes no allowance for having picked the best.
    """

    def at(d: Array, score: Array) -> Array:
        return read_off(d, score, kl)

    levels = {name: reading for name, curves in methods.items() if (reading := read_curves(curves, at)) is not None}
    gains = {name: reading for name in levels if (reading := read_curves(methods[name], at, gain=True)) is not None}
    compared = [name for name in gains if ranked is None or name in ranked]
    spans = standings({name: gains[name] for name in compared})
    level, means = estimates(levels), estimates(gains)
    best = min(compared, key=lambda name: (-(means[name].value or 0.0), name), default=None)
    behind = {} if best is None else _behind(gains, best)
    at_kl = {}
    for name, curves in methods.items():
        path = curves.observed.pooled.kl
        paths = [run[0].mean(-1) for run in curves.every_run]
        again = any(np.count_nonzero(np.diff((one >= kl).astype(int))) > 1 for one in paths)
        if name not in gains:
            gaps = [gap for one in paths if (gap := gap_at(one, kl)) is not None]
            gap = (min(low for low, _ in gaps), max(high for _, high in gaps)) if gaps and reaches(curves, kl) else None
            at_kl[name] = AtKL(NONE, NONE, NONE, float(path[-1]), False, gap)
            continue
        lost = behind.get(name, NONE)
        at_kl[name] = AtKL(level[name], means[name], lost, float(path[-1]), again, None, spans.get(name))
    return at_kl


def _behind(readings: Mapping[str, Reading], best: str) -> dict[str, Estimate]:
    """How much less than the best each other reads, paired by prompt, with the error of both lines in its interval."""
    others = [name for name in readings if name != best]
    compared = _compared(readings, [(best, name) for name in others], counted=0)
    wide = {name: widen(compared[best, name], readings[best].error + readings[name].error) for name in others}
    return {name: Estimate(c.value, c.low, c.high, c.n, c.missing) for name, c in wide.items()}


def areas(methods: Mapping[str, Curves], to: float) -> dict[str, Reading]:
    """The mean gain of methods over sqrt(KL) from the first KL of `GRID` to another, for those of which all of it is known."""
    found = {name: read_curves(curves, lambda kl, gain: area(kl, gain, to), gain=True) for name, curves in methods.items()}
    return {name: reading for name, reading in found.items() if reading is not None}


def standings(readings: Mapping[str, Reading]) -> dict[str, tuple[int, int]]:
    """First and last rank of each method by its reading, of which more is better: spans that hold all true ranks with about
    95%, as those of a board. Of a single seed nothing is known of the method, and its span is all; one alone has none."""
    if len(readings) < 2:
        return {}
    pairs = list(combinations([name for name, reading in readings.items() if len(reading.seeds) > 1], 2))
    compared = _compared(readings, pairs)
    ps = {(a, b): widened_p(c, readings[a].error + readings[b].error) for (a, b), c in compared.items()}
    tested = {pair: p for pair, p in ps.items() if p is not None}
    adjusted = zip(tested, holm(list(tested.values())), strict=True)
    resolved = [pair for pair, p in adjusted if p < 1 - LEVEL]
    better = {pair if (compared[pair].value or 0.0) > 0 else pair[::-1] for pair in resolved if compared[pair].value}
    return ranks(list(readings), lambda a, b: (a, b) in better)


def difference(readings: Mapping[str, Reading], a: str, b: str) -> Comparison:
    """First minus second, paired by prompt, with the error of both lines in its interval."""
    both = {name: readings[name] for name in (a, b)}
    return widen(_compared(both, [(a, b)])[a, b], both[a].error + both[b].error)


def _compared(
    readings: Mapping[str, Reading], pairs: Sequence[tuple[str, str]], counted: int = COUNTED
) -> dict[tuple[str, str], Comparison]:
    """Readings paired by prompt, and base by base where they are of the same bases; of more pairs than are ``counted`` p and
    bounds are computed, not counted."""
    bases = {name: reading.bases for name, reading in readings.items() if reading.bases}
    return compare({name: reading.seeds for name, reading in readings.items()}, pairs, counted=counted, bases=bases)


def widen(c: Comparison, by: float) -> Comparison:
    """A comparison whose difference may be off by so much, whatever the prompts and seeds."""
    if not by or c.value is None or c.low is None or c.high is None or c.p is None or c.freedom is None:
        return c
    return replace(c, low=c.low - by, high=c.high + by, p=widened_p(c, by))


def widened_p(c: Comparison, by: float) -> float | None:
    """The p of a comparison whose difference may be off by so much."""
    if not by or c.value is None or c.p is None or c.freedom is None:
        return c.p
    left = max(abs(c.value) - by, 0.0)
    p = 2 * float(stdtr(c.freedom, -left / c.error)) if c.error else float(not left)
    return max(c.p, min(1.0, p))
