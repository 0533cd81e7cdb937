"""Which pairs of methods change order along a setting, by paired comparisons at each value, corrected over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from isoalign import stats
from isoalign.stats import Seeds
from isoalign.stats.intervals import LEVEL

CHANGES, KEEPS, UNDECIDED = "changes", "stays", "not decided"


@dataclass(frozen=True)
class Crossing:
    """A pair of methods that both have two values of the axis or more. ``ahead``: by value, which is shown to be better there,
    None where that is not decided."""

    a: str
    b: str
    ahead: dict[float, str | None]

    @property
    def verdict(self) -> str:
        """Whether the order changes: each is ahead somewhere; or stays: one of them is ahead at all values."""
        found = set(self.ahead.values())
        if {self.a, self.b} <= found:
            return CHANGES
        return KEEPS if len(found) == 1 and None not in found else UNDECIDED


def crossings(
    axis: Mapping[float, Mapping[str, Seeds]], higher_is_better: bool, bases: Mapping[float, Mapping[str, Sequence[int]]]
) -> list[Crossing]:
    """All pairs, those that change order first. ``axis``: by value and method the scores of its seeds by prompt, on the same
    prompts at a value; ``bases``: likewise the bases of the seeds, where the task has several.

    Holm's correction is over all pairs at all values, so that the chance of any false crossing is about 5%: point estimates
    cross by chance wherever methods are alike. So many comparisons also set the number of resamples, with fewer of which p
    could not be small enough. One seed decides nothing.
    """
    family = sum(math.comb(len(methods), 2) for methods in axis.values())
    found = {
        value: stats.compare(methods, trained=list(methods), bases=bases[value], family=family)
        for value, methods in axis.items()
    }
    tested = {(value, pair): c.p for value, at in found.items() for pair, c in at.items() if c.p is not None and not c.single}
    corrected = dict(zip(tested, stats.holm(list(tested.values())), strict=True))

    def ahead(value: float, a: str, b: str) -> str | None:
        pair = (a, b) if (a, b) in found[value] else (b, a)
        if corrected.get((value, pair), 1.0) >= 1 - LEVEL:
            return None
        first_higher = (found[value][pair].value or 0.0) > 0
        return pair[0] if first_higher == higher_is_better else pair[1]

    names = list(dict.fromkeys(name for methods in axis.values() for name in methods))
    pairs = []
    for a, b in combinations(names, 2):
        shared = [value for value, methods in axis.items() if a in methods and b in methods]
        if len(shared) > 1:
            pairs.append(Crossing(a, b, {value: ahead(value, a, b) for value in shared}))
    order = (CHANGES, KEEPS, UNDECIDED)
    return sorted(pairs, key=lambda one: order.index(one.verdict))
