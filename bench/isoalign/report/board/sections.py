"""Sections of the board: rows that can be compared, compared and ranked within their section."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from isoalign import stats
from isoalign.core.objective import Objective, objective_of
from isoalign.core.records import Card, Estimate
from isoalign.evaluation.card import package_of
from isoalign.report.board.columns import metric
from isoalign.report.board.drift import DriftOnBoard, drift_on_board
from isoalign.report.board.names import distinct_names
from isoalign.report.board.ranking import (
    Ranking,
    bases_of,
    by_base,
    clip,
    compare_pairwise,
    pareto_names,
    pareto_shares,
    seeds_of,
)
from isoalign.report.board.rows import (
    CONTROL,
    DRIFT,
    METHOD,
    REFERENCE,
    UNMETERED,
    Row,
    build_row,
    newest_versions,
    outdated_families,
    part_of,
    rescore_hints,
    settings_of,
    stage_identity,
)
from isoalign.report.board.unequal import unequal
from isoalign.stats.curves import Curves, collect, has_curve
from isoalign.stats.equal_kl import GRID, AtKL, areas, common_kl, matched, reaches, standings
from isoalign.stats.variance import Components

ROLES = ("policy", "reference", "anchor", "teacher", "value", "reward", "judge", "feedback")
PROTOCOL = {
    "prompts": "Prompts",
    "split": "Split",
    "draws": "Draws per prompt",
    "scorer": "Scorer",
    "second_scorer": "Second scorer",
    "scorer_weights": "Digest of the scorers",
    "win_rate": "Win rate",
    "held_out": "Held-out pairs",
}
"""Notes of cards (the last one is a stage) that must agree for a comparison. The key of the held-out pairs covers the base,
the evaluation prompts, the annotators and the feedback."""
Key = tuple[str, str, str]  # budget, base and protocol as JSON
RowKey = tuple[str, str, str]  # algorithm, settings and outdated families as JSON


@dataclass(frozen=True)
class Section:
    """Rows that can be compared: one budget, one base, one way of measuring."""

    budget: dict[str, float | None]
    base: str
    protocol: dict[str, Any]
    rows: tuple[Row, ...]
    ranking: Ranking = field(default_factory=Ranking)

    @property
    def objective(self) -> Objective:
        """What its rows are ranked by."""
        return self.rows[0].objective

    @property
    def metered(self) -> bool:
        """Whether it has a budget; completions from outside isoalign have none."""
        return any(row.part != UNMETERED for row in self.rows)

    @property
    def warnings(self) -> list[str]:
        """What must be known before rows are compared."""
        return [f"{row.name} was {hint}" for row in self.rows for hint in rescore_hints(row.cards, row.outdated)]

    @property
    def unequal(self) -> list[str]:
        """What differs between ranked rows, though a comparison wants it equal, and whose curves can't be compared."""
        lost = [row.name for row in self.rows if any(map(has_curve, row.cards)) and row.name not in self.curves]
        told = f"no curves of {', '.join(lost)}: too few prompts have a KL and a score at every point that others have"
        lines = [*unequal(self.rows), *([told] if lost else [])]
        for row in self.rows:
            lacking = [card for card in row.cards if not has_curve(card)]
            if lacking and (row.name in self.curves or any(card.curve for card in lacking)):
                rest = "; readings at equal KL are of the rest" if len(lacking) < len(row.cards) else ""
                lines.append(f"{row.name}: {len(lacking)} of {len(row.cards)} cards have no curve from the base on{rest}")
        return lines

    @property
    def chance(self) -> Components | None:
        """The variance of a run's gain between bases, and between seeds of one base, of a task with several; None where runs
        are too few to tell."""
        rows = [row for row in self.rows if row.part in (METHOD, CONTROL) and row.comparable and row.algorithm not in DRIFT]
        return stats.components([by_base(row.cards, self.objective.gain) for row in rows])

    @property
    def roles(self) -> list[str]:
        """Roles on any bill, the usual ones first."""
        roles = {role for row in self.rows for role in row.flops_by_role()}
        return [role for role in ROLES if role in roles] + sorted(roles.difference(ROLES))

    @cached_property
    def curves(self) -> dict[str, Curves]:
        """The curves along the budget of the rows that have some, by name; they all start at the reference, which has none.

        What can't be compared leaves no prompt out that the others have: it has a curve if it has all of these.
        """
        rows = {row.name: row.cards for row in self.rows if row.part != REFERENCE}
        return collect(rows, among=[row.name for row in self.rows if row.comparable])

    @property
    def _ranked_curves(self) -> dict[str, Curves]:
        """Those of rows that may be ranked by their curves."""
        rows = [row for row in self.rows if row.rankable and row.current and row.name in self.curves]
        return {row.name: self.curves[row.name] for row in rows}

    @cached_property
    def drift(self) -> DriftOnBoard:
        """What rows gain beyond the controls for drift."""
        return drift_on_board(self.rows, self.curves)

    @cached_property
    def equal_kl(self) -> dict[float, dict[str, AtKL]]:
        """Rows with curves by name, at each KL of a fixed grid that two of them reach; empty without curves."""
        ranked = list(self._ranked_curves)
        at = {kl: matched(self.curves, kl, ranked) for kl in GRID if sum(reaches(one, kl) for one in self.curves.values()) > 1}
        return at if any(found.gain.value is not None or found.gap for one in at.values() for found in one.values()) else {}

    @cached_property
    def areas(self) -> tuple[float, dict[str, tuple[Estimate, tuple[int, int] | None]]]:
        """The KL that nine in ten ranked rows reach, by the grid, and for rows whose curve is known so far the mean gain up to
        it, with first and last rank of those that may be ranked."""
        ranked = self._ranked_curves
        to = max((kl for kl in GRID[1:] if kl <= (common_kl(ranked) or 0.0)), default=GRID[0])
        found = areas(self.curves, to) if to > GRID[0] else {}
        spans = standings({name: reading for name, reading in found.items() if name in ranked})
        return to, {name: (reading.estimate(), spans.get(name)) for name, reading in found.items()}


