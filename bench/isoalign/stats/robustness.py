"""How methods' scores and ranks change along an axis, such as the annotators' noise: is the order of methods stable?

Everything is computed on the prompts that every method has at every axis value. Intervals allow for the prompts, resampled
for all methods and axis values together, since all answered the same, and for the seeds, which were trained independently.
One seed says nothing of its method: it may have any rank, and an order with it has no interval. Whether one method is better
than another is decided by `isoalign.stats.compare`; this module says how stable an order is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.lazy import scipy
from isoalign.core.records import Estimate
from isoalign.stats import Array, Seeds

Cell = tuple[float, str]
"""An axis value and a method."""
LEVELS = np.array([0.025, 0.975])


@dataclass(frozen=True)
class Standing:
    """A method at an axis value: its mean over seeds and prompts, and its rank, 1 for the best mean; equal means share the
    mean of their ranks. ``n`` counts prompts."""

    mean: Estimate
    rank: Estimate


@dataclass(frozen=True)
class Stability:
    """Rank correlations of the order of methods at an axis value with that at the first one, over the ``n`` methods that have
    both; those in ``left_out`` have one only. None for fewer than two methods, and if all are equal."""

    spearman: Estimate
    kendall: Estimate
    left_out: list[str]


@dataclass(frozen=True)
class Robustness:
    """``standings`` by axis value and method, best first. ``stability`` of each axis value but the first. ``slopes`` of each
    method, in score per unit of the axis; None with one axis value. ``prompts``: number used; ``missing``: number left out."""

    standings: dict[float, dict[str, Standing]]
    stability: dict[float, Stability]
    slopes: dict[str, Estimate]
    prompts: int
    missing: int


def robustness(axis: Mapping[float, Mapping[str, Seeds]], higher_is_better: bool = False) -> Robustness:
    """How scores by axis value and method change, in the order given: others are compared with the first axis value.

    A method without seeds, or without a prompt that has a value for every seed, counts as missing at that axis value. Raises
    UserError for fewer than two axis values, for ones that are not finite, and for scores on different prompts.
    """
    cells, missing = _whole(axis)
    tables = dict(zip(cells, stats.tables_of(list(cells.values())), strict=True))
    drawn, wider = _drawn(tables), _drawn(tables, of_ranks=True)
    methods = {value: [method for v, method in cells if v == value] for value in axis}
    first, *others = axis
    sign = -1 if higher_is_better else 1
    return Robustness(
        {value: _standings([(value, m) for m in names], cells, tables, wider, sign) for value, names in methods.items()},
        {value: _stability(first, value, methods, tables, drawn) for value in others},
        {m: _slope({v: tables[v, m] for v in axis if (v, m) in tables}) for m in dict.fromkeys(m for _, m in cells)},
        len(next(iter(cells.values()))[0]) if cells else 0,
        missing,
    )


def spearman(x: Array, y: Array) -> Array:
    """Spearman's rank correlation over the last axis; ties have mean ranks. NaN if all values of either are equal."""
    ranks = [scipy.stats.rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (x, y)]
    return _cosine(*ranks)


def kendall(x: Array, y: Array) -> Array:
    """Kendall's tau-b (1945) over the last axis. NaN if all values of either are equal."""
    one, other = np.triu_indices(x.shape[-1], 1)
    return _cosine(*(np.sign(values[..., one] - values[..., other]) for values in (x, y)))


def _whole(axis: Mapping[float, Mapping[str, Seeds]]) -> tuple[dict[Cell, Seeds], int]:
    """The scores on the prompts that all have, and the number of prompts left out."""
    if len(axis) < 2:
        raise UserError(f"robustness needs two axis values or more, not {len(axis)}; run the methods at another one")
    if odd := [value for value in axis if not math.isfinite(value)]:
        raise UserError(f"axis value {odd[0]} is not a finite number")
    cells = {(value, name): seeds for value, methods in axis.items() for name, seeds in methods.items() if seeds}
    tables = stats.tables_of(list(cells.values()))
    known = {cell: there for cell, table in zip(cells, tables, strict=True) if (there := np.isfinite(table).all(0)).any()}
    prompts = sorted(next(iter(cells.values()))[0]) if cells else []
    whole = np.all(list(known.values()), axis=0) if known else np.zeros(len(prompts), dtype=bool)
    kept = [prompt for prompt, there in zip(prompts, whole, strict=True) if there]
    complete: dict[Cell, Seeds] = {cell: [{p: seed[p] for p in kept} for seed in cells[cell]] for cell in known}
    return complete, len(prompts) - len(kept)


def _drawn(tables: Mapping[Cell, Array], of_ranks: bool = False) -> dict[Cell, Array]:
    """Replicates of the means [resamples]: prompts resampled for all together, an independent normal for the seeds of each.

    As in `isoalign.stats.hierarchical`: three seeds can't be resampled, and what is neither prompt nor seed is counted once.
    ``of_ranks``: for intervals of single ranks, where two seeds that agree by chance would fix one: the draws of seeds have
    Student's distribution, by their number.
    Empty with fewer than two prompts.
    """
    means = [table.mean(0) for table in tables.values()]
    if not means or len(means[0]) < 2:
        return {}
    parts = [stats.parts_of(mean, [table]) for mean, table in zip(means, tables.values(), strict=True)]
    centre = np.array([part.value for part in parts])
    scaled = (np.array(means).T - centre) * [part.scale / len(means[0]) for part in parts]
    moved = stats.resample(lambda weights: weights @ scaled, len(scaled))
    rng, freedom = np.random.default_rng(stats.SEED), [max(len(table) - 1, 1) for table in tables.values()]
    drawn = rng.standard_t(freedom, size=moved.shape) if of_ranks else rng.normal(size=moved.shape)
    seeds = drawn * np.sqrt([part.seeds for part in parts])
    return dict(zip(tables, (centre + moved + seeds).T, strict=True))


