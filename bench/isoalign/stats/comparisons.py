"""Methods compared over seeds and prompts: paired differences, Holm's correction, ranks, what could be resolved."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, combinations

import numpy as np
from scipy.special import nctdtrinc, ndtr, ndtri, stdtr, stdtrit

from isoalign.core.errors import UserError
from isoalign.core.records import Estimate
from isoalign.stats.intervals import LEVEL, SEED, TAIL, Array, finite, resample

Seeds = Sequence[Mapping[str, float | None]]
"""One mapping for each seed: prompt to its value (the mean of its draws)."""
PAIRED = 10_000  # resamples of a comparison of few pairs
FEW = 45  # pairs, as ten methods have
_A_PAIR = 400  # resamples for each of many pairs: of 325 Holm's first step asks for p < .00015
POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """First minus second of two methods, with its 95% interval, over ``n`` prompts; ``missing`` prompts lack a value.

    ``p``: two-sided, of no difference; ``p_holm``: the same after Holm's correction over all pairs that were compared;
    ``error``: standard error; ``freedom``: its degrees of freedom. None where two prompts aren't there.
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

    @property
    def resolved(self) -> bool:
        """Whether the two are told apart, all other pairs considered."""
        return self.p_holm is not None and self.p_holm < 1 - LEVEL


def hierarchical(values: Seeds, minus: Seeds | None = None) -> Estimate:
    """Mean over seeds and prompts, or the difference of two methods on the same prompts; ``n`` counts prompts.

    Seeds and prompts are crossed, y = mu + seed + prompt + rest, and so

        Var(mean) = max(0, MS(prompts) - MS(rest)) / (S P)  +  Var(means of the seeds) / S.

    Prompts are resampled together for both methods, since both answered the same. Seeds vary apart, since they were
    trained apart; three can't be resampled (ten outcomes, which cover about 80%), so what they add is drawn from a normal
    of their variance. Owen 2007, "The pigeonhole bootstrap", shows why resampling both ways counts the rest twice; here it
    is taken out of the prompts, as the means of the seeds hold it already. (Taken out of the seeds, where what is left may
    be negative and is then called 0, intervals covered 98% where seeds don't differ, and 99.5% where they do and 99.9% was
    asked for, which is what Holm asks.)

    How well a variance of few seeds is known decides the width: bounds are those of Student's t with the harmonic mean of
    the two parts' degrees of freedom, weighted by their shares of the variance. Satterthwaite's squared shares are too bold:
    a mean of three seeds is covered in 92% at worst, and of ten equal methods two are told apart on up to 11% of boards.
    This way it is 93 to 97%, and 2 to 6% of boards, with three seeds or more. Two seeds are too few: 15% of boards of ten.

    The bounds of a mean are corrected for skewness as in `bca`; those of a difference are not, since where there is none
    it isn't skewed, and correcting for chance finds twice as many as it should at p < .01. A prompt that lacks a value under
    any seed is left out and counted. With one seed the spread of training is unknown: what is said then holds for this seed
    only.
    """
    if minus is not None:
        found = compare({"first": values, "second": minus})["first", "second"]
        return Estimate(found.value, found.low, found.high, found.n, found.missing)
    (table,) = tables_of([values])
    whole = np.isfinite(table).all(0)
    table, missing = table[:, whole], int((~whole).sum())
    mean = table.mean(0)
    n = len(mean)
    if n < 2:
        return Estimate(finite(mean[0]) if n else None, None, None, n, missing)
    part = parts_of(mean, [table])
    if not part.error:
        return Estimate(part.value, part.value, part.value, n, missing)
    draws = drawn_error(resample(lambda weights: weights @ mean, n), n, part)
    skewness = ((mean - part.value) ** 3).sum() * (part.scale / (n * part.error)) ** 3
    return Estimate(part.value, *part.bounds(draws, levels_of(draws, skewness / 6)), n, missing)


