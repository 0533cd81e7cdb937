"""Methods compared at equal KL from the base, read off their curves along the budget, and the Pareto frontier of all points.

KL here is the price of a change, not how hard a method optimised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isoalign.core.records import Estimate
from isoalign.stats.curves import NONE, Curves, Paths, estimate
from isoalign.stats.intervals import Array

MOVED = 0.1  # nats: a method that ends below it has hardly left the base, and sets no KL at which others are compared


def read_off(kl: Array, score: Array, at: float) -> Array:
    """The score [...] of curves [..., points] where they first reach a KL, by linear interpolation in sqrt(KL).

    Gains are roughly linear in the root; interpolation in KL would bend every curve near the base. A curve whose KL falls
    again is read where it first crosses ``at``. A curve that does not reach ``at`` is read at its largest KL: check `reaches`
    first.
    """
    d, goal = np.sqrt(np.maximum(kl, 0)), math.sqrt(at)
    reached = d >= goal
    right = np.where(reached.any(-1), reached.argmax(-1), d.argmax(-1))[..., None]
    left = np.maximum(right - 1, 0)
    d0, d1 = np.take_along_axis(d, left, -1), np.take_along_axis(d, right, -1)
    share = np.divide(goal - d0, d1 - d0, out=np.ones_like(d0), where=d1 > d0).clip(0, 1)
    low, high = np.take_along_axis(score, left, -1), np.take_along_axis(score, right, -1)
    return ((1 - share) * low + share * high)[..., 0]


def reaches(curves: Curves, kl: float) -> bool:
    """Whether the mean curve reaches a KL."""
    return bool((curves.observed.pooled.kl >= kl).any())


@dataclass(frozen=True)
class AtKL:
    """A method at a given KL. ``end``: the KL at the end of its curve; ``behind``: how much worse its score is than the best,
    paired by prompt (missing for that method); ``again``: whether its KL crosses this value more than once (the first time
    counts)."""

    level: Estimate
    gain: Estimate
    behind: Estimate
    end: float
    again: bool


def common_kl(methods: Mapping[str, Curves]) -> float | None:
    """The largest KL, mean over seeds, that at least nine in ten methods reach; of fewer than ten methods, all. None without
    methods.

    Only methods that moved (`MOVED`) count: otherwise one that did not would have all others compared at the base. Among many,
    so would one that hardly moves by design, such as best-of-n.
    """
    ends = sorted(float(curves.observed.pooled.kl[-1]) for curves in methods.values())
    moved = [end for end in ends if end >= MOVED] or ends[:1]
    return moved[len(moved) // 10] if moved else None


def matched(methods: Mapping[str, Curves], kl: float, ranked: Sequence[str] | None = None) -> dict[str, AtKL]:
    """Each method at equal exact KL, with 95% intervals for this KL; values are missing where a curve does not reach it.

    ``behind`` compares with the best of the ``ranked`` methods (default: all). Its interval is narrower than those of the two
    values, since the difficulty of the prompts cancels. It makes no allowance for having picked the best.
    """

    def level(paths: Paths) -> Array:
        return read_off(paths.pooled.kl, paths.pooled.level, kl)

    def loss(name: str) -> float:
        value = float(level(there[name].observed))
        return -value if there[name].rising else value

    there = {name: curves for name, curves in methods.items() if reaches(curves, kl)}
    named = [name for name in there if ranked is None or name in ranked]
    best = min(named, key=lambda name: (loss(name), name), default=None)
    at_kl = {}
    for name, curves in methods.items():
        path = curves.observed.pooled.kl
        again = int(np.count_nonzero(np.diff((path >= kl).astype(int)))) > 1
        if name not in there:
            at_kl[name] = AtKL(NONE, NONE, NONE, float(path[-1]), False)
            continue
        own = estimate([curves], lambda paths: level(paths))
        gain = estimate([curves], lambda paths: _first_minus(paths, paths.pooled.level[..., 0], level(paths)))
        behind = NONE
        if best is not None and name != best:
            behind = estimate([curves, there[best]], lambda paths, others: _first_minus(paths, level(paths), level(others)))
        at_kl[name] = AtKL(own, gain, behind, float(path[-1]), again)
    return at_kl


def _first_minus(paths: Paths, first: Array, second: Array) -> Array:
    """How much worse the first of two scores is than the second."""
    return second - first if paths.rising else first - second


@dataclass(frozen=True)
class Place:
    """A point in the plane of KL and score, mean over seeds. ``method`` is None for the base, where all curves start."""

    kl: float
    level: float
    method: str | None
    fraction: float


def places(curves: Curves) -> list[Place]:
    """The points of a method's mean curve, the base first."""
    paths = curves.observed.pooled
    columns = zip(paths.kl.tolist(), paths.level.tolist(), curves.fraction.tolist(), strict=True)
    return [Place(kl, level, curves.name if i else None, at) for i, (kl, level, at) in enumerate(columns)]


def pareto(methods: Mapping[str, Curves]) -> list[Place]:
    """The Pareto frontier by KL: the points of all curves for which no other point has both less KL and a better score.

    It is of measured means. The best of many noisy points is biased, so a new run need not reach the line again.
    """
    rising = any(curves.rising for curves in methods.values())

    def loss(place: Place) -> float:
        return -place.level if rising else place.level

    best: list[Place] = []
    everything = [place for curves in methods.values() for place in places(curves)]
    for place in sorted(everything, key=lambda place: (place.kl, loss(place), place.method or "")):
        if not best or loss(place) < loss(best[-1]):
            best.append(place)
    return best
