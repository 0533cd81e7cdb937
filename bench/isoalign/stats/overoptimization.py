"""Overoptimization: the law of the gold score in KL, where a method was best, and whether proxy and gold score diverge.

The terms and the law are those of Gao, Schulman and Hilton 2023, "Scaling Laws for Reward Model Overoptimization".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from isoalign.core.records import Estimate
from isoalign.stats.curves import NONE, Curves, Paths, estimate, percentiles
from isoalign.stats.intervals import TAIL, Array

FIT_FROM = 0.01  # nats: below, d is mostly noise, and near 0 the fitted law is known to fail


@dataclass(frozen=True)
class Law:
    """A law of the gold score, linear in alpha and beta: gold(d) = alpha rise(d) - beta fall(d), with its maximum at
    ``peak``."""

    text: str
    rise: Callable[[Array], Array]
    fall: Callable[[Array], Array]
    peak: Callable[[Array, Array], Array]

    def gold(self, d: Array, alpha: float, beta: float) -> Array:
        """The fitted gold score at d > 0."""
        return alpha * self.rise(d) - beta * self.fall(d)


TRAINED = Law("d (α − β log d)", lambda d: d, lambda d: d * np.log(d), lambda alpha, beta: np.exp(alpha / beta - 1))
"""The law for reinforcement learning (section 1 of the paper). Its slope is infinite at d = 0, so it does not describe the
first steps."""

BEST_OF_N = Law("d (α − β d)", lambda d: d, np.square, lambda alpha, beta: alpha / (2 * beta))
"""The law for best-of-n sampling (section 1 of the paper)."""


@dataclass(frozen=True)
class Fit:
    """A fitted law, or the ``reason`` why there is none. alpha in score per sqrt(nat).

    ``peak``: KL where the law is highest; without upper bound (None) if over 2.5% of replicates have no maximum; without value
    if beta is not above 0. ``seen``: the largest KL of the mean curve. ``error``: root mean square error of the law, in
    score. ``points``: number of points that were fitted, for each seed.
    """

    alpha: Estimate = NONE
    beta: Estimate = NONE
    peak: Estimate = NONE
    seen: float | None = None
    error: float | None = None
    points: int = 0
    reason: str | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the peak lies within the KL that was seen, by its 95% interval; None if the interval contains both cases."""
        low, high = self.peak.low, self.peak.high
        if self.seen is None or (low is None and self.peak.value is not None):
            return None
        if low is None or low > self.seen:
            return False
        return True if high is not None and high <= self.seen else None


def fit_law(curves: Curves, law: Law = TRAINED) -> Fit:
    """Least squares of gold = alpha rise(d) - beta fall(d), over all seeds' points whose mean KL is above `FIT_FROM`.

    Unweighted, as in the paper. The law was found for reward scores, which have no upper limit. A gain in
    scores that have one ends at it, so a method that is there bends the fit, and a fitted peak can be a plateau.
    """
    used = curves.observed.pooled.kl > FIT_FROM
    points = int(used.sum())
    if curves.sparse:
        return Fit(points=points, reason=_too_few(curves))
    if points < 3:
        plural = "" if points == 1 else "s"
        return Fit(points=points, reason=f"{points} point{plural} over {FIT_FROM} nats; the fit needs 3")

    def solve(paths: Paths) -> tuple[Array, Array]:
        return _least_squares(law, paths.kl[..., used], paths.gold[..., used])

    def peak(alpha: Array | float, beta: Array | float) -> Array:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.where(np.greater(beta, 0), law.peak(np.asarray(alpha), np.asarray(beta)) ** 2, np.inf)

    alpha, beta = (float(value) for value in solve(curves.observed))
    if not math.isfinite(alpha):
        return Fit(points=points, reason="all points lie at one KL")
    d, gold = np.sqrt(curves.observed.kl[:, used]), curves.observed.gold[:, used]
    top = float(peak(alpha, beta))
    alphas, betas = solve(curves.replicates) if curves.prompts > 1 else (np.empty(0), np.empty(0))
    n = curves.prompts, curves.missing
    return Fit(
        Estimate(alpha, *percentiles(alphas), *n),
        Estimate(beta, *percentiles(betas), *n),
        Estimate(top if math.isfinite(top) else None, *percentiles(peak(alphas, betas), "inverted_cdf"), *n),
        float(curves.observed.pooled.kl.max()),
        float(np.sqrt(np.square(law.gold(np.maximum(d, _LEAST), alpha, beta) - gold).mean())),
        points,
    )


_LEAST = 1e-6  # smallest d in a fit: a replicate may shift a small KL to 0, where log is not finite