def compare(methods: Mapping[str, Seeds], pairs: Sequence[tuple[str, str]] | None = None) -> dict[tuple[str, str], Comparison]:
    """Paired differences, first minus second, of methods that answered the same prompts; ``pairs``: all, by default.

    Intervals are those of `hierarchical`, and p is what they imply: an interval without 0 has p < .05, before Holm's
    correction over ``pairs``. One set of resampled prompts serves all. Of r resamples the smallest p is 2 / (r + 1), which
    must stay far below what Holm's first step asks, so many pairs have more of them.

    Among many methods are some whose three seeds lie near each other by chance, and they are what seems to differ: of 26 equal
    methods two were told apart on 10% of boards. So of more than ``FEW`` pairs no method's seeds are taken to vary less than
    those of the median method, and it is under 2% (under 5% where methods vary 15-fold). Tusher et al. 2001, "Significance
    analysis of microarrays", guard against small variances of few replicates in the same spirit.
    """
    pairs = list(combinations(methods, 2) if pairs is None else pairs)
    tables = dict(zip(methods, tables_of(list(methods.values())), strict=True))
    whole = {name: np.isfinite(table).all(0) for name, table in tables.items()}
    resamples, least = PAIRED, 0.0
    if len(pairs) > FEW:
        resamples = max(resamples, _A_PAIR * len(pairs))
        spreads = [_spread(tables[name]) for name in dict.fromkeys(chain.from_iterable(pairs)) if len(tables[name]) > 1]
        least = float(np.median(spreads)) if spreads else 0.0
    alike: dict[bytes, list[tuple[str, str]]] = defaultdict(list)  # pairs by the prompts that both have
    for a, b in pairs:
        alike[(whole[a] & whole[b]).tobytes()].append((a, b))
    found: dict[tuple[str, str], Comparison] = {}
    for kept, group in alike.items():
        mask = np.frombuffer(kept, dtype=bool)
        answered = {name: tables[name][:, mask] for name in dict.fromkeys(chain.from_iterable(group))}
        found |= {
            pair: replace(made, missing=int((~mask).sum())) for pair, made in _compared(answered, group, resamples, least)
        }
    tested = {pair: p for pair in pairs if (p := found[pair].p) is not None}
    for pair, p_holm in zip(tested, holm(list(tested.values())), strict=True):
        found[pair] = replace(found[pair], p_holm=p_holm)
    return {pair: found[pair] for pair in pairs}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given: of m sorted ones the i-th is max over j <= i of (m - j + 1) p_j."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, dtype=float)[order]), 1)
    return adjusted.tolist()


def ranks(names: Sequence[str], better: Callable[[str, str], bool]) -> dict[str, tuple[int, int]]:
    """The ranks that each may have: from 1 + how many are ``better`` to n less how many it is better than.

    Where ``better`` errs on any pair in at most 5%, as after Holm's correction, all spans together hold the true ranks in 95%
    (Mogstad et al. 2024, "Inference for Ranks", section 3).
    """
    return {
        name: (1 + sum(better(other, name) for other in others), len(names) - sum(better(name, other) for other in others))
        for name in names
        for others in [[other for other in names if other != name]]
    }


def resolvable(comparisons: Iterable[Comparison]) -> float | None:
    """The smallest difference that these comparisons could have resolved: found with 80% power at Holm's strictest step.

    Of m pairs, each with standard error e and d degrees of freedom, the median of delta e, where delta is such that a t of d
    degrees and noncentrality delta lies above t(1 - .05 / (2 m), d) in 80%. (With many degrees this is the usual sum of two
    quantiles, t(1 - .05 / (2 m), d) + t(.8, d); with four, which two methods of three seeds have, that falls short.) It rests
    on a few estimated errors, so that in simulation the power is 70 to 78%. None where nothing could be compared.
    """
    tested = [(c.error, c.freedom) for c in comparisons if c.error is not None and c.freedom is not None]
    if not tested:
        return None
    level = 1 - (1 - LEVEL) / (2 * len(tested))
    return float(np.median([nctdtrinc(d, 1 - POWER, stdtrit(d, level)) * error for error, d in tested]))


@dataclass(frozen=True)
class Parts:
    """A mean over prompts and seeds with the two parts of its variance, ``prompts`` and ``seeds``, and their degrees of
    ``freedom``; ``scale`` shrinks what prompts' means vary by to the prompts' own share of it."""

    value: float
    prompts: float
    seeds: float
    freedom: float
    scale: float

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.prompts + self.seeds)

    def bounds(self, draws: Array, levels: Array) -> tuple[float, float]:
        """The interval between quantiles of standardised draws, which are normal but for the prompts' skewness."""
        low, high = self.value + self.error * stdtrit(self.freedom, ndtr(np.quantile(draws, levels)))
        return float(low), float(high)


