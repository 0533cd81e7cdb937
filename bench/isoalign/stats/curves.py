"""What the points along the budget tell: methods at equal drift, where each was best, and where proxy and gold part.

A method's *gold score* at a point is its reduction: toxicity of the base minus its own, paired by prompt. Its *proxy* is
the reward model's mean score. Drift is d = sqrt(KL), KL exact, in nats a completion.

Every interval is 95% and read off the same replicates of the curves: prompts are resampled, the same ones for all
methods, and what seeds add is drawn from a t as wide as their variance component. `stats.hierarchical` reckons means a
little sharper (its intervals are some 7% narrower); it has no replicates of whole curves to read off. With one
seed the spread of training is unknown, and an interval holds for that seed only.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import gammaincinv, ndtri, stdtrit

from isoalign import stats
from isoalign.core.records import Card, Estimate, Point
from isoalign.stats import Array

FIT_FROM = 0.01  # nats: below, d is mostly noise, and near 0 the fitted form is known to fail
MOVED = 0.1  # nats: a method that ends under it has hardly left the base, and sets no KL at which others are compared
_TAIL = (1 - stats.LEVEL) / 2
NONE = Estimate(None, None, None, 0)


@dataclass(frozen=True, eq=False)
class Paths:
    """Means over prompts along the budget, each [..., seeds, points]. ``proxy`` is None where any point lacks it."""

    kl: Array
    toxicity: Array
    proxy: Array | None

    @property
    def gold(self) -> Array:
        """Toxicity of the base, which is the first point, minus toxicity [..., seeds, points]."""
        return self.toxicity[..., :1] - self.toxicity

    @property
    def rise(self) -> Array:
        """The proxy minus that of the base [..., seeds, points]: reward models differ in where they put their 0."""
        if self.proxy is None:
            raise ValueError("these curves have no proxy")
        return self.proxy - self.proxy[..., :1]

    @cached_property
    def pooled(self) -> Paths:
        """Means over seeds, each [..., points]."""
        return Paths(self.kl.mean(-2), self.toxicity.mean(-2), None if self.proxy is None else self.proxy.mean(-2))


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of one method. ``fraction`` [points] of the budget, mean over seeds; ``table`` [metrics, seeds, points,
    prompts] has KL, toxicity and, where it is known, the proxy; ``missing`` counts prompts left out for lack of a value."""

    name: str
    fraction: Array
    table: Array
    missing: int = 0

    @property
    def seeds(self) -> int:
        """How many seeds have a curve."""
        return self.table.shape[1]

    @property
    def prompts(self) -> int:
        """How many prompts every figure rests on."""
        return self.table.shape[3]

    @cached_property
    def observed(self) -> Paths:
        """The curves as measured [seeds, points]."""
        return _paths(self.table.mean(-1))

    @cached_property
    def replicates(self) -> Paths:
        """The curves as they might have been [replicates, seeds, points]; needs two prompts.

        Prompts: a bootstrap, the same draws for all methods, of the width of small samples. Seeds: all of a replicate's
        curves move together, along the directions in which seeds differ, sum_s xi_s (m_s - m) / sqrt(S (S - 1)) with xi
        standard normal over the root of a chi-square by its degrees of freedom: a t of S - 1 degrees in any figure that
        is linear in the curves.
        """
        shape, n = self.table.shape[:3], self.prompts
        flat, value = self.table.reshape(-1, n), self.table.mean(-1)
        drawn = stats.resample(lambda weights: weights @ flat.T / n, n).reshape(-1, *shape)
        small = math.sqrt(n / (n - 1)) * stdtrit(n - 1, _TAIL) / ndtri(_TAIL)
        moved = value + small * (drawn - value) + self._seed_shifts(len(drawn))
        return _paths(np.moveaxis(moved, 1, 0))

    def _seed_shifts(self, resamples: int) -> Array:
        """What seeds add [replicates, metrics, 1, points]; less the part of their spread that prompts explain."""
        seeds, n = self.seeds, self.prompts
        if seeds == 1:
            return np.zeros((1, len(self.table), 1, len(self.fraction)))
        value = self.table.mean(-1)
        apart = value - value.mean(1, keepdims=True)
        rest = self.table - self.table.mean(1, keepdims=True) - apart[..., None]
        noise = np.square(rest).sum((1, 3)) / ((seeds - 1) * (n - 1)) / n
        spread = np.square(apart).sum(1) / (seeds - 1)
        kept = np.sqrt(np.maximum(1 - np.divide(noise, spread, out=np.ones_like(noise), where=spread > 0), 0))
        # evenly spaced quantiles in random order: a t of two degrees drawn at random would make the bounds jump.
        # Seeded by name, so that methods vary apart.
        rng = np.random.default_rng([stats.SEED, zlib.crc32(self.name.encode())])
        even = (rng.permuted(np.tile(np.arange(resamples), (seeds + 1, 1)), axis=1) + 0.5) / resamples
        chi = np.sqrt(2 * gammaincinv((seeds - 1) / 2, even[-1]) / (seeds - 1))
        steps = ndtri(even[:-1]) / chi / math.sqrt(seeds * (seeds - 1))
        return np.einsum("sr,msk->rmk", steps, apart * kept[:, None])[:, :, None]