def _standings(
    cells: Sequence[Cell],
    scores: Mapping[Cell, Seeds],
    tables: Mapping[Cell, Array],
    drawn: Mapping[Cell, Array],
    sign: int,
) -> dict[str, Standing]:
    means = {cell: stats.hierarchical(scores[cell]) for cell in cells}
    ranks = scipy.stats.rankdata(sign * _means(cells, tables))
    several = [cell for cell in cells if len(tables[cell]) > 1]
    lone = len(cells) - len(several)
    moved = scipy.stats.rankdata([sign * drawn[cell] for cell in several], axis=0) if drawn and several else []
    replicates = dict(zip(several, moved, strict=False))
    standings = {}
    for cell, rank in zip(cells, ranks.tolist(), strict=True):
        own = _estimate(rank, replicates.get(cell), means[cell].n)
        if cell not in several:
            own = replace(own, low=1.0, high=float(len(cells)))
        elif own.low is not None and own.high is not None:  # whole ranks; those of one seed may all be better
            own = replace(own, low=float(math.floor(own.low)), high=math.ceil(own.high) + float(lone))
        standings[cell[1]] = Standing(means[cell], own)
    return dict(sorted(standings.items(), key=lambda row: row[1].rank.value or 0.0))


def _stability(
    first: float,
    value: float,
    methods: Mapping[float, Sequence[str]],
    tables: Mapping[Cell, Array],
    drawn: Mapping[Cell, Array],
) -> Stability:
    """Noise in scores brings correlations closer to 0, and resampling adds as much noise again: percentiles of the replicates
    are biased towards 0. So both bounds are at least as far from the value as the farther percentile.

    In simulation (eight methods, 256 prompts, one seed or three) such intervals cover the correlation of the true means in 93
    to 99%, percentiles alone in 75 to 99%. If methods differ by less than their standard errors it is 80 to 95%, with
    intervals longer than 1, which mean that no order is known.
    """
    both = [name for name in methods[first] if name in methods[value]]
    cells = [[(at, name) for name in both] for at in (first, value)]
    left_out = sorted({*methods[first], *methods[value]} - {*both})
    if not both:
        return Stability(nothing := Estimate(None, None, None, 0), nothing, left_out)
    x, y = (_means(row, tables) for row in cells)
    lone = any(len(tables[cell]) == 1 for row in cells for cell in row)
    moved = [np.stack([drawn[cell] for cell in row], -1) for row in cells] if drawn and not lone else None

    def estimate(correlation: Callable[[Array, Array], Array]) -> Estimate:
        percentile = _estimate(float(correlation(x, y)), correlation(*moved) if moved else None, len(both))
        if percentile.value is None or percentile.low is None or percentile.high is None:
            return percentile
        low, high = (
            min(percentile.low, 2 * percentile.value - percentile.high),
            max(percentile.high, 2 * percentile.value - percentile.low),
        )
        return replace(percentile, low=max(low, -1.0), high=min(high, 1.0))

    return Stability(estimate(spearman), estimate(kendall), left_out)


def _slope(tables: Mapping[float, Array]) -> Estimate:
    """Least-squares slope of a method's means over axis values: the sum of c means, c = (x - mean x) / sum (x - mean x)^2.

    Up to the factors c it is a difference of means, so its interval is that of `isoalign.stats.compare`.
    """
    n = next(iter(tables.values())).shape[1]
    if len(tables) < 2 or not n:
        return Estimate(None, None, None, n)
    offset = np.array(list(tables)) - np.mean(list(tables))
    scaled = [c * table for c, table in zip(offset / np.square(offset).sum(), tables.values(), strict=True)]
    terms = np.array([table.mean(0) for table in scaled])
    column = terms.sum(0)
    column[np.abs(column) <= 1e-12 * np.abs(terms).sum(0)] = 0.0  # rounding, for a method that does not depend on the axis
    if n < 2:
        return Estimate(float(column[0]), None, None, n)
    part = stats.parts_of(column, scaled)
    if not part.error:
        return Estimate(part.value, part.value, part.value, n)
    draws = stats.drawn_error(stats.resample(lambda weights: weights @ column, n), n, part)
    return Estimate(part.value, *part.bounds(np.quantile(draws, LEVELS)), n)


def _means(cells: Sequence[Cell], tables: Mapping[Cell, Array]) -> Array:
    """Means [cells] without the last digits, in which means of equal numbers over one seed and over three may differ."""
    return np.array([np.round(tables[cell].mean(), 12) for cell in cells])


def _estimate(value: float, replicates: Array | None, n: int) -> Estimate:
    """A value with its percentile interval."""
    if not math.isfinite(value):
        return Estimate(None, None, None, n)
    known = replicates[np.isfinite(replicates)] if replicates is not None else np.zeros(0)
    if not len(known):
        return Estimate(value, None, None, n)
    low, high = np.quantile(known, LEVELS)
    return Estimate(value, float(low), float(high), n)


def _cosine(x: Array, y: Array) -> Array:
    size = np.sqrt(np.square(x).sum(-1) * np.square(y).sum(-1))
    return np.divide((x * y).sum(-1), size, out=np.full_like(size, np.nan), where=size > 0)
