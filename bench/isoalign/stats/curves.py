"""Curves along the budget: a method's KL, score and proxy reward at each snapshot, as measured and as they might have been.

A method's *gold score* at a point is its gain: how far its mean moved from the base's in the direction that is better, paired
by prompt. Its *proxy* is the reward model's mean score. d = sqrt(KL) is the distance from the base, KL exact, in nats per
completion.

Every interval is 95% and taken from the same replicates of the curves: prompts are resampled, the same ones for all methods,
and what seeds add is drawn from a t as wide as their variance component. `stats.hierarchical` computes means slightly more
precisely (its intervals are about 7% narrower), but has no replicates of whole curves. With one seed the spread of training is
unknown, and an interval holds for that seed only.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import compress, pairwise

import numpy as np
from scipy.special import gammaincinv, ndtri, stdtrit

from isoalign.core.objective import TOXICITY, Objective, objective_of
from isoalign.core.records import Card, Estimate, Point
from isoalign.stats.intervals import SEED, TAIL, Array, resample
from isoalign.stats.lines import Line

NONE = Estimate(None, None, None, 0)
SKIPPED = (
    4  # snapshots of another run in a row; KL decides where they lie, and runs of the published boards skip three at most
)


@dataclass(frozen=True, eq=False)
class Paths:
    """Means over prompts along the budget, each [..., seeds, points]: exact KL, the objective's score, and the proxy, which is
    None if any point lacks it. ``rising``: whether a higher score is better."""

    kl: Array
    level: Array
    proxy: Array | None
    rising: bool = False

    @property
    def gold(self) -> Array:
        """The gain over the base, which is the first point [..., seeds, points]."""
        return self.level - self.level[..., :1] if self.rising else self.level[..., :1] - self.level

    @property
    def rise(self) -> Array:
        """The proxy minus that of the base [..., seeds, points]: the zero of a reward model is arbitrary."""
        if self.proxy is None:
            raise ValueError("these curves have no proxy")
        return self.proxy - self.proxy[..., :1]

    @cached_property
    def pooled(self) -> Paths:
        """Means over seeds, each [..., points]."""
        proxy = None if self.proxy is None else self.proxy.mean(-2)
        return Paths(self.kl.mean(-2), self.level.mean(-2), proxy, self.rising)


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of one method. ``fraction`` [points] of the budget, mean over seeds; ``table`` [metrics, seeds, points,
    prompts] holds KL, score and, if known, the proxy, at points that all seeds have; ``missing`` counts prompts that are left
    out for a missing value; ``rising``: whether a higher score is better; ``runs``: for each seed its runs, each with all of
    its points; ``bases``: of each seed, where the task has several and a seed stands for the runs on one base, of which
    ``table`` has the mean: curves of the same bases vary together; ``sparse``: runs with too few points for a best one."""

    name: str
    fraction: Array
    table: Array
    missing: int = 0
    rising: bool = False
    runs: tuple[tuple[Array, ...], ...] = ()
    bases: tuple[int, ...] = ()
    sparse: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[tuple[Array, ...], ...]:
        """For each seed, or base, its runs with all of their points [metrics, points, prompts], which may differ in number."""
        return self.runs or tuple((self.table[:, seed],) for seed in range(self.seeds))

    @property
    def every_run(self) -> tuple[Array, ...]:
        """The runs of all seeds."""
        return tuple(run for same in self.own for run in same)

    @cached_property
    def scores(self) -> tuple[tuple[Line, ...], ...]:
        """The scores of `own` against KL."""
        return tuple(tuple(Line(run[0], run[1]) for run in same) for same in self.own)

    @cached_property
    def gains(self) -> tuple[tuple[Line, ...], ...]:
        """The gains over the base of `own` against KL."""
        sign = 1 if self.rising else -1
        return tuple(tuple(Line(run[0], sign * (run[1] - run[1, :1])) for run in same) for same in self.own)

    @property
    def seeds(self) -> int:
        """Number of seeds with a curve."""
        return self.table.shape[1]

    @property
    def prompts(self) -> int:
        """Number of prompts that everything is computed on."""
        return self.table.shape[3]

    @cached_property
    def observed(self) -> Paths:
        """The measured curves [seeds, points]."""
        return self._paths(self.table.mean(-1))

    @property
    def replicates(self) -> Paths:
        """Bootstrap replicates of the curves [replicates, seeds, points], kept for a while; needs two prompts.

        Prompts are resampled, the same draws for all methods, with the width widened for small samples. For the seeds all
        curves of a replicate are shifted together along the directions in which seeds differ, sum_s xi_s (m_s - m) /
        sqrt(S (S - 1)), xi standard normal over the root of a chi-square by its degrees of freedom: a t with S - 1 degrees of
        freedom in any statistic that is linear in the curves. Curves of the same bases have the same xi and chi-square, so
        that what a base does to all of them cancels in their differences.
        """
        return _replicates(self)

    def drawn(self) -> Paths:
        """The replicates, made anew."""
        shape, n = self.table.shape[:3], self.prompts
        flat, value = self.table.reshape(-1, n), self.table.mean(-1)
        drawn = resample(lambda weights: weights @ flat.T / n, n).reshape(-1, *shape)
        small = math.sqrt(n / (n - 1)) * stdtrit(n - 1, TAIL) / ndtri(TAIL)
        moved = value + small * (drawn - value) + self._seed_shifts(len(drawn))
        return self._paths(np.moveaxis(moved, 1, 0))

    def _paths(self, means: Array) -> Paths:
        """Paths from means [metrics, ...], for replicates [metrics, replicates, ...]."""
        return Paths(means[0], means[1], means[2] if len(means) > 2 else None, self.rising)

    def _seed_shifts(self, resamples: int) -> Array:
        """Shifts by the seeds [replicates, metrics, 1, points], without the part of their spread that prompts explain."""
        seeds, n = self.seeds, self.prompts
        if seeds == 1:
            return np.zeros((1, len(self.table), 1, len(self.fraction)))
        value = self.table.mean(-1)
        apart = value - value.mean(1, keepdims=True)
        rest = self.table - self.table.mean(1, keepdims=True) - apart[..., None]
        noise = np.square(rest).sum((1, 3)) / ((seeds - 1) * (n - 1)) / n
        spread = np.square(apart).sum(1) / (seeds - 1)
        kept = np.sqrt(np.maximum(1 - np.divide(noise, spread, out=np.ones_like(noise), where=spread > 0), 0))
        # evenly spaced quantiles in random order: bounds from random draws of a t with two degrees of freedom would be
        # unstable. Seeded by name, so that methods vary independently, or by the bases, so that they vary together.
        shared = repr(self.bases) if self.bases else self.name
        rng = np.random.default_rng([SEED, zlib.crc32(shared.encode())])
        even = (rng.permuted(np.tile(np.arange(resamples), (seeds + 1, 1)), axis=1) + 0.5) / resamples
        chi = np.sqrt(2 * gammaincinv((seeds - 1) / 2, even[-1]) / (seeds - 1))
        steps = ndtri(even[:-1]) / chi / math.sqrt(seeds * (seeds - 1))
        return np.einsum("sr,msk->rmk", steps, apart * kept[:, None])[:, :, None]


