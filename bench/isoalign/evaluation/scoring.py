"""What a card says of a run's quality: figures, values by prompt, curve and flags. Training and rescoring both end here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isoalign import stats
from isoalign.core.records import Card, Point
from isoalign.evaluation import metrics
from isoalign.evaluation.card import FAMILY, sealed
from isoalign.evaluation.metric_values import Figures


def scored(card: Card, own: Figures, base: Figures | None, points: Sequence[Point]) -> Card:
    """The card with these figures in the place of those of the same families, everything that follows from them made anew.

    ``base``: the SFT row's figures, None on that row itself.
    """
    stale = {figure for family in own.families for figure in card.families.get(family, [])}
    kept = {name: estimate for name, estimate in card.metrics.items() if name not in stale}
    found = dict(sorted((kept | own.metrics).items()))
    values = {name: column for name, column in card.values.items() if name not in stale} | own.values
    versions = card.versions | {"statistics": str(stats.VERSION)}
    versions |= {FAMILY + family: str(version) for family, version in own.versions.items()}
    card = replace(
        card,
        metrics=found,
        values=dict(sorted(values.items())),
        families=dict(sorted((card.families | own.families).items())),
        versions=versions,
        data={family: data for family, data in card.data.items() if family not in own.families} | own.data,
        curve=list(points),
    )
    return sealed(replace(card, flags=flags(card, base)))


def flags(card: Card, base: Figures | None) -> list[str]:
    """What a reader must know before believing the card: gates, warnings, what its own report and its curve say."""
    from isoalign.evaluation.metrics.kl import reported_gap
    from isoalign.stats import curves

    exact = card.metrics.get("kl")
    reports, errors = card.training.get("reported", {}), card.training.get("reported_error", {})
    gaps = [reported_gap(exact, value, errors.get(name)) for name, value in reports.items()] if exact else []
    along = [line for curve in curves.collect({card.algorithm: [card]}).values() for line in curves.flags(curve)]
    told = metrics.flags_all(card.metrics, base.metrics if base else None)
    return [*told, *filter(None, gaps), *along, *card.notes.get("warnings", [])]
