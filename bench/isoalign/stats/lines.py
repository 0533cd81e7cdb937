"""A run's score against KL, and what is read off it by prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isoalign.stats.intervals import Array

Statistic = Callable[[Array, Array], Array]
"""Of KL [..., points] and score [..., points], to [...]."""


@dataclass(frozen=True, eq=False)
class Line:
    """KL and score, or gain, of a run [points, prompts]."""

    kl: Array
    score: Array

    def by_prompt(self, statistic: Statistic) -> Array:
        """A statistic by prompt [prompts], by its derivatives in the means: the statistic is the mean of the values, and its
        error that of their mean."""
        return by_prompt([self], statistic)[0]

    def bend(self, statistic: Statistic) -> Array:
        """How much a statistic of the means, or several [...] at once, changes if each line between two snapshots is bent like
        the curve beside it; NaN where it is not known."""
        means = self._near[2][0]
        return statistic(*self._bent) - statistic(means[: len(self.kl)], means[len(self.kl) :])

    @cached_property
    def _near(self) -> tuple[Array, Array, Array]:
        """KL and score [2 points, prompts] without their means, a step of each mean [2 points], and the means, followed by
        those with each a step up and with each a step down [1 + 4 points, 2 points]."""
        table = np.concatenate([self.kl, self.score])
        means = table.mean(-1)
        step = 1e-5 * np.maximum(np.abs(means), 1e-2)
        return table - means[:, None], step, np.concatenate([means[None], means + np.diag(step), means - np.diag(step)])

    @cached_property
    def _bent(self) -> tuple[Array, Array]:
        """KL and score, means over prompts, with more points, on curves that bend between two snapshots as beside them."""
        d, mean = np.sqrt(np.maximum(self.kl.mean(-1), 0)), self.score.mean(-1)
        bent_d, bent = [d[0]], [mean[0]]
        for i in range(1, len(d)):
            if d[i] > d[i - 1]:
                inner = np.linspace(d[i - 1], d[i], 10)[1:-1]
                line = np.interp(inner, d[i - 1 : i + 1], mean[i - 1 : i + 1])
                bent_d += inner.tolist()
                bent += (line + (inner - d[i - 1]) * (inner - d[i]) * _second_difference(d, mean, i)).tolist()
            bent_d.append(d[i])
            bent.append(mean[i])
        return np.square(bent_d), np.array(bent)


def by_prompt(lines: Sequence[Line], statistic: Statistic) -> list[Array]:
    """`Line.by_prompt` of each; the statistic is asked once of all that have equally many points."""
    alike: dict[int, list[int]] = defaultdict(list)
    for place, line in enumerate(lines):
        alike[len(line.kl)].append(place)
    found: dict[int, Array] = {}
    for points, members in alike.items():
        tables, steps, places = zip(*(lines[place]._near for place in members), strict=True)
        means = np.array(places)
        values = statistic(means[..., :points], means[..., points:])
        up, down = np.moveaxis(values[:, 1:].reshape(len(members), 2, -1), 1, 0)
        slopes = np.nan_to_num((up - down) / (2 * np.array(steps)))  # 0 where a curve is not known a step further
        for place, value, slope, table in zip(members, values[:, 0], slopes, tables, strict=True):
            found[place] = value + slope @ table
    return [found[place] for place in range(len(lines))]


def _second_difference(d: Array, score: Array, right: int) -> float:
    """Half the second derivative about a line between two points, from the points on either side that are not too close."""
    left, width = right - 1, d[right] - d[right - 1]
    found = []
    for beside, end in (([i for i in range(left - 1, 0, -1) if d[left] - d[i] >= width / 2][:1], left),
                        ([i for i in range(right + 1, len(d)) if d[i] - d[right] >= width / 2][:1], right)):  # fmt: skip
        for i in beside:
            outer = (score[i] - score[end]) / (d[i] - d[end])
            inner = (score[right] - score[left]) / width
            found.append((outer - inner) / (d[i] - (d[left] if end == right else d[right])))
    return float(np.mean(found)) if found else 0.0
