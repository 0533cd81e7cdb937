"""How resampled means are distributed, without resampling: the saddlepoint approximation."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from isoalign.stats.intervals import Array

STEPS = 60  # of Newton's method; each may change the logarithm of a prompt's weight by 1 at most
NEAR = 0.01  # where the approximation is 0 / 0, and its limit is as good


def tails(deviations: Array, seeds: Array, at: Array) -> Array:
    """P(draw <= at) or P(draw >= at), the smaller one, of bootstrap means with a normal part [means].

    A draw is the sum of n deviations picked from a row of ``deviations`` [means, n], whose mean is 0, and of a normal with
    variance ``seeds`` [means]; ``at`` [means] in the units of draws, whose variance is about 1. The cumulant generating
    function of draws is known:

        K(t) = n log(mean(exp(t deviations))) + t^2 seeds / 2.

    With K'(t) = at, w = sign(t) sqrt(2 (t at - K(t))) and u = t sqrt(K''(t)), the tail is that of a normal beyond
    w + log(u / w) / w (Barndorff-Nielsen 1986), and at most exp(K(t) - t at). For bootstrap means it is off by a few percent
    of the tail, wherever that lies (Davison and Hinkley 1988, "Saddlepoint approximations in resampling methods"). Draws
    without a normal part may have equal steps, as those of scores of 0 and 1: then a tail begins half a step before its first
    draw.
    """
    n = deviations.shape[1]
    at = np.where(seeds > 0, at, _between(deviations, at))
    reach = _reach(deviations)
    t = np.zeros(len(at))
    for _ in range(STEPS):
        _, first, second = _cumulants(deviations, seeds, t)
        step = np.clip((at - first) / np.maximum(second, 1e-12), -reach, reach)
        t += step
        if (np.abs(step) <= 1e-9 * reach).all():
            break
    near = np.abs(t) < NEAR
    t = np.where(near, 1.0, t)
    normal, w = _normal(t, *_cumulants(deviations, seeds, t))
    beyond = np.minimum(ndtr(-np.abs(normal)), np.exp(-(w**2) / 2))
    beyond = np.where(near, ndtr(-np.abs(at + n * (deviations**3).mean(1) / 6)), beyond)
    possible = (seeds > 0) | ((n * deviations.min(1) <= at) & (at <= n * deviations.max(1)))
    return np.where(possible, beyond, 0.0)


def quantile(deviations: Array, seeds: Array, level: float) -> Array:
    """The quantile of such draws [means], of a level that is not near 1/2."""
    reach, goal = _reach(deviations), float(ndtri(level))
    t = np.full(len(seeds), goal)
    for _ in range(STEPS):
        cumulants = _cumulants(deviations, seeds, t)
        step = np.clip((goal - _normal(t, *cumulants)[0]) / np.sqrt(np.maximum(cumulants[2], 1e-12)), -reach, reach)
        t = np.sign(goal) * np.maximum(np.sign(goal) * (t + step), NEAR)
        if (np.abs(step) <= 1e-9 * reach).all():
            break
    return _cumulants(deviations, seeds, t)[1]


def _reach(deviations: Array) -> Array:
    return 1 / np.maximum(np.abs(deviations).max(1), 1e-12)


def _normal(t: Array, value: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """The place of a draw at K'(t) in a normal, and w."""
    w = np.sign(t) * np.sqrt(2 * np.maximum(t * first - value, 1e-300))
    u = t * np.sqrt(np.maximum(second, 1e-12))
    return w + np.log(np.maximum(u / w, 1e-300)) / w, w


def _cumulants(deviations: Array, seeds: Array, t: Array) -> tuple[Array, Array, Array]:
    """K and its first two derivatives at t [means]."""
    n = deviations.shape[1]
    exponents = t[:, None] * deviations
    top = exponents.max(1)
    weights = np.exp(exponents - top[:, None])
    total = weights.sum(1)
    first = np.einsum("mn,mn->m", weights, deviations) / total
    second = np.einsum("mn,mn,mn->m", weights, deviations, deviations) / total - first**2
    value = n * (np.log(total / n) + top)
    return value + t**2 * seeds / 2, n * first + t * seeds, n * second + seeds


def _between(deviations: Array, at: Array) -> Array:
    """``at``, or where sums of deviations have equal steps, the middle between the last sum before it and the first beyond."""
    ordered = np.sort(deviations, axis=1)
    gaps = np.diff(ordered, axis=1)
    size = 1e-9 * (ordered[:, -1:] - ordered[:, :1])
    step = np.where(gaps > size, gaps, np.inf).min(1)
    even = np.isfinite(step) & (np.abs(gaps / step[:, None] - np.round(gaps / step[:, None])) < 1e-6).all(1)
    step = np.where(even, step, 1.0)
    places = (at - deviations.shape[1] * ordered[:, 0]) / step
    inner = np.where(at > 0, np.ceil(places - 1e-6) - 0.5, np.floor(places + 1e-6) + 0.5)
    return np.where(even, at + (inner - places) * step, at)
