"""Statistics of the board: seeds pooled into one estimate, methods compared pairwise on common prompts, ranks."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from isoalign import stats
from isoalign.core.lazy import scipy
from isoalign.core.records import Card, Estimate
from isoalign.evaluation.metrics.metric import UNBOUNDED
from isoalign.stats import Comparison, Seeds, frontier
from isoalign.stats.curves import NONE, Curves

Z = 1.96  # an interval's half-width in standard errors
SAME = 0.02  # of an interval's width: a mean over prompts that is farther from the card's value is another statistic

Pair = tuple[str, str]
Bases = Mapping[str, Sequence[int]]
NO_BASES: Bases = {}


@dataclass(frozen=True)
class Ranking:
    """Pairwise comparisons: for (a, b) how much better the mean score of a is than that of b.

    ``pairs``: of ranked methods. ``others``: with the reference, imitation or an unmetered row; they have a separate Holm
    correction, so that they change no rank. Draws of a control for drift are in none: what is above drift is a question of its
    own (`isoalign.stats.drift`). ``unpaired``: ranked methods without values on the prompts of the others; if there
    are any, ranks go by intervals. ``lone``: rows of one training seed, which says nothing of the method: none of their pairs
    is resolved. ``smallest``: the smallest difference that ``pairs`` could resolve.
    """

    pairs: dict[Pair, Comparison] = field(default_factory=dict)
    others: dict[Pair, Comparison] = field(default_factory=dict)
    unpaired: tuple[str, ...] = ()
    lone: frozenset[str] = frozenset()
    smallest: float | None = None

    def ranks(self, intervals: Mapping[str, Estimate]) -> dict[str, tuple[int, int]]:
        """First and last rank of each method, by name; by ``intervals`` of its gain if not all methods are paired."""
        if not self.unpaired:
            return stats.ranks(list(intervals), self._better)
        bounds = {name: (e.low, e.high) for name, e in intervals.items() if e.low is not None and e.high is not None}
        return stats.ranks(list(bounds), lambda a, b: self.lone.isdisjoint((a, b)) and bounds[a][0] > bounds[b][1])

    def _better(self, a: str, b: str) -> bool:
        comparison, sign = (self.pairs[a, b], 1) if (a, b) in self.pairs else (self.pairs[b, a], -1)
        return comparison.resolved and sign * (comparison.value or 0.0) > 0


def compare_pairwise(
    rows: Mapping[str, Seeds | None],
    ranked: Collection[str],
    lone: Collection[str] = (),
    higher_is_better: bool = False,
    bases: Bases = NO_BASES,
) -> Ranking:
    """Compare all rows (name to values, None without values, in the board's order), of which some are ``ranked``, and some
    ``lone``, with one training seed. ``bases``: of rows of a task with several.

    Rows are paired on the set of prompts that most of them have.
    """
    sets = [frozenset(seeds[0]) for seeds in rows.values() if seeds is not None]
    prompts = max(sets, key=lambda one: (sets.count(one), sorted(one)), default=frozenset())
    paired = {name: seeds for name, seeds in rows.items() if seeds is not None and frozenset(seeds[0]) == prompts}
    pairs = list(combinations(paired, 2))
    inner = dict.fromkeys((a, b) for a, b in pairs if a in ranked and b in ranked)
    first = _differences(paired, list(inner), lone, higher_is_better, bases)
    second = _differences(paired, [pair for pair in pairs if pair not in inner], lone, higher_is_better, bases)
    unpaired = tuple(name for name in rows if name in ranked and name not in paired)
    smallest = stats.resolvable(c for c in first.values() if not c.single)
    return Ranking(first, second, unpaired if len(ranked) > 1 else (), frozenset(lone), smallest)


def _differences(
    paired: Mapping[str, Seeds], pairs: Sequence[Pair], lone: Collection[str], higher_is_better: bool, bases: Bases
) -> dict[Pair, Comparison]:
    if higher_is_better:
        return stats.compare(paired, pairs, lone, bases=bases)
    return {(a, b): c for (b, a), c in stats.compare(paired, [(b, a) for a, b in pairs], lone, bases=bases).items()}


def seeds_of(cards: Sequence[Card], metric: str) -> Seeds | None:
    """A metric's values by prompt for each seed, or each base where the task has several, cards of one averaged; None unless
    every card has them on the same prompts."""
    tables = [card.values.get(metric) for card in cards]
    if not tables or any(not table or table.keys() != (tables[0] or {}).keys() for table in tables):
        return None
    seeds: dict[int, list[Mapping[str, float | None]]] = defaultdict(list)
    for card in cards:
        seeds[card.cluster].append(card.values[metric])
    each = [same for _, same in sorted(seeds.items())]
    return [same[0] if len(same) == 1 else {p: _mean([one[p] for one in same]) for p in same[0]} for same in each]


def bases_of(cards: Sequence[Card]) -> tuple[int, ...]:
    """The bases that cards of a task with several started from, in the order of `seeds_of`; empty for a task of one."""
    return tuple(sorted({card.base for card in cards if card.base is not None}))


def by_base(cards: Sequence[Card], metric: str) -> list[list[float]]:
    """A metric by base and seed, in the order of `bases_of`; several cards of one seed are averaged."""
    found: dict[int, dict[int, list[float]]] = {base: {} for base in bases_of(cards)}
    for card in cards:
        estimate = card.metrics.get(metric)
        if card.base is not None and estimate is not None and estimate.value is not None:
            found[card.base].setdefault(card.seed, []).append(estimate.value)
    return [[math.fsum(same) / len(same) for same in seeds.values()] for seeds in found.values()]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def pooled_estimates(cards: Sequence[Card], metrics: Mapping[str, tuple[float, float]]) -> dict[str, Estimate]:
    """Metrics of a row, each with its bounds: of one card its own estimates; of several from their values by prompt, or from
    their intervals if cards have no such values, or if their mean is another statistic (a mean over pairs, of which some
    prompts have more). What some cards lack altogether counts as missing."""
    values = {metric: seeds_of(cards, metric) for metric in metrics if len(cards) > 1}
    values = {
        metric: seeds
        for metric, seeds in values.items()
        if seeds is not None and all(_is_prompt_mean(card, metric) for card in cards)
    }
    known = stats.each_hierarchical([seeds for seeds in values.values() if seeds is not None])
    found = {metric: _pooled_intervals(cards, metric, bounds) for metric, bounds in metrics.items() if metric not in values}
    for metric, estimate in zip(values, known, strict=True):
        missing = sum(card.metrics[metric].missing for card in cards if metric in card.metrics)
        found[metric] = clip(replace(estimate, missing=missing), metrics[metric])
    return {metric: found[metric] for metric in metrics}


def _pooled_intervals(cards: Sequence[Card], metric: str, bounds: tuple[float, float]) -> Estimate:
    """A metric of a row by the intervals of its cards."""
    seeds: dict[int, list[Estimate]] = defaultdict(list)
    for card in cards:
        if metric in card.metrics:
            seeds[card.cluster].append(card.metrics[metric])
    pooled = pool_estimates(list(seeds.values()), bounds)
    found = [card.metrics.get(metric, NONE) for card in cards]
    lacking = sum(each.value is None and not each.missing for each in found)
    return replace(pooled, missing=pooled.missing + lacking * pooled.n) if lacking < len(cards) else pooled


def _is_prompt_mean(card: Card, metric: str) -> bool:
    """Whether the card's value is the mean over prompts."""
    estimate = card.metrics.get(metric)
    known = [value for value in card.values[metric].values() if value is not None]
    if estimate is None or estimate.value is None or not known:
        return False
    width = (estimate.high or 0.0) - (estimate.low or 0.0)
    return abs(math.fsum(value / len(known) for value in known) - estimate.value) <= SAME * width + 1e-5


def clip(e: Estimate, bounds: tuple[float, float]) -> Estimate:
    """The estimate with its interval clipped to the values that the metric can take; of shares it is exact at the ends."""
    e = stats.exact_ends(e) if bounds == (0.0, 1.0) else e
    if e.low is None or e.high is None:
        return e
    return replace(e, low=max(bounds[0], e.low), high=min(bounds[1], e.high))


def pool_estimates(estimates: Sequence[Sequence[Estimate]], bounds: tuple[float, float] = UNBOUNDED) -> Estimate:
    """One estimate out of those of several seeds (outer: seeds; inner: cards of a seed, averaged).

    For metrics without values by prompt. Value: the mean over seeds. Interval: with one card, its own. With S seeds of values
    v_s and standard errors e_s = (high - low) / 2 / 1.96, which come from prompts that all seeds share and so do not average
    out, half-width^2 = (1.96)^2 mean(e_s^2) + t(.975, S - 1)^2 var(v_s) / S. Both terms contain the noise of the draws, so the
    interval is rather too wide. There is no interval if a seed has none. Where all values lie at one end of the ``bounds`` an
    interval is one-sided, and half its width says too little: it is the widest of the cards.
    """
    missing = sum(e.missing for seed in estimates for e in seed)
    known = [[e for e in seed if e.value is not None] for seed in estimates]
    cards = [e for seed in known for e in seed]
    values = [math.fsum(e.value for e in seed if e.value is not None) / len(seed) for seed in known if seed]
    if not cards:
        return Estimate(None, None, None, 0, missing)
    n = min(e.n for e in cards)
    if len(cards) == 1:
        return clip(replace(cards[0], missing=missing), bounds)
    mean = math.fsum(values) / len(values)
    variances = [((e.high - e.low) / 2 / Z) ** 2 for e in cards if e.low is not None and e.high is not None]
    if len(variances) < len(cards):
        return Estimate(mean, None, None, n, missing)
    if mean in bounds and all(e.value == mean for e in cards):
        widest = max(cards, key=lambda e: (e.high or 0.0) - (e.low or 0.0))
        return clip(replace(widest, n=n, missing=missing), bounds)
    within = math.fsum(variances) / len(variances)
    half = math.sqrt(Z**2 * within + _seed_variance(values))
    return clip(Estimate(mean, mean - half, mean + half, n, missing), bounds)


def _seed_variance(values: list[float]) -> float:
    """Squared half-width of the 95% t interval of a mean over seeds; 0 for one seed, whose spread is unknown."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return float(scipy.special.stdtrit(len(values) - 1, 0.975)) ** 2 * variance / len(values)


def pareto_shares(
    rows: Mapping[str, tuple[Seeds, Seeds | None]], higher_is_better: bool, bases: Bases = NO_BASES
) -> dict[str, float]:
    """The share of replicates in which a row is on the Pareto frontier, of rows with score and KL by prompt; the KL of the
    base is None, and 0. On the prompts of most rows where all rows have values, but for rows that have them on fewer than half
    as many prompts as another; rows of the same ``bases`` vary together."""
    sets = [frozenset(level[0]) for level, _ in rows.values()]
    asked = max(sets, key=lambda one: (sets.count(one), sorted(one)), default=frozenset())
    tables = {}
    for name, (level, kl) in rows.items():
        drift: Seeds = kl or [dict.fromkeys(level[0], 0.0)] * len(level)
        if frozenset(level[0]) == frozenset(drift[0]) == asked:
            tables[name] = np.array(stats.tables_of([drift, level]))
    answered = {name: np.isfinite(table).all((0, 1)) for name, table in tables.items()}
    most = max(map(np.count_nonzero, answered.values()), default=0)
    tables = {name: table for name, table in tables.items() if 2 * np.count_nonzero(answered[name]) >= most}
    whole = np.all([answered[name] for name in tables], axis=0) if tables else np.zeros(0, bool)
    policies = {
        name: Curves(
            name, np.ones(1), table[:, :, None][..., whole], rising=higher_is_better, bases=tuple(bases.get(name, ()))
        )
        for name, table in tables.items()
    }
    return frontier.pareto_shares(policies)


def pareto_names(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Names on the Pareto frontier of (KL, loss): no other is as low in both and lower in one."""
    return {
        name
        for name, (kl, loss) in points.items()
        if not any(x <= kl and y <= loss and (x, y) != (kl, loss) for x, y in points.values())
    }
