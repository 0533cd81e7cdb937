"""The board of a section as a table: figures of the board's own data, their intervals drawn, flags and ranks in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from isoalign.core.display import clean, scientific, share
from isoalign.core.records import Card, Estimate
from isoalign.evaluation.metrics import Metric
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import leading, metric, tables
from isoalign.report.board.drift import NOT_MEASURED, WHY, concerns, estimate_of
from isoalign.report.board.rows import CONTROL, INFERENCE, REFERENCE, UNMETERED, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.looks import family_of
from isoalign.report.pages.equal_kl import area_cell, area_title
from isoalign.report.pages.how_to_read import how_to_read
from isoalign.report.pages.phrases import chance_phrase, more_seeds_phrase, pareto_phrase, ranking_phrase
from isoalign.report.site.document import render, run_path
from isoalign.report.site.parts import hue, learns_from
from isoalign.stats.comparisons import MANY

MAIN = "Main"
WIDTH = 84  # of a drawn interval, in pixels
PLACES = {
    REFERENCE: "where all start: it has no rank",
    CONTROL: "trained without a preference: it has no rank",
    INFERENCE: "trains nothing and pays for every answer instead: it has no rank",
    UNMETERED: "made outside isoalign and held to no budget: it has no rank",
    "gate": "failed a quality gate: shown, not ranked",
    "outdated": "scored by an older version of the metric: not ranked",
    "–": "no values to rank by",
}
"""What stands in the place of a rank, in words."""


NOTHING = Markup("")


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it shows, and the set of columns it belongs to."""

    title: str
    help: str
    group: str = MAIN
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell: text, a smaller second line, what it is sorted by, and a drawing."""

    text: str
    small: str = ""
    sort: float | str | None = None
    drawing: Markup = NOTHING


@dataclass(frozen=True)
class Span:
    """The range that the intervals of a column are drawn in."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where a value lies, in pixels."""
        reach = self.high - self.low or 1.0
        return round(3 + (WIDTH - 6) * (min(max(value, self.low), self.high) - self.low) / reach, 1)


def board_table(section: Section, identifier: str, paths: Collection[str]) -> Markup:
    """The table with its caption, what its ranks rest on, and its controls' data. ``paths``: of pages that exist."""
    objective = section.objective
    cards = [card for row in section.rows for card in row.cards]
    groups = {MAIN: tuple(metric(name, objective) for name in leading(objective))} | tables(cards, objective)
    shown = [
        (group, one)
        for group, several in groups.items()
        for one in several
        if group == MAIN or one.name not in leading(objective)
    ]
    spans = {one.name: _span([row.estimate(one.name) for row in section.rows if row.rankable]) for group, one in shown}
    columns = _columns(section, shown)
    above = section.drift.controls
    beyond = {name: estimate_of(found) for name, found in section.drift.rows.items()}
    rows = []
    for row in section.rows:
        cells = [_rank(row, section), *([_above(row, section, beyond)] if above else [])]
        figures = [_figure(row, one, spans[one.name], group == MAIN) for group, one in shown]
        cells += [figures[0], *([_area(row, section)] if area_title(section) else []), *figures[1:]]
        cells += _ends(row)
        rows.append({"row": row, "name": clean(row.name), "cells": cells, "hue": hue(row), "family": family_of(row)}
                    | {"learns": learns_from(row), "runs": _runs(row.cards, paths), "flags": _flags(row)})  # fmt: skip
    helps = [(column.title, column.help) for column in columns if column.help]
    values = {"columns": columns, "rows": rows, "groups": list(groups), "help": helps, "reading": _reading(section)}
    ranked = sum(row.rank is not None for row in section.rows)
    values |= {"gain": objective.gain_heading, "ranked": ranked, "notes": _notes(section)}
    return render("board.html", identifier=identifier, **values)


def _notes(section: Section) -> list[str]:
    """What the ranks rest on, and what would be needed for more."""
    told = {"Ranks": ranking_phrase(section), "Chance": chance_phrase(section), "More seeds": more_seeds_phrase(section)}
    told |= {} if section.drift.controls else {"Above drift": f"{NOT_MEASURED}: {WHY}"}
    return [f"{title}: {text}." for title, text in told.items() if text]


def _reading(section: Section) -> list[str]:
    """What the table means, in the words of the board's page, a sentence or more an item."""
    many = any(len(pairs) > MANY for pairs in (section.ranking.pairs, section.ranking.others))
    text = " ".join(how_to_read(section.objective, many).replace("*", "").split())
    return [item.strip() for item in f" {text}".split(" - ") if item.strip()]


