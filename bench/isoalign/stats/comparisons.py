"""Methods compared over seeds and prompts: means and paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, combinations

import numpy as np

from isoalign.core.errors import UserError
from isoalign.core.records import Estimate
from isoalign.stats.corrections import holm
from isoalign.stats.intervals import KEPT, Array, finite, resample
from isoalign.stats.pairs import Comparison, compared, side_of
from isoalign.stats.variance import drawn_error, levels_of, parts_of

Seeds = Sequence[Mapping[str, float | None]]
"""For each seed, prompt to its value (the mean over its draws)."""
Table = Seeds | Array
"""The same, or an array [seeds, prompts] of values on prompts that all methods have in one order."""
PAIRED = 10_000  # resamples of a comparison of few pairs
MANY = 400  # pairs: those of 28 methods; of more nothing is resampled
SUMS = 2**22  # resampled sums in memory at once: 32 MB
BATCH = 500  # pairs of a batch at most
_A_PAIR = 400  # resamples for each of many pairs: for 325 pairs Holm's first step needs p < .00015


def hierarchical(values: Table, minus: Table | None = None) -> Estimate:
    """Mean over seeds and prompts, or the difference of two methods on the same prompts; ``n`` counts prompts.

    Seeds and prompts are crossed, y = mu + seed + prompt + rest, and so

        Var(mean) = max(0, MS(prompts) - MS(rest)) / (S P)  +  Var(means of the seeds) / S.

    Prompts are resampled together for both methods, since both answered the same prompts. Seeds vary independently, since they
    were trained independently. Three seeds can't be resampled (ten outcomes, which cover about 80%), so what they add is drawn
    from a normal with their variance. Resampling both ways counts the rest twice (Owen 2007, "The pigeonhole bootstrap"); here
    it is subtracted from the prompts, since the means of the seeds contain it already. (Subtracted from the seeds, with
    negative remainders set to 0, intervals covered 98% where seeds do not differ, and where they do 99.5% instead of the 99.9%
    that Holm's correction needs.)

    The uncertainty of a variance over few seeds decides the width: bounds are those of Student's t with the harmonic mean of
    the two parts' degrees of freedom, weighted by their shares of the variance. Satterthwaite's squared shares are too
    optimistic: a mean of three seeds is covered in 92% at worst. With the harmonic mean it is 93 to 97%, for three seeds or
    more. Two seeds often lie close together by chance, which makes both their variance and its share too small: they have one
    degree of freedom, and its weight is the root of the share. That covers 94 to 98%.

    The bounds of a mean are corrected for skewness as in `bca`. Those of a difference are not: without a true difference it is
    not skewed, and correcting for chance skewness finds twice as many differences as it should at p < .01. A prompt that lacks
    a value for one of the seeds is left out and counted. With one seed the spread of training is unknown, and the interval
    holds for that seed only.
    """
    if minus is not None:
        difference = compare({"first": values, "second": minus})["first", "second"]
        return Estimate(difference.value, difference.low, difference.high, difference.n, difference.missing)
    return each_hierarchical([values])[0]


def each_hierarchical(several: Sequence[Table]) -> list[Estimate]:
    """`hierarchical` of each, on prompts of its own; those on equally many are resampled together, which is far quicker."""
    tables = [table for values in several for table in tables_of([values])]
    whole = [np.isfinite(table).all(0) for table in tables]
    tables = [table[:, kept] for table, kept in zip(tables, whole, strict=True)]
    means = [table.mean(0) for table in tables]
    alike: dict[int, list[int]] = defaultdict(list)
    for place, mean in enumerate(means):
        alike[len(mean)].append(place)
    drawn: dict[int, Array] = {}
    for n, places in alike.items():
        if n > 1:
            stacked = np.array([means[place] for place in places])
            drawn |= zip(places, resample(partial(_sums, stacked), n).T, strict=True)
    estimates = []
    for place, (table, mean, kept) in enumerate(zip(tables, means, whole, strict=True)):
        n, missing = len(mean), int((~kept).sum())
        if n < 2:
            estimates.append(Estimate(finite(mean[0]) if n else None, None, None, n, missing))
            continue
        part = parts_of(mean, [table])
        if not part.error:
            estimates.append(Estimate(part.value, part.value, part.value, n, missing))
            continue
        draws = drawn_error(drawn[place], n, part)
        skewness = ((mean - part.value) ** 3).sum() * (part.scale / (n * part.error)) ** 3
        bounds = part.bounds(np.quantile(draws, levels_of(draws, skewness / 6)))
        estimates.append(Estimate(part.value, *bounds, n, missing))
    return estimates


def _sums(means: Array, weights: Array) -> Array:
    return weights @ means.T


def compare(
    methods: Mapping[str, Table],
    pairs: Sequence[tuple[str, str]] | None = None,
    trained: Collection[str] = (),
    counted: int = MANY,
    bases: Mapping[str, Sequence[int]] | None = None,
    family: int = 0,
) -> dict[tuple[str, str], Comparison]:
    """Paired differences, first minus second, of methods that answered the same prompts; ``pairs``: all, by default.
    ``trained``: those whose rows are training seeds; one such seed says nothing of its method, so its pairs are `single`.
    ``bases``: by name, the base of each row, where rows are means over the runs on one base: two methods on the same bases
    are paired base by base, so that what a base does to both cancels; the spread that is left covers bases and seeds.
    ``family``: number of comparisons over which p is corrected elsewhere, if that is more than the pairs; it sets the
    number of resamples.

    Intervals are those of `hierarchical`; p is from the same resamples, before Holm's correction over ``pairs``. All pairs
    use the same resampled prompts. With r resamples the smallest p is 2 / (r + 1), which must be far below what Holm's
    first step needs, so there are more resamples for many comparisons. With more than ``counted``, whose work would
    grow with the square of their number, or resamples of too many prompts to be kept, intervals and p are what as many
    resamples would show on average, by `tails`.

    Among many methods the few seeds of some lie close together by chance, and these methods seem to differ: with the
    degrees of freedom of the intervals two of 26 equal methods of three seeds were found to differ on 10% of boards. So
    for p the weight of the seeds' degrees of freedom is their share of the variance to the power (S - 1) / (S + 1), S
    the fewer seeds. That keeps it at 5% or less for 2 to 10 seeds and 4 to 30 methods, be their seeds equally variable
    or not (tests/test_validity.py), and what is found of two methods does not depend on the others, but for Holm's
    correction. It is cautious: a pair whose interval just excludes 0 may have p > .05. Where one variance is all that seeds
    add, of methods that are paired base by base or of a method against one seed, chance is worse: with two bases two of ten
    equal methods were found to differ on far more than 5% of boards. There the power is (S - 1) / (S + 7).

    Scores that are 0 or 1 differ on few prompts, which resamples of all do not see: p is at least that of a sign test over
    the prompts that differ, where all differ by as much or in one direction.
    """
    pairs = list(combinations(methods, 2) if pairs is None else pairs)
    tables = dict(zip(methods, tables_of(list(methods.values())), strict=True))
    whole = {name: np.isfinite(table).all(0) for name, table in tables.items()}
    family = max(family, len(pairs))
    resamples = max(PAIRED, _A_PAIR * family)
    alike: dict[bytes, list[tuple[str, str]]] = defaultdict(list)  # pairs by the prompts that both have
    for a, b in pairs:
        alike[(whole[a] & whole[b]).tobytes()].append((a, b))
    lone = {name for name in trained if name in tables and len(tables[name]) == 1}
    comparisons: dict[tuple[str, str], Comparison] = {}
    exact = family <= counted and resamples * max((mask.size for mask in whole.values()), default=0) <= KEPT
    for kept, group in alike.items():
        mask = np.frombuffer(kept, dtype=bool)
        sides = {name: side_of(tables[name][:, mask]) for name in dict.fromkeys(chain.from_iterable(group))}
        for batch in _batches(group, max(2, SUMS // resamples) if exact else BATCH):
            comparisons |= compared(sides, batch, resamples, exact, bases or {}, int((~mask).sum()), lone)
    tested = {pair: c.p for pair in pairs if (c := comparisons[pair]).p is not None and not c.single}
    for pair, p_holm in zip(tested, holm(list(tested.values())), strict=True):
        comparisons[pair] = replace(comparisons[pair], p_holm=p_holm)
    return {pair: comparisons[pair] for pair in pairs}


def _batches(pairs: Sequence[tuple[str, str]], methods: int) -> Iterator[list[tuple[str, str]]]:
    """Pairs in batches of not too many methods or pairs."""
    batch: list[tuple[str, str]] = []
    names: set[str] = set()
    for pair in pairs:
        new = {*pair} - names
        if batch and (len(names) + len(new) > methods or len(batch) == BATCH):
            yield batch
            batch, names, new = [], set(), {*pair}
        batch.append(pair)
        names |= new
    yield batch


def tables_of(methods: Sequence[Table]) -> list[Array]:
    """[seeds, prompts] for each method, prompts sorted; NaN where a value is missing.

    Raises UserError for a method without seeds and for different prompts.
    """
    if not all(map(len, methods)):
        raise UserError("a method without seeds can't be pooled")
    named = [method for method in methods if not isinstance(method, np.ndarray)]
    if any(seed.keys() != named[0][0].keys() for method in named for seed in method):
        raise UserError("seeds and methods can only be pooled on the same prompts")
    prompts = sorted(named[0][0]) if named else []
    tables = [
        method if isinstance(method, np.ndarray) else np.array([[seed[p] for p in prompts] for seed in method], dtype=float)
        for method in methods
    ]
    if len({table.shape[1] for table in tables}) > 1:
        raise UserError("seeds and methods can only be pooled on the same prompts")
    return [np.where(np.isfinite(table), table, np.nan) for table in tables]
