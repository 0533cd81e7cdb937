"""What a card says of a run's quality: metrics, values by prompt, curve and flags. Training and rescoring both end here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isoalign import stats
from isoalign.core.records import Card, Flag, Point
from isoalign.evaluation import metrics
from isoalign.evaluation.card import FAMILY, sealed
from isoalign.evaluation.metric_values import MetricValues
from isoalign.evaluation.metrics.kl import reported_gap
from isoalign.stats import curves, overoptimization


def scored(card: Card, own: MetricValues, base: MetricValues | None, points: Sequence[Point]) -> Card:
    """The card with these metric values instead of its own of the same families, and with flags and seals that follow.

    ``base``: the SFT row's metric values, None on that row itself. ``points``: the curve along the budget.
    """
    stale = {name for family in own.families for name in card.families.get(family, [])}
    kept = {name: estimate for name, estimate in card.metrics.items() if name not in stale}
    values = {name: column for name, column in card.values.items() if name not in stale} | own.values
    versions = card.versions | {"statistics": str(stats.VERSION)}
    versions |= {FAMILY + family: str(version) for family, version in own.versions.items()}
    card = replace(
        card,
        digits=None,  # nothing of it is rounded now
        metrics=dict(sorted((kept | own.metrics).items())),
        values=dict(sorted(values.items())),
        families=dict(sorted((card.families | own.families).items())),
        versions=versions,
        data={family: data for family, data in card.data.items() if family not in own.families} | own.data,
        curve=list(points),
    )
    return sealed(replace(card, flags=flags(card, base)))


def flags(card: Card, base: MetricValues | None) -> list[Flag]:
    """What a reader must know of a card: flags of its metrics, of the KL that its method reports, its curve and its notes."""
    exact = card.metrics.get("kl")
    reports, errors = card.training.get("reported", {}), card.training.get("reported_error", {})
    gaps = [reported_gap(exact, value, errors.get(name)) for name, value in reports.items()] if exact else []
    peaks = [
        line for curve in curves.collect({card.algorithm: [card]}).values() for line in overoptimization.peak_warnings(curve)
    ]
    return [
        *metrics.flags_all(card.metrics, base.metrics if base else None),
        *(Flag("warning", text) for text in (*filter(None, gaps), *peaks)),
        *(Flag(**flag) for flag in card.notes.get("flags", [])),
    ]