def _least_squares(law: Law, kl: Array, gold: Array) -> tuple[Array, Array]:
    """alpha and beta [...] of curves [..., seeds, points] by the normal equations; NaN if all points have one KL."""
    d = np.sqrt(np.maximum(kl, _LEAST**2))
    a, b = law.rise(d), -law.fall(d)
    aa, bb, ab, ag, bg = ((x * y).sum((-2, -1)) for x, y in ((a, a), (b, b), (a, b), (a, gold), (b, gold)))
    free = aa * bb - ab**2
    free = np.where(free > 1e-12 * aa * bb, free, np.nan)
    return (bb * ag - ab * bg) / free, (aa * bg - ab * ag) / free


@dataclass(frozen=True)
class Peak:
    """The point with the best gold score, mean over seeds, and what was lost by going on.

    ``gold``: the score there, with an interval as if the point had been chosen in advance; ``end``: the score at the end;
    ``loss``: the difference of the two; ``rise`` of the proxy from there to the end. ``firm``: share of replicates in which
    the same point is best. Not ``measured`` where a run has too few points: then the index is -1, and only the end is known.
    """

    index: int
    fraction: float
    kl: float
    gold: Estimate
    end: Estimate
    loss: Estimate
    rise: Estimate
    firm: float | None

    @property
    def measured(self) -> bool:
        """Whether all runs have the points that it takes."""
        return self.index >= 0

    @property
    def at(self) -> str:
        """Its share of the budget as text."""
        return f"{self.fraction:.0%}" if self.measured else "not measured"


def find_peak(curves: Curves) -> Peak:
    """Where the gold score was best. The largest of several noisy values is biased upward, and so are ``gold`` and ``loss``;
    the interval of ``loss`` allows for the choice (`_largest`), that of ``rise`` uses each replicate's own peak. Not
    measured if a run is sparse."""
    if curves not in _peaks:
        _peaks[curves] = _found_peak(curves)
    return _peaks[curves]


_peaks = WeakKeyDictionary[Curves, Peak]()  # texts, tables and charts ask for them


def _found_peak(curves: Curves) -> Peak:
    end = estimate([curves], lambda paths: paths.pooled.gold[..., -1])
    if curves.sparse:
        return Peak(-1, math.nan, math.nan, NONE, end, NONE, NONE, None)
    gold = curves.observed.pooled.gold
    best = int(gold.argmax())
    n, missing = curves.prompts, curves.missing
    bounds: tuple[float | None, float | None] = (None, None)
    firm = None
    if n > 1:
        drawn = curves.replicates.pooled.gold
        bounds = _largest(gold - gold[-1], drawn - drawn[:, -1:])
        firm = float(np.mean(drawn.argmax(-1) == best))

    def rise(paths: Paths) -> Array:
        own = paths.pooled
        top = own.gold.argmax(-1)[..., None]
        return own.rise[..., -1] - np.take_along_axis(own.rise, top, -1)[..., 0]

    return Peak(
        best,
        float(curves.fraction[best]),
        float(curves.observed.pooled.kl[best]),
        estimate([curves], lambda paths: paths.pooled.gold[..., best]),
        end,
        Estimate(float(gold[best] - gold[-1]), *bounds, n, missing),
        NONE if curves.observed.proxy is None else estimate([curves], rise),
        firm,
    )


def _largest(value: Array, replicates: Array) -> tuple[float, float]:
    """95% interval of the largest true value, whichever was measured as largest, by sup-t bounds.

    The largest error of each replicate is taken in units of each value's own half-width h; its 97.5% quantile c bounds all
    errors at once, so that max(value - c h) is a lower bound of the truth. Quantiles of the replicates' largest values would
    not do: they lie above 0 even if all points are equal.

    Montiel Olea and Plagborg-Møller 2019, "Simultaneous Confidence Bands".
    """
    error = replicates - value
    width = np.diff(np.quantile(error, [TAIL, 1 - TAIL], axis=0), axis=0)[0] / 2
    scaled = np.divide(error, width, out=np.zeros_like(error), where=width > 0)
    up, down = (np.quantile(side.max(-1), 1 - TAIL) for side in (scaled, -scaled))
    return float((value - up * width).max()), float((value + down * width).max())


def peak_warnings(curves: Curves) -> list[str]:
    """A warning for a method that went on past its best point (see `find_peak`). It is given only if the interval of the loss
    lies above 0, and called reward hacking if that of the proxy's rise does too. Sparse runs are named instead."""
    peak = find_peak(curves)
    if not peak.measured:
        return [f"best point not measured: {_too_few(curves)}"]
    if peak.loss.low is None or peak.loss.low <= 0:
        return []
    after = f"after {peak.fraction:.0%} of the budget" if peak.index else "from the start"
    if peak.rise.low is not None and peak.rise.low > 0:
        return [f"reward hacking: proxy and gold part {after}"]
    return [f"past its peak: gold falls {after}, no rise of the proxy seen"]


def _too_few(curves: Curves) -> str:
    verb = "lacks" if len(curves.sparse) == 1 else "lack"
    return f"{', '.join(curves.sparse)} {verb} snapshots that other runs have"
