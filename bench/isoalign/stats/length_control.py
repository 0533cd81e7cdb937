"""What a win rate would be if both answers were equally long (Dubois et al. 2024, "Length-Controlled AlpacaEval", sec. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from isoalign.core.records import Estimate
from isoalign.stats.intervals import Array, bca, finite, resample

RIDGE = 0.01  # precision of the prior of the slope: a deviation of 10, so that it is finite where length decides alone
STEPS = 100  # of Newton's method; where all is won the intercept grows by about 1 a step
FAR = 30.0  # logits at which a rate is 0 or 1
CELLS = 1_000_000  # of weights by contests in memory at once


def length_controlled(wins: Sequence[float], differences: Sequence[float], owners: Sequence[str]) -> Estimate:
    """The win rate at equal lengths, with an interval by bootstrap over prompts.

    ``wins`` [n] in [0, 1]; ``differences`` [n]: length of the answer minus that of the opponent's; ``owners`` [n]: the prompt
    of each. The model is that of Dubois et al. for one method against one baseline, without the difficulty of the prompt,
    which needs many methods to be known:

        P(win) = sigmoid(theta + phi * tanh(difference / deviation)),

    with the standard deviation of the differences (n - 1), fitted by maximum likelihood to wins that may be fractions; the
    win rate at equal lengths is sigmoid(theta). A weak prior on phi, normal with deviation 10, stands for the regularisation
    of the paper, which rests on answers made for it. Where the lengths never differ it is the win rate itself; None where all
    differences are the same one, as length and quality can't be told apart, and where there are no contests.
    """
    y, delta = np.asarray(wins, dtype=float), np.asarray(differences, dtype=float)
    names, owner = np.unique(np.asarray(owners), return_inverse=True)
    if not len(y) or (delta[0] != 0 and np.ptp(delta) == 0):
        return Estimate(None, None, None, len(names))
    x = np.tanh(delta / delta.std(ddof=1)) if np.ptp(delta) else np.zeros_like(delta)

    def rates(weights: Array) -> Array:
        step = max(1, CELLS // len(y))
        parts = [weights[start : start + step][:, owner] for start in range(0, len(weights), step)]
        return np.concatenate([expit(_fit(x, y, part)[:, 0]) for part in parts])

    if len(set(y.tolist())) == 1 and y[0] in (0, 1):  # no length would change that
        return Estimate(float(y[0]), float(y[0]), float(y[0]), len(names))
    weights = np.ones((1, len(y)))
    theta, phi = _fit(x, y, weights)[0]
    value = float(expit(theta))
    residual = y - expit(theta + phi * x)
    pull = np.stack([residual, residual * x], 1) @ np.linalg.inv(_curvature(x, weights, np.array([[theta, phi]]))[0])
    influence = np.bincount(owner, pull[:, 0], len(names)).astype(float)
    low, high = bca(resample(rates, len(names)), value, influence)
    return Estimate(finite(value), low, high, len(names))


def _fit(x: Array, y: Array, weights: Array) -> Array:
    """Intercept and slope [r, 2] of the logistic regression under each row of weights [r, n], by Newton's method."""
    found = np.zeros((len(weights), 2))
    for _ in range(STEPS):
        residual = weights * (y - expit(found[:, :1] + found[:, 1:] * x))
        slope = np.stack([residual.sum(1), residual @ x - RIDGE * found[:, 1]], 1)
        step = np.linalg.solve(_curvature(x, weights, found), slope[:, :, None])[:, :, 0]
        before, found = found, np.clip(found + np.clip(step, -2, 2), -FAR, FAR)
        if np.abs(found - before).max() < 1e-10:
            break
    return found


def _curvature(x: Array, weights: Array, at: Array) -> Array:
    """Minus the second derivatives [r, 2, 2] of the log-likelihood and the prior."""
    rate = expit(at[:, :1] + at[:, 1:] * x)
    spread = weights * rate * (1 - rate)
    first, mixed, second = spread.sum(1) + 1e-12, spread @ x, spread @ (x * x) + RIDGE
    return np.stack([np.stack([first, mixed], 1), np.stack([mixed, second], 1)], 1)