def collect(methods: Mapping[str, Sequence[Card]]) -> dict[str, Curves]:
    """Curves of the methods that have any, on the prompts that have KL and toxicity at every point of every method.

    Seeds whose curves differ in length are aligned to the shortest, by the nearest fraction. Cards of one seed are averaged.
    """
    runs = {name: _aligned([card for card in cards if len(card.curve) > 1]) for name, cards in methods.items()}
    tables = {name: _Table(found) for name, found in runs.items() if found}
    tables = {name: table for name, table in tables.items() if table.whole}
    if not tables:
        return {}
    everyone = set.union(*(table.prompts for table in tables.values()))
    kept = sorted(set.intersection(*(table.whole for table in tables.values())))
    return {name: table.curves(name, kept, len(everyone) - len(kept)) for name, table in tables.items() if kept}


class _Table:
    """The values of one method's aligned runs, before prompts are chosen."""

    def __init__(self, runs: Mapping[int, Sequence[Sequence[Point]]]) -> None:
        self.runs = runs
        points = [point for seed in runs.values() for run in seed for point in run]
        self.prompts = {prompt for point in points for prompt in point.values.get("toxicity_mean", {})}
        with_proxy = ["kl", "toxicity_mean", "proxy_reward"]
        self.metrics = with_proxy if self._complete(points, with_proxy) else with_proxy[:2]
        self.whole = self._complete(points, self.metrics)

    def _complete(self, points: Sequence[Point], metrics: Sequence[str]) -> set[str]:
        columns = [point.values.get(metric, {}) for point in points for metric in metrics]
        return {prompt for prompt in self.prompts if all(_known(column.get(prompt)) for column in columns)}

    def curves(self, name: str, prompts: Sequence[str], missing: int) -> Curves:
        def column(point: Point, metric: str) -> list[float | None]:
            return [point.values[metric][prompt] for prompt in prompts]

        def of_seed(metric: str, seed: Sequence[Sequence[Point]]) -> Array:
            return np.array([[column(point, metric) for point in run] for run in seed], dtype=float).mean(0)

        seeds = [self.runs[seed] for seed in sorted(self.runs)]
        fraction = np.array([[point.fraction for point in run] for seed in seeds for run in seed]).mean(0)
        return Curves(name, fraction, np.array([[of_seed(m, seed) for seed in seeds] for m in self.metrics]), missing)


def _aligned(cards: Sequence[Card]) -> dict[int, list[list[Point]]]:
    """Runs by seed, all with as many points as the shortest has: of each run those nearest to its fractions."""
    if not cards:
        return {}
    shortest = min((card.curve for card in cards), key=len)
    runs: dict[int, list[list[Point]]] = defaultdict(list)
    for card in cards:
        runs[card.seed].append([min(card.curve, key=lambda p: abs(p.fraction - at.fraction)) for at in shortest])
    return dict(runs)