@lru_cache(maxsize=64)  # a MB each
def _replicates(curves: Curves) -> Paths:
    return curves.drawn()


def has_curve(card: Card) -> bool:
    """Whether a card has a curve that begins at the base."""
    return len(card.curve) > 1 and card.curve[0].fraction == 0


def collect(methods: Mapping[str, Sequence[Card]], among: Collection[str] | None = None) -> dict[str, Curves]:
    """Curves of the methods that have some, on the prompts with KL and score at every point of every method ``among`` them
    (all, by default).

    A method with under half as many such prompts as another would leave little of all: it has no curve, nor has one that lacks
    some of the prompts without being ``among`` those that decide on them. All cards are of one objective. Curves of different
    lengths are aligned to the shortest, by the nearest fraction. Cards of one seed are averaged. A card whose first point is
    not the base has no curve: all gains would be those over its first snapshot.
    """
    objective = next((objective_of(card) for cards in methods.values() for card in cards), TOXICITY)
    runs = {name: list(filter(has_curve, cards)) for name, cards in methods.items()}
    tables = {name: _Table(found, objective) for name, found in runs.items() if found}
    tables = {name: table for name, table in tables.items() if table.whole}
    if not tables:
        return {}
    deciding = {name: table for name, table in tables.items() if among is None or name in among} or tables
    most = max(len(table.whole) for table in deciding.values())
    deciding = {name: table for name, table in deciding.items() if 2 * len(table.whole) >= most}
    everyone = set.union(*(table.prompts for table in deciding.values()))
    kept = set.intersection(*(table.whole for table in deciding.values()))
    missing = len(everyone) - len(kept)
    return {name: table.curves(name, sorted(kept), missing) for name, table in tables.items() if kept and kept <= table.whole}


