"""Statistics of the board: seeds pooled into one estimate, and ranks.

Where the hierarchical bootstrap over saved samples will come in, `pooled` and `ranks` change and no more.
"""

import dataclasses
import math
from collections.abc import Sequence

from bench.types import Estimate

Z = 1.96  # an interval's half-width in standard errors


def pooled(estimates: Sequence[Sequence[Estimate]], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """One estimate out of those of several seeds (outer: seeds; inner: cards of a seed, averaged).

    Value: the mean over seeds. Interval: with one card, its own. With S seeds of values v_s and standard errors
    e_s = (high - low) / 2 / 1.96, which come from prompts that all seeds share and so don't average out,
    half-width^2 = (1.96)^2 mean(e_s^2) + t(.975, S - 1)^2 var(v_s) / S. Both terms hold the noise of the draws, so the
    interval errs on the wide side. There is none where a seed has none.
    """
    missing = sum(e.missing for seed in estimates for e in seed)
    known = [[e for e in seed if e.value is not None] for seed in estimates]
    cards = [e for seed in known for e in seed]
    values = [math.fsum(e.value for e in seed if e.value is not None) / len(seed) for seed in known if seed]
    if not cards:
        return Estimate(None, None, None, 0, missing)
    n = min(e.n for e in cards)
    if len(cards) == 1:
        return dataclasses.replace(cards[0], missing=missing)
    mean = math.fsum(values) / len(values)
    variances = [((e.high - e.low) / 2 / Z) ** 2 for e in cards if e.low is not None and e.high is not None]
    if len(variances) < len(cards):
        return Estimate(mean, None, None, n, missing)
    within = math.fsum(variances) / len(variances)
    half = math.sqrt(Z**2 * within + _seed_variance(values))
    return Estimate(mean, max(bounds[0], mean - half), min(bounds[1], mean + half), n, missing)


def _seed_variance(values: list[float]) -> float:
    """Squared half-width of the 95% t interval of a mean over seeds; 0 for one seed, which can't tell."""
    if len(values) < 2:
        return 0.0
    from scipy.special import stdtrit

    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return float(stdtrit(len(values) - 1, 0.975)) ** 2 * variance / len(values)


def ranks(reductions: dict[str, Estimate]) -> dict[str, int]:
    """Ranks by name: 1 + the number of methods in better groups. A group is a chain of overlapping intervals."""
    spans = [(e.high, e.low, name) for name, e in reductions.items() if e.high is not None and e.low is not None]
    ranked: dict[str, int] = {}
    rank, floor = 1, math.inf
    for place, (high, low, name) in enumerate(sorted(spans, reverse=True), 1):
        if high < floor:
            rank = place
        floor = min(floor, low) if rank < place else low
        ranked[name] = rank
    return ranked