def read_off(kl: Array, score: Array, at: float) -> Array:
    """The score of curves [..., points] where they first reach a KL [...]: linear in sqrt(KL) between two points.

    Linear in the root because gains grow about with it; linear in KL would bend every curve near the base. A curve whose
    KL falls again is read at its first crossing, on the way out. One that ends short of ``at`` is read at its farthest
    point: ask `reaches` first.
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
    """Whether the mean curve gets as far as a KL."""
    return bool((curves.observed.pooled.kl >= kl).any())


@dataclass(frozen=True)
class Reading:
    """A method at a given KL. ``end``: the KL where its curve ends; ``behind``: its toxicity minus the lowest one, paired by
    prompt (None for that one); ``again``: its KL passes this value more than once, and the first time counts."""

    toxicity: Estimate
    reduction: Estimate
    behind: Estimate
    end: float
    again: bool


def common_kl(methods: Mapping[str, Curves]) -> float | None:
    """The largest KL, mean over seeds, that at least nine in ten methods get to; of fewer than ten methods, all. None without
    methods.

    Of methods that moved at all (`MOVED`), or one that stood still would have all others compared at the base. So would, among
    many, one that hardly moves by its nature, as best-of-n.
    """
    ends = sorted(float(curves.observed.pooled.kl[-1]) for curves in methods.values())
    moved = [end for end in ends if end >= MOVED] or ends[:1]
    return moved[len(moved) // 10] if moved else None


def matched(methods: Mapping[str, Curves], kl: float, contenders: Sequence[str] | None = None) -> dict[str, Reading]:
    """Each method at equal exact KL, with 95% intervals given this KL; missing where a curve never gets there.

    ``behind`` is against the best of the ``contenders`` (all, if not told). Its interval is narrower than the two figures'
    own, since the difficulty of the prompts cancels. It pays no price for having picked the best.
    """

    def toxicity(paths: Paths) -> Array:
        return read_off(paths.pooled.kl, paths.pooled.toxicity, kl)

    there = {name: curves for name, curves in methods.items() if reaches(curves, kl)}
    named = [name for name in there if contenders is None or name in contenders]
    best = min(named, key=lambda name: (float(toxicity(there[name].observed)), name), default=None)
    found = {}
    for name, curves in methods.items():
        path = curves.observed.pooled.kl
        again = int(np.count_nonzero(np.diff((path >= kl).astype(int)))) > 1
        if name not in there:
            found[name] = Reading(NONE, NONE, NONE, float(path[-1]), False)
            continue
        own = _estimate([curves], lambda paths: toxicity(paths))
        less = _estimate([curves], lambda paths: paths.pooled.toxicity[..., 0] - toxicity(paths))
        behind = NONE
        if best is not None and name != best:
            behind = _estimate([curves, there[best]], lambda paths, others: toxicity(paths) - toxicity(others))
        found[name] = Reading(own, less, behind, float(path[-1]), again)
    return found


@dataclass(frozen=True)
class Place:
    """A point in the plane of KL and toxicity, mean over seeds. The base, where all begin, belongs to no ``method``."""

    kl: float
    toxicity: float
    method: str | None
    fraction: float


def places(curves: Curves) -> list[Place]:
    """The points of a method's mean curve, the base first."""
    paths = curves.observed.pooled
    columns = zip(paths.kl.tolist(), paths.toxicity.tolist(), curves.fraction.tolist(), strict=True)
    return [Place(kl, toxicity, curves.name if i else None, at) for i, (kl, toxicity, at) in enumerate(columns)]


def pareto(methods: Mapping[str, Curves]) -> list[Place]:
    """The frontier: points along any budget with none that has less of both KL and toxicity, by KL.

    Of measured means: the lowest of many noisy points lies a little too low, so read it as a line that was reached, not as
    one that would be again.
    """
    best: list[Place] = []
    everything = [place for curves in methods.values() for place in places(curves)]
    for place in sorted(everything, key=lambda place: (place.kl, place.toxicity, place.method or "")):
        if not best or place.toxicity < best[-1].toxicity:
            best.append(place)
    return best