def _columns(section: Section, shown: Sequence[tuple[str, Metric]]) -> list[Column]:
    rank = "First and last rank that the method may have, jointly at 95%"
    first = [Column("Rank", rank)]
    if section.drift.controls:
        first.append(Column("Above drift ↑", "The gain minus that of a control for drift at the same KL"))
    metrics = [Column(one.heading, one.description, group) for group, one in shown]
    if title := area_title(section):
        metrics.insert(1, Column(title, "The mean gain over √KL along the run's curves, with first and last rank by it"))
    pareto = f"In which share of resamples no other row has both {section.objective.better} and less KL"
    return [
        *first,
        *metrics,
        Column("Pareto", pareto),
        Column("FLOP", "Spent, mean over seeds, and how much of the budget that is"),
        Column("Tuning", "How its settings were found", numeric=False),
    ]


def _rank(row: Row, section: Section) -> Cell:
    """The span of ranks, drawn; what stands in its place, in words."""
    if row.rank is None or row.place not in (str(row.rank[0]), f"{row.rank[0]}–{row.rank[1]}"):
        return Cell(row.place, PLACES.get(row.place, ""))
    most = max(other.rank[1] for other in section.rows if other.rank)
    span = Span(1, max(2, most))
    low, high = span.place(row.rank[0]), span.place(row.rank[1])
    return Cell(row.place, sort=row.rank[0] + row.rank[1] / 1000, drawing=_drawn(low, high, None, None))


def _above(row: Row, section: Section, beyond: dict[str, Estimate]) -> Cell:
    if not concerns(row):
        return Cell("–")
    text, _, drift = section.drift.cell(row).partition("; ")
    found = beyond.get(row.name)
    value, _, interval = text.partition(" [")
    return Cell(value, " ".join(filter(None, [f"[{interval}" if interval else "", drift])), found.value if found else None)


def _area(row: Row, section: Section) -> Cell:
    """The area under a row's curve with its interval and its rank, or why there is none."""
    value, _, small = area_cell(section, row).replace("; ", "; rank ").partition(" [")
    mean, _ = section.areas[1].get(row.name, (None, None))
    return Cell(value, f"[{small}".replace(", ", ",\u00a0") if small else "", mean.value if mean else None)


def _figure(row: Row, one: Metric, span: Span | None, drawn: bool) -> Cell:
    """A metric with its interval, as text and drawn."""
    estimate = row.estimate(one.name)
    if one.name not in row.metrics:
        return Cell("–")
    value, _, interval = cell(estimate, one.digits).partition(" [")
    small = f"[{interval}".replace(", ", ",\u00a0") if interval else ""
    if row.is_outdated(one.name):
        small += " outdated: scored by an older version"
    drawing = Markup("")
    if drawn and span and estimate.value is not None:
        bounds = [None if bound is None else span.place(bound) for bound in (estimate.low, estimate.high)]
        zero = span.place(0.0) if span.low < 0 < span.high else None
        drawing = _drawn(bounds[0], bounds[1], span.place(estimate.value), zero)
    return Cell(value, small.strip(), estimate.value, drawing)


def _drawn(low: float | None, high: float | None, value: float | None, zero: float | None) -> Markup:
    return render("interval.html", width=WIDTH, low=low, high=high, value=value, zero=zero).strip()


def _span(estimates: Sequence[Estimate]) -> Span | None:
    """The range of some estimates with their intervals."""
    ends = [end for e in estimates for end in (e.value, e.low, e.high) if end is not None]
    return Span(min(ends), max(ends)) if ends else None


def _ends(row: Row) -> list[Cell]:
    flops = row.spent("flops")
    spent = "" if row.percent is None else f"{share(row.percent)}\u00a0spent"
    on = pareto_phrase(row)
    sort = row.on_frontier if row.on_frontier is not None else float(row.pareto)
    return [Cell(on or "–", sort=sort), Cell(scientific(flops), spent, flops), Cell(clean(row.tuning) or "–")]


def _runs(cards: Sequence[Card], paths: Collection[str]) -> list[tuple[int, str]]:
    """Seeds with the pages of their runs, empty where there is none."""
    return [(card.seed, path if (path := run_path(card)) in paths else "") for card in cards]


def _flags(row: Row) -> list[tuple[str, str]]:
    """What must be known of a row: the kind of a flag in words, and its text."""
    words = {"gate": "Gate, keeps it out of the ranks", "warning": "Note"}
    return [(words[flag.kind], clean(flag.text)) for flag in sorted(row.flags, key=lambda flag: flag.kind)]
