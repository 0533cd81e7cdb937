"""The Pareto frontier of KL and gain: points that no other beats in both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isoalign.stats.curves import Curves
from isoalign.stats.intervals import Array

LEAST = 1e-6  # nats: what moved at all is not at the base, whose KL is 0, in any resample


@dataclass(frozen=True)
class Place:
    """A point in the plane of KL and gain, mean over seeds. ``method`` is None for the base, where all curves start."""

    kl: float
    gain: float
    method: str | None
    fraction: float


def places(curves: Curves) -> list[Place]:
    """The points of a method's mean curve, the base first."""
    paths = curves.observed.pooled
    columns = zip(paths.kl.tolist(), paths.gold.tolist(), curves.fraction.tolist(), strict=True)
    return [Place(kl, gain, curves.name if i else None, at) for i, (kl, gain, at) in enumerate(columns)]


def pareto(methods: Mapping[str, Curves]) -> list[Place]:
    """The Pareto frontier by KL: the points of all curves for which no other has both less KL and more gain over its own base.

    It is of measured means. The best of many noisy points is biased, so a new run need not reach the line again.
    """
    best: list[Place] = []
    everything = [place for curves in methods.values() for place in places(curves)]
    for place in sorted(everything, key=lambda place: (place.kl, -place.gain, place.method or "")):
        if not best or place.gain > best[-1].gain:
            best.append(place)
    return best


def pareto_shares(ends: Mapping[str, Curves]) -> dict[str, float]:
    """For policies, each a curve of one point: the share of replicates in which no other has both less KL and a better score.
    Prompts are resampled, the same ones for all, and what seeds add is drawn for each (`Curves.replicates`)."""
    if not ends or min(curves.prompts for curves in ends.values()) < 2:
        return {}
    drawn = [curves.drawn().pooled for curves in ends.values()]
    moved = [LEAST if curves.observed.kl.any() else 0.0 for curves in ends.values()]
    replicates = max(len(paths.kl) for paths in drawn)
    kl, loss = (np.stack([np.broadcast_to(column, replicates) for column in columns]) for columns in (
        [np.maximum(paths.kl[:, 0], least) for paths, least in zip(drawn, moved, strict=True)],
        [-paths.level[:, 0] if paths.rising else paths.level[:, 0] for paths in drawn],
    ))  # fmt: skip
    beaten = [_beaten(kl, loss, row) for row in range(len(drawn))]
    return {name: float(1 - np.mean(column)) for name, column in zip(ends, beaten, strict=True)}


def _beaten(kl: Array, loss: Array, row: int) -> Array:
    """In which replicates [replicates] another row of [rows, replicates] is as low in both and lower in one."""
    as_low = (kl <= kl[row]) & (loss <= loss[row])
    return (as_low & ((kl < kl[row]) | (loss < loss[row]))).any(0)