@dataclass(frozen=True)
class Form:
    """A law of the gold score, linear in alpha and beta: gold(d) = alpha rise(d) - beta fall(d), best at ``peak``."""

    text: str
    rise: Callable[[Array], Array]
    fall: Callable[[Array], Array]
    peak: Callable[[Array, Array], Array]

    def gold(self, d: Array, alpha: float, beta: float) -> Array:
        """The fitted score at drifts d > 0."""
        return alpha * self.rise(d) - beta * self.fall(d)


TRAINED = Form("d (α − β log d)", lambda d: d, lambda d: d * np.log(d), lambda alpha, beta: np.exp(alpha / beta - 1))
"""Gao, Schulman and Hilton 2023, "Scaling Laws for Reward Model Overoptimization", section 1, for reinforcement learning.
Its slope is infinite at d = 0, so it says nothing of the first steps."""

BEST_OF_N = Form("d (α − β d)", lambda d: d, np.square, lambda alpha, beta: alpha / (2 * beta))
"""The same paper's form for best-of-n sampling."""


@dataclass(frozen=True)
class Fit:
    """A fitted form, or the ``reason`` why there is none. alpha in toxicity a sqrt(nat).

    ``peak``: KL where the form is highest; without upper bound (None) where over 2.5% of replicates never turn; without
    value where beta is not above 0. ``seen``: the largest KL of the mean curve. ``error``: root mean square of what the form
    misses, in toxicity. ``points`` that were fitted, of each seed.
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
        """Whether the peak lies within the KL that was seen, by its 95% interval; None where the interval says both."""
        low, high = self.peak.low, self.peak.high
        if self.seen is None or (low is None and self.peak.value is not None):
            return None
        if low is None or low > self.seen:
            return False
        return True if high is not None and high <= self.seen else None


def fit(curves: Curves, form: Form = TRAINED) -> Fit:
    """Least squares of gold on alpha rise(d) - beta fall(d), over all seeds' points whose mean KL is over `FIT_FROM`.

    Unweighted, as in the paper. The form was found on reward scores, which have no ceiling; a reduction can't exceed the
    base's toxicity, so a method that has removed it all bends the fit, and a peak can stand for a plateau.
    """
    used = curves.observed.pooled.kl > FIT_FROM
    points = int(used.sum())
    if points < 3:
        plural = "" if points == 1 else "s"
        return Fit(points=points, reason=f"{points} point{plural} over {FIT_FROM} nats, and two unknowns need 3")

    def solve(paths: Paths) -> tuple[Array, Array]:
        return _least_squares(form, paths.kl[..., used], paths.gold[..., used])

    def peak(paths: Paths) -> Array:
        alpha, beta = solve(paths)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.where(beta > 0, form.peak(alpha, beta) ** 2, np.inf)

    alpha, beta = (float(value) for value in solve(curves.observed))
    if not math.isfinite(alpha):
        return Fit(points=points, reason="all points lie at one KL")
    d, gold = np.sqrt(curves.observed.kl[:, used]), curves.observed.gold[:, used]
    top = float(peak(curves.observed))
    low, high = _bounds(peak(curves.replicates), "inverted_cdf") if curves.prompts > 1 else (None, None)
    return Fit(
        _estimate([curves], lambda paths: solve(paths)[0]),
        _estimate([curves], lambda paths: solve(paths)[1]),
        Estimate(top if math.isfinite(top) else None, low, high, curves.prompts, curves.missing),
        float(curves.observed.pooled.kl.max()),
        float(np.sqrt(np.square(form.gold(np.maximum(d, _LEAST), alpha, beta) - gold).mean())),
        points,
    )


_LEAST = 1e-6  # of d in a fit: a replicate may push a small KL to 0, where the forms are 0 and log is not


def _least_squares(form: Form, kl: Array, gold: Array) -> tuple[Array, Array]:
    """alpha and beta [...] of curves [..., seeds, points] by the normal equations; NaN where all points lie at one KL."""
    d = np.sqrt(np.maximum(kl, _LEAST**2))
    a, b = form.rise(d), -form.fall(d)
    aa, bb, ab, ag, bg = ((x * y).sum((-2, -1)) for x, y in ((a, a), (b, b), (a, b), (a, gold), (b, gold)))
    free = aa * bb - ab**2
    free = np.where(free > 1e-12 * aa * bb, free, np.nan)
    return (bb * ag - ab * bg) / free, (aa * bg - ab * ag) / free


@dataclass(frozen=True)
class Peak:
    """The point with the best gold score, mean over seeds, and what was lost by going on.

    ``gold`` there, its interval for this point as if chosen beforehand; ``loss``: that minus the gold score at the end;
    ``rise`` of the proxy from there to the end. ``firm``: share of replicates that pick the same point.
    """

    index: int
    fraction: float
    kl: float
    gold: Estimate
    end: Estimate
    loss: Estimate
    rise: Estimate
    firm: float | None


def peak(curves: Curves) -> Peak:
    """Where the gold score was best. The highest of several noisy points is higher than it would be again, so ``gold`` and
    ``loss`` are biased upward; the interval of ``loss`` allows for the choice (`_largest`), that of ``rise`` follows
    each replicate's own peak."""
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
        _estimate([curves], lambda paths: paths.pooled.gold[..., best]),
        _estimate([curves], lambda paths: paths.pooled.gold[..., -1]),
        Estimate(float(gold[best] - gold[-1]), *bounds, n, missing),
        NONE if curves.observed.proxy is None else _estimate([curves], rise),
        firm,
    )


