"""Scoring again: metrics applied to the saved samples of old runs, without a model."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.objective import objective_of
from isoalign.core.records import Card, Point
from isoalign.core.store import Store
from isoalign.evaluation import curve, metric_values, metrics, scores
from isoalign.evaluation.card import FAMILY
from isoalign.evaluation.kept import stage_of
from isoalign.evaluation.scoring import scored
from isoalign.evaluation.win_rate import WIN_RATE, read_contests


def rescored(card: Card, store: Store, wanted: Collection[str] | None = None) -> Card:
    """The card with the metrics of all families, or of those wanted, as this version of them gives.

    What follows from the metrics (flags, curve, versions) is computed again. Raises UserError where the samples are not in the
    store, where families that are not wanted are of another version than this code's, and for some families of a published
    card, whose others are rounded.
    """
    if wanted and card.digits is not None:
        raise UserError(
            f"{card.algorithm} seed {card.seed}: it was published, and its other metrics are rounded; use --all, or publish "
            "the run's own card again"
        )
    if wanted and card.versions.get("statistics", "1") != str(stats.VERSION):
        raise UserError(
            f"{card.algorithm} seed {card.seed}: its intervals are of another version of the statistics; use --all"
        )
    old = [family for family in card.families if family not in (wanted or metrics.names())]
    now = metrics.versions(objective_of(card), WIN_RATE in card.parents)
    if stale := [family for family in old if card.versions.get(FAMILY + family) != str(now.get(family))]:
        others = f"its {', '.join(stale)} metrics are of another version, and flags depend on all families"
        raise UserError(f"{card.algorithm} seed {card.seed}: {others}; use --all")
    return remeasured(card, store, wanted)


def remeasured(card: Card, store: Store, wanted: Collection[str] | None = None) -> Card:
    """The same, whatever the versions of the other families: for checks, not for cards that are kept."""
    base = stage_of(card, store, "base_scores") if "base_scores" in card.parents else None
    contests = read_contests(stage_of(card, store, WIN_RATE)) if WIN_RATE in card.parents else []
    drawn = replace(scores.read_scored_samples(stage_of(card, store, "scores"), base), contests=contests)
    own = metric_values.measure_metrics(drawn, wanted)
    return scored(card, own, _base_values(base) if base else None, points(card, store, own))


@lru_cache(maxsize=8)
def _base_values(base: Path) -> metric_values.MetricValues:
    """Every metric of the SFT row, for the flags of all cards that stand beside it."""
    return metric_values.measure_metrics(scores.read_scored_samples(base))


def points(card: Card, store: Store, own: metric_values.MetricValues) -> list[Point]:
    """The card's curve with the metrics of the same families computed again; untouched where it shows none of them."""
    measured = {figure for family in own.families.values() for figure in family}
    if not card.curve or not measured & set(curve.card_metrics(objective_of(card))):
        return card.curve
    record = json.loads((stage_of(card, store, "train") / "record.json").read_text())
    folders = [stage_of(card, store, f"scores@{place['steps']}") for place in record["snapshots"]]
    changed = UserError(
        f"{card.algorithm} seed {card.seed}: its curve is not that of its run; run it again by the card's command"
    )
    try:
        prompts = list(next(iter(card.curve[0].values.values())))
        draws = int(card.config["task"]["evaluation"]["curve_draws"])
    except (LookupError, TypeError, ValueError, OverflowError, StopIteration) as error:
        raise changed from error
    base = stage_of(card, store, "base_scores")
    folders.append(stage_of(card, store, "scores"))
    if len(card.curve) != len(folders) + 1:
        raise changed
    fresh = curve.measure_curve(curve.read_places(record), folders, base, prompts, draws, list(own.families))
    stale = {figure for family in own.families for figure in card.families.get(family, [])}
    return [
        replace(
            new,
            metrics={name: e for name, e in old.metrics.items() if name not in stale} | new.metrics,
            values={name: v for name, v in old.values.items() if name not in stale} | new.values,
        )
        for old, new in zip(card.curve, fresh, strict=True)
    ]