def build_sections(cards: list[Card]) -> list[Section]:
    """Cards grouped into sections, the smallest budget first.

    The SFT base spends nothing, so it is the reference under every budget. Completions from outside isoalign have no budget,
    and are shown in every section that was measured in the same way.
    """
    methods: dict[Key, list[Card]] = defaultdict(list)
    bases: dict[Key, list[Card]] = defaultdict(list)
    unmetered: dict[Key, list[Card]] = defaultdict(list)
    used: set[Key] = set()
    for card in cards:
        {REFERENCE: bases, UNMETERED: unmetered}.get(part_of(card), methods)[_section_key(card)].append(card)
    for key, group in methods.items():
        kin = [base for base in sorted(bases) if base == key] or [base for base in sorted(bases) if base[1:] == key[1:]]
        used.update(kin[:1])
        group += [card for base in kin[:1] for card in bases[base]]
    groups = methods | {key: group for key, group in bases.items() if key not in used}
    for key, others in unmetered.items():
        hosts = [host for host in groups if host[0] != key[0] and _same_protocol(key, host)]
        for host in hosts:
            groups[host] = groups[host] + others
        if not hosts:
            groups[key] = others
    ordered = sorted(groups.items(), key=lambda item: (json.loads(item[0][0]).get("flops", math.inf), item[0]))
    return [_build_section(key, group) for key, group in ordered]


def _same_protocol(key: Key, host: Key) -> bool:
    """Whether unmetered cards were measured as a section's were; what they can't know of it need not agree."""
    own, protocol = json.loads(key[2]), json.loads(host[2])
    names = [name for name in PROTOCOL if name != "held_out" or name in own]
    return key[1] in ("", host[1]) and all(own.get(name) == protocol.get(name) for name in names)


def _section_key(card: Card) -> Key:
    budget = {name: limit for name, limit in card.budget.items() if limit is not None}
    budget = {name: int(limit) if float(limit).is_integer() else limit for name, limit in budget.items()}
    notes = card.notes | {"held_out": stage_identity(card, "held_out")}
    protocol = {name: notes[name] for name in PROTOCOL if notes.get(name, "") != ""}
    return json.dumps(budget, sort_keys=True), stage_identity(card, "sft"), json.dumps(protocol, sort_keys=True)


