"""Scores pooled over tasks: interquartile mean, probability of improvement, stratified bootstrap (Agarwal et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from isoalign.core.lazy import scipy
from isoalign.core.records import Estimate
from isoalign.stats.intervals import RESAMPLES, SEED, TAIL, Array

Runs = Sequence[Array]
"""The scores of a method's runs [runs], for each task."""


def iqm(scores: Runs) -> Array:
    """Interquartile mean over the runs of all tasks: a quarter of them is cut off at each end (`scipy.stats.trim_mean`).

    Runs are the last axis of each task's scores. If tasks differ in the number of runs, runs are repeated until all have the
    same number, so that each task has the same weight.

    Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", sec. 4.3.
    """
    common = math.lcm(*(task.shape[-1] for task in scores))
    alike = [np.repeat(task, common // task.shape[-1], axis=-1) for task in scores]
    return scipy.stats.trim_mean(np.concatenate(alike, axis=-1), 0.25, axis=-1)


def improvement(first: Runs, second: Runs, paired: Sequence[bool] = ()) -> Array:
    """Probability that a run of the first method scores above one of the second on the same task, mean over tasks: Mann and
    Whitney's U / (n m), with ties counted half. On tasks that are ``paired``, each run of the first stands against the run of
    the second in the same place alone.

    Agarwal et al. 2021, sec. 4.3.
    """
    asked = paired or [False] * len(first)
    wins = [
        np.mean(_above(x, y), axis=-1) if same else np.mean(_above(x[..., :, None], y[..., None, :]), axis=(-2, -1))
        for x, y, same in zip(first, second, asked, strict=True)
    ]
    return np.mean(wins, axis=0)


def stratified(
    statistic: Callable[..., Array], *methods: Runs, drawn: Sequence[Runs] | None = None, paired: Sequence[bool] = ()
) -> Estimate:
    """A statistic of methods' runs with its interval by stratified bootstrap; ``n`` counts runs.

    Runs are resampled within each task, independently for each method, and percentiles are taken, as in rliable (Agarwal et
    al. 2021, sec. 4.1). That alone takes a score as known, though it rests on a sample of prompts which all methods share. So
    ``drawn`` may give the same runs' scores on prompts resampled for all methods together, [RESAMPLES, runs] for each task of
    each method. On tasks that are ``paired``, whose runs stand for the same bases in the same order, the same runs are drawn
    for all methods. One run per task still tells nothing about training, and three are too few to resample: such intervals
    are too narrow. Read them as lower limits of the uncertainty, and rank by `compare`.
    """
    rng = np.random.default_rng(SEED)
    rows = np.arange(RESAMPLES)[:, None]

    def pick(place: int, scores: Array) -> Array:
        runs = scores.shape[-1]
        own = np.random.default_rng([SEED, place]) if paired and paired[place] else rng
        return np.broadcast_to(scores, (RESAMPLES, runs))[rows, own.integers(0, runs, (RESAMPLES, runs))]

    replicates = statistic(*([pick(*task) for task in enumerate(runs)] for runs in drawn or methods))
    low, high = np.quantile(replicates, [TAIL, 1 - TAIL])
    return Estimate(float(statistic(*methods)), float(low), float(high), sum(len(task) for runs in methods for task in runs))


def _above(x: Array, y: Array) -> Array:
    return (x > y) + (x == y) / 2