def parts_of(means: Array, tables: Sequence[Array], least: float = 0.0) -> Parts:
    """A mean and its variance, as `hierarchical` has them. ``means`` [prompts]: over the seeds of ``tables``, each [seeds,
    prompts]; for a sum or difference of several methods' means the table of each, with its factor. Two prompts or more.
    ``least``: what the variance of a method's seeds is taken to be where they show less."""
    n = len(means)
    spread = float(means.var(ddof=1)) / n
    prompts, seeds, uncertain = spread, 0.0, 0.0
    for table in tables:
        count = len(table)
        if count > 1:
            rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
            prompts -= float(np.square(rest).sum()) / ((count - 1) * (n - 1)) / (count * n)
            own = max(_spread(table), least) / count
            seeds += own
            uncertain += own**2 / (count - 1)
    prompts = max(prompts, 0.0)
    unsure = prompts / (n - 1) + (uncertain / seeds if seeds else 0.0)  # Welch's freedom of the seeds is seeds^2 / uncertain
    freedom = (prompts + seeds) / unsure if unsure else float(n - 1)
    scale = math.sqrt(prompts / spread * n / (n - 1)) if spread else 0.0
    return Parts(float(means.mean()), prompts, seeds, freedom, scale)


def drawn_error(sums: Array, n: int, part: Parts) -> Array:
    """Standardised draws [resamples] of the error of a mean over ``n`` prompts, from its ``sums`` over resampled prompts
    [resamples]; what seeds add is normal."""
    moved = part.scale * (sums / n - part.value)
    return (moved + math.sqrt(part.seeds) * _normal(len(sums))) / (part.error or 1.0)


def _compared(
    tables: Mapping[str, Array], pairs: Sequence[tuple[str, str]], resamples: int, least: float
) -> Iterable[tuple[tuple[str, str], Comparison]]:
    """Comparisons of pairs of whole tables [seeds, prompts] on the same prompts; p_holm is still open."""
    means = {name: table.mean(0) for name, table in tables.items()}
    n = len(next(iter(means.values())))
    if n < 2:
        for a, b in pairs:
            yield (a, b), Comparison(finite((means[a] - means[b])[0]) if n else None, None, None, None, None, n, 0)
        return
    stacked = np.array(list(means.values()))
    sums = dict(zip(means, resample(lambda weights: weights @ stacked.T, n, resamples).T, strict=True))
    for a, b in pairs:
        part = parts_of(_apart(means[a], means[b]), [tables[a], tables[b]], least)
        if part.error:
            draws = drawn_error(sums[a] - sums[b], n, part)
            bounds = part.bounds(draws, np.array([TAIL, 1 - TAIL]))
            at = ndtri(stdtr(part.freedom, -part.value / part.error))  # where no difference lies among the draws
            beyond = min(np.sum(draws <= at), np.sum(draws >= at))
        else:
            bounds, beyond = (part.value, part.value), 0 if part.value else resamples
        p = min(1.0, 2 * (float(beyond) + 1) / (resamples + 1))
        yield (a, b), Comparison(part.value, *bounds, p, None, n, 0, part.error, part.freedom)


def _spread(table: Array) -> float:
    """Variance of the means of a method's seeds over the prompts that all of them have."""
    whole = np.isfinite(table).all(0)
    return float(table[:, whole].mean(1).var(ddof=1)) if whole.any() else 0.0


def _apart(first: Array, second: Array) -> Array:
    """First minus second, 0 where they differ by rounding alone: the mean of three equal numbers need not be that number."""
    gap = first - second
    return np.where(np.abs(gap) <= 1e-12 * np.maximum(np.abs(first), np.abs(second)), 0.0, gap)


def levels_of(draws: Array, acceleration: float) -> Array:
    """Levels of the quantiles of standardised draws that bound the mean, as in `bca`."""
    below = (np.mean(draws < 0) + np.mean(draws <= 0)) / 2
    shift = ndtri(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
    reach = ndtri([TAIL, 1 - TAIL]) + shift
    return ndtr(shift + reach / np.maximum(1 - acceleration * reach, 1e-9))


def tables_of(methods: Sequence[Seeds]) -> list[Array]:
    """[seeds, prompts] for each method, prompts sorted; NaN where a value is missing.

    Raises UserError for a method without seeds, and where prompts are not the same.
    """
    if not all(methods):
        raise UserError("no seeds to pool")
    if not methods:
        return []
    prompts = sorted(methods[0][0])
    if any(seed.keys() != methods[0][0].keys() for method in methods for seed in method):
        raise UserError("seeds and methods can be pooled on the same prompts only")
    tables = [np.array([[seed[p] for p in prompts] for seed in method], dtype=float) for method in methods]
    return [np.where(np.isfinite(table), table, np.nan) for table in tables]


@lru_cache(maxsize=4)
def _normal(size: int) -> Array:
    """Evenly spaced quantiles of a normal in random order: random ones would make bounds jump."""
    return ndtri(np.random.default_rng(SEED).permutation((np.arange(size) + 0.5) / size))