class _Table:
    """The values of one method's runs, before prompts are chosen."""

    def __init__(self, cards: Sequence[Card], objective: Objective) -> None:
        self.cards, self.objective = cards, objective
        points = [point for card in cards for point in card.curve]
        self.prompts = {prompt for point in points for prompt in point.values.get(objective.level, {})}
        self.metrics = ["kl", objective.level, "proxy_reward"]
        self.whole = self._complete(points)
        if not self.whole:
            self.metrics = self.metrics[:2]
            self.whole = self._complete(points)

    def _complete(self, points: Sequence[Point]) -> set[str]:
        """The prompts with a value of every metric at every point."""
        prompts = list(self.prompts)
        columns = [list(map(point.values.get(metric, {}).get, prompts)) for point in points for metric in self.metrics]
        return set(compress(prompts, np.isfinite(np.array(columns, dtype=float)).all(0)))

    def curves(self, name: str, prompts: Sequence[str], missing: int) -> Curves:
        def column(point: Point, metric: str) -> list[float | None]:
            return [point.values[metric][prompt] for prompt in prompts]

        def of_run(run: Sequence[Point]) -> Array:
            return np.array([[column(point, metric) for point in run] for metric in self.metrics], dtype=float)

        aligned = _aligned(self.cards)
        fraction = np.array([[point.fraction for point in run] for seed in aligned.values() for run in seed]).mean(0)
        table = np.stack([np.mean([of_run(run) for run in seed], axis=0) for seed in aligned.values()], 1)
        in_order = sorted(self.cards, key=lambda card: card.seed)
        runs = tuple(tuple(of_run(card.curve) for card in in_order if card.cluster == seed) for seed in aligned)
        bases = tuple(aligned) if all(card.base is not None for card in self.cards) else ()
        return Curves(name, fraction, table, missing, self.objective.higher_is_better, runs, bases, _sparse(in_order))


def _aligned(cards: Sequence[Card]) -> dict[int, list[list[Point]]]:
    """Runs by seed, or by base where a task has several, in order, all with as many points as the shortest run: of each the
    points nearest to its fractions, and the end."""
    shortest = min((card.curve for card in cards), key=len)
    runs: dict[int, list[list[Point]]] = defaultdict(list)
    for card in sorted(cards, key=lambda card: card.seed):
        between = [min(card.curve, key=lambda p: abs(p.fraction - at.fraction)) for at in shortest[:-1]]
        runs[card.cluster].append([*between, card.curve[-1]])
    return dict(sorted(runs.items()))


def _sparse(cards: Sequence[Card]) -> tuple[str, ...]:
    """Runs with less than half as many snapshots as another, or none where another has `SKIPPED` or more in a row. All runs
    are read at the points of the shortest, so one of these alone would move the best point of all, or hide it."""
    runs = [[point.fraction for point in card.curve] for card in cards]
    most = max(map(len, runs)) - 1

    def skips(run: Sequence[float]) -> int:
        spans = list(pairwise([*run, math.inf]))
        return max(sum(low < at < high for at in other) for other in runs for low, high in spans)

    return tuple(
        f"seed {card.seed}" + ("" if card.base is None else f" on base {card.base}")
        for card, run in zip(cards, runs, strict=True)
        if 2 * (len(run) - 1) < most or skips(run) >= SKIPPED
    )


def bands(curves: Curves, metric: Callable[[Paths], Array]) -> tuple[Array, Array] | None:
    """Pointwise 95% bounds [points] of a mean curve; None with one prompt."""
    if curves.prompts < 2:
        return None
    low, high = np.quantile(metric(curves.replicates.pooled), [TAIL, 1 - TAIL], axis=0)
    return low, high


def estimate(methods: Sequence[Curves], statistic: Callable[..., Array]) -> Estimate:
    """A statistic of the curves of one or several methods on the same prompts, with a percentile interval."""
    n, missing = methods[0].prompts, methods[0].missing
    value = float(statistic(*(curves.observed for curves in methods)))
    if n < 2:
        return Estimate(value, None, None, n, missing)
    return Estimate(value, *percentiles(statistic(*(curves.replicates for curves in methods))), n, missing)


def percentiles(replicates: Array, method: str = "linear") -> tuple[float | None, float | None]:
    """The bounds of a 95% percentile interval, None where infinite; replicates that are NaN are left out."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return None, None
    low, high = (float(bound) for bound in np.quantile(known, [TAIL, 1 - TAIL], method=method))  # type: ignore[call-overload]
    return low if math.isfinite(low) else None, high if math.isfinite(high) else None