def _build_section(key: Key, cards: list[Card]) -> Section:
    """Rows in the order of the board: by gain, methods that can't be ranked last."""
    objective = objective_of(cards[0])
    rows = _with_gains(_build_rows(cards), objective)
    rows = sorted(rows, key=lambda row: (row.part == METHOD and not row.rankable, -_gain(row), row.name))
    level = objective.level
    values = {row.name: None if row.is_outdated(level) else seeds_of(row.cards, level) for row in rows}
    gains = {row.name: row.estimate(objective.gain) for row in rows}
    ranked = [row.name for row in rows if row.rankable and (values[row.name] or gains[row.name].value is not None)]
    others = [row.name for row in rows if row.part != METHOD and not row.gated and row.algorithm not in DRIFT]
    compared = {name: seeds for name, seeds in values.items() if name in (*ranked, *others)}
    lone = [row.name for row in rows if row.lone]
    bases = {row.name: found for row in rows if (found := bases_of(row.cards))}
    ranking = compare_pairwise(compared, ranked, lone, objective.higher_is_better, bases)
    ranks = ranking.ranks({name: gains[name] for name in ranked})
    frontier = pareto_names({row.name: point for row in rows if (point := _kl_and_loss(row)) is not None})
    points = {
        row.name: (levels, kl)
        for row in rows
        for levels, kl in [(values[row.name], None if row.part == REFERENCE else seeds_of(row.cards, "kl"))]
        if row.comparable and levels and (kl or row.part == REFERENCE) and row.name not in lone
    }
    shares = pareto_shares(points, objective.higher_is_better, bases)
    rows = [
        replace(row, rank=ranks.get(row.name), pareto=row.name in frontier, on_frontier=shares.get(row.name)) for row in rows
    ]
    rows.sort(key=lambda row: row.part == METHOD and row.rank is None)
    section = Section(json.loads(key[0]), key[1], json.loads(key[2]), tuple(rows), ranking)
    flagged = replace(section, rows=tuple(map(section.drift.flagged, rows)))
    vars(flagged).update(curves=section.curves, drift=section.drift)  # a flag changes neither
    return flagged


def _kl_and_loss(row: Row) -> tuple[float, float] | None:
    """The point of a row in the plane of the Pareto frontier, None if it can't be compared."""
    kl, level = row.kl.value, row.estimate(row.objective.level).value
    return (kl, row.objective.loss(level)) if row.comparable and kl is not None and level is not None else None


def _build_rows(cards: list[Card]) -> list[Row]:
    """A row for each algorithm in each configuration. Cards that were scored by different versions are never averaged."""
    newest = newest_versions(cards)
    groups: dict[RowKey, list[Card]] = defaultdict(list)
    for card in cards:
        settings = json.dumps([card.metered, settings_of(card), package_of(card)])  # packages may name methods alike
        groups[card.algorithm, settings, json.dumps(outdated_families(card, newest))].append(card)
    names = _row_names(groups)
    return [build_row(names[key], group, outdated_families(group[0], newest)) for key, group in groups.items()]


def _row_names(groups: Mapping[RowKey, list[Card]]) -> dict[RowKey, str]:
    """A distinct name for each row: the algorithm's, with the settings in which its configurations differ, its outdated
    versions, and "[unmetered]" if a method has the same name."""
    names: dict[RowKey, str] = {}
    for metered in (True, False):
        keys = [key for key, group in groups.items() if group[0].metered is metered]
        firsts = {key[:2]: groups[key][0] for key in keys}
        distinct = dict(zip(firsts, distinct_names(list(firsts.values())), strict=True))
        for key in keys:
            old = [f"{family} {own}" for family, (own, _) in json.loads(key[2]).items()]
            name = f"{distinct[key[:2]]} [{', '.join(old)}]" if old else distinct[key[:2]]
            names[key] = f"{name} [unmetered]" if name in names.values() else name
    return names


def _with_gains(rows: list[Row], objective: Objective) -> list[Row]:
    """Rows with their gains against the section's reference, prompt by prompt, where both have values."""
    reference = next((row for row in rows if row.part == REFERENCE and not row.outdated), None)
    if reference is None:
        return rows
    for gain, name in ((objective.gain, objective.level), (objective.gain_second, objective.level_second)):
        values = {row.name: None if row.is_outdated(name) else seeds_of(row.cards, name) for row in rows}
        base = values[reference.name]
        paired = {row: seeds for row, seeds in values.items() if seeds and base and seeds[0].keys() == base[0].keys()}
        bases = {row.name: bases_of(row.cards) for row in rows}
        others = [row for row in paired if row != reference.name and bases[row] == bases[reference.name]]
        bases = {row: found for row, found in bases.items() if found}
        pairs = [(row, reference.name) if objective.higher_is_better else (reference.name, row) for row in others]
        compared = {b if a == reference.name else a: c for (a, b), c in stats.compare(paired, pairs, bases=bases).items()}
        bounds = metric(gain, objective).bounds
        gained = {row: clip(Estimate(c.value, c.low, c.high, c.n, c.missing), bounds) for row, c in compared.items()}
        if metric(name, objective).bounds == (0.0, 1.0):
            levels = {row.name: row.estimate(name) for row in rows}
            gained = {row: stats.exact_gain(e, [levels[row], levels[reference.name]]) for row, e in gained.items()}
        rows = [replace(row, metrics=row.metrics | {gain: gained[row.name]}) if row.name in gained else row for row in rows]
    return rows


def _gain(row: Row) -> float:
    value = row.estimate(row.objective.gain).value
    if value is None:
        return 0.0 if row.part == REFERENCE else -math.inf
    return value
