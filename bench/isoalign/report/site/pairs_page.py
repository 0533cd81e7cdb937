"""Any two rows of a board: the comparisons that its ranks rest on, one page with all of them as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoalign.core.display import clean
from isoalign.evaluation.metrics import Metric
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import leading, metric, tables
from isoalign.report.board.ranking import seeds_of
from isoalign.report.board.rows import Row
from isoalign.report.board.sections import Section
from isoalign.report.leaderboard import Board
from isoalign.report.pages.phrases import budget_phrase, difference_phrase, verdict_phrase
from isoalign.report.site.document import assigned_data, document, render, run_path, script
from isoalign.report.site.names import pairs_path, run_id, samples_path
from isoalign.report.site.parts import learns_from
from isoalign.report.site.run_page import run_name, unbroken

SCRIPTS = ("assets/copy.js", "assets/pairs.js")
MEANING = {
    "one seed": "One seed decides nothing: the interval covers the prompts, not the training, so there is no verdict.",
    "too few prompts": "Too few prompts have a value on both sides for a test, so there is no verdict.",
    "not resolved": "The difference is not resolved: it may be chance, once it is allowed for that many pairs are compared.",
}
A, B = "{A}", "{B}"  # stand for the names in a phrase


def pairs_pages(board: Board) -> Iterator[tuple[str, str]]:
    """The page of a board's pairs and its data, by path."""
    path = pairs_path(board.task)
    data = Path(path).name.replace(".html", ".js")
    yield path.replace(".html", ".js"), assigned_data("isoalignPairs", pairs_data(board))
    scripts = [script(data), *(script(path, 1) for path in SCRIPTS)]
    body = render("pairs.html", task=board.task, sections=len(board.sections))
    yield path, document(f"Two methods of {board.task}", body, depth=1, scripts=scripts)


def pairs_data(board: Board) -> dict[str, Any]:
    """The rows and pairs of each section. Of a pair: the places of A and B, difference, interval, p, the place of its verdict,
    prompts, and prompts without a value."""
    names = Counter(row.name for section in board.sections for row in section.rows)
    return {
        "task": clean(board.task),
        "samples": f"../{samples_path(board.task)}",
        "sections": [_section(section, names) for section in board.sections],
    }


def _section(section: Section, names: Counter[str]) -> dict[str, Any]:
    objective, ranking = section.objective, section.ranking
    pairs = ranking.pairs | ranking.others
    compared = {name for pair in pairs for name in pair}
    metrics = [metric(name, objective) for name in leading(objective)]
    cards = [card for row in section.rows for card in row.cards]
    metrics += [one for group in tables(cards, objective).values() for one in group]
    metrics = [one for one in dict.fromkeys(metrics) if any(one.name in row.metrics for row in section.rows)]
    places = {row.name: place for place, row in enumerate(section.rows)}
    phrases: dict[str, int] = {}
    packed = [
        [places[a], places[b], *map(_rounded, (c.value, c.low, c.high, c.p_holm)),
         phrases.setdefault(verdict_phrase(A, B, c, objective), len(phrases)), c.n, *([c.missing] if c.missing else [])]
        for (a, b), c in pairs.items()
    ]  # fmt: skip
    return {
        "title": f"{budget_phrase(section)}, base {clean(section.base or 'unknown')}",
        "difference": difference_phrase(objective),
        "axis": objective.gain_title,
        "unequal": list(map(clean, section.unequal)),
        "metrics": [clean(one.heading) for one in metrics],
        "rows": [
            {
                "name": clean(row.name), "place": row.place, "learns": learns_from(row), "seeds": row.seeds,
                "runs": [[run_id(card), run_name(card), f"../{run_path(card)}"] for card in row.cards],
                "cells": [_cell(row, one) for one in metrics],
                "shared": names[row.name] > 1, "why": "" if row.name in compared else _why_not(row),
            }
            for row in section.rows
        ],
        "pairs": packed,
        "ranked": len(ranking.pairs),
        "phrases": list(phrases),
        "meaning": MEANING,
    }  # fmt: skip


def _cell(row: Row, one: Metric) -> str:
    return unbroken(cell(row.metrics.get(one.name), one.digits) + " (outdated)" * row.is_outdated(one.name))


def _why_not(row: Row) -> str:
    """Why the board compares a row with no other."""
    if row.gated:
        return "failed a gate: its score may come from answers that are no text, so the board compares it with no other row"
    if row.is_outdated(row.objective.level):
        return "was scored by another version of the metric than the others: isoalign rescore applies the same to all"
    if seeds_of(row.cards, row.objective.level) is None:
        return "has no values by prompt on its cards, by which rows are paired: run it again with this version"
    return "has values on other prompts than most rows, or there is no other row to pair it with"


def _rounded(value: float | None) -> float | None:
    """Four digits: more than is shown, and the data stay small."""
    return None if value is None else float(f"{value:.4g}")