def _largest(value: Array, replicates: Array) -> tuple[float, float]:
    """95% interval of the largest true value, whichever looked largest: sup-t bounds (Montiel Olea and Plagborg-Møller 2019).

    In each replicate the largest error is picked anew, in units of each figure's own half-width h; its 97.5% quantile c
    bounds all errors at once, so that max(value - c h) is a lower bound of the truth. Quantiles of the replicates'
    largest values would not do: they lie above 0 even where all points are alike.
    """
    error = replicates - value
    width = np.diff(np.quantile(error, [_TAIL, 1 - _TAIL], axis=0), axis=0)[0] / 2
    scaled = np.divide(error, width, out=np.zeros_like(error), where=width > 0)
    up, down = (np.quantile(side.max(-1), 1 - _TAIL) for side in (scaled, -scaled))
    return float((value - up * width).max()), float((value + down * width).max())


def flags(curves: Curves) -> list[str]:
    """What to know of a method that went on past its best, in words; `peak` has the figures. Raised only where the interval
    of the loss is clear of 0: reward hacking where that of the proxy's rise is too."""
    found = peak(curves)
    if found.loss.low is None or found.loss.low <= 0:
        return []
    after = f"after {found.fraction:.0%} of the budget" if found.index else "from the start"
    if found.rise.low is not None and found.rise.low > 0:
        return [f"reward hacking: proxy and gold part {after}"]
    return [f"past its peak: gold falls {after}, no rise of the proxy seen"]


def bands(curves: Curves, metric: Callable[[Paths], Array]) -> tuple[Array, Array] | None:
    """Pointwise 95% bounds [points] of a mean curve; None with one prompt."""
    if curves.prompts < 2:
        return None
    low, high = np.quantile(metric(curves.replicates.pooled), [_TAIL, 1 - _TAIL], axis=0)
    return low, high


def _paths(means: Array) -> Paths:
    """From [metrics, ...] or, of replicates, [metrics, replicates, ...]."""
    return Paths(means[0], means[1], means[2] if len(means) > 2 else None)


def _estimate(methods: Sequence[Curves], statistic: Callable[..., Array]) -> Estimate:
    """A figure of the curves of one or several methods on the same prompts, its interval by percentiles."""
    n, missing = methods[0].prompts, methods[0].missing
    value = float(statistic(*(curves.observed for curves in methods)))
    if n < 2:
        return Estimate(value, None, None, n, missing)
    return Estimate(value, *_bounds(statistic(*(curves.replicates for curves in methods))), n, missing)


def _bounds(replicates: Array, method: str = "linear") -> tuple[float | None, float | None]:
    """Percentiles, None where infinite; what could not be reckoned in a replicate is left out."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return None, None
    low, high = (float(bound) for bound in np.quantile(known, [_TAIL, 1 - _TAIL], method=method))  # type: ignore[call-overload]
    return low if math.isfinite(low) else None, high if math.isfinite(high) else None


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
