"""The first page of a report: a picture with its answer, the boards, and what they rest on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from markupsafe import Markup

from isoalign.core.display import clean
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import compared_at, headline, unmeasured_sentence
from isoalign.report.charts.looks import name_of
from isoalign.report.leaderboard import Board
from isoalign.report.pages.phrases import budget_phrase
from isoalign.report.site.along import along_budget
from isoalign.report.site.board_table import board_table
from isoalign.report.site.costs import bill, diversity
from isoalign.report.site.document import document, render, script
from isoalign.report.site.matrix import matrix
from isoalign.report.site.names import folder_name, pairs_path, samples_path
from isoalign.report.site.parts import SHAPES, key
from isoalign.report.site.picture import forest, frontier
from isoalign.report.site.reward_models import reliability

KEYS = {
    "pairs": "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z", "unpaired": "M-.9 -.9H.9V.9H-.9Z", "reward": "M0 -1.2L1.2 0L0 1.2L-1.2 0Z",
    "judge": "M0 -1.1L1.1 .9H-1.1Z", "distillation": "M0 1.1L1.1 -.9H-1.1Z", "none": SHAPES["none"],
    "other": "M-.35 -1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
}  # fmt: skip
"""The marks of families as paths, for the key."""
SCRIPTS = ("assets/vega.js", "assets/charts.js", "assets/front.js")


def front_page(boards: Sequence[Board], paths: Collection[str]) -> str:
    """The first page. ``paths``: of the other pages, to which it links."""
    sections = [
        _section(board, section, number, paths) for board in boards for number, section in enumerate(board.sections, 1)
    ]
    names = sorted({name_of(row, 60) for board in boards for section in board.sections for row in section.rows})
    body = render("front.html", sections=sections, names=names, filters=_filters(boards))
    return document("isoalign: results", body, scripts=[script(path) for path in SCRIPTS])


def _section(board: Board, section: Section, number: int, paths: Collection[str]) -> dict[str, object]:
    at = compared_at(section)
    name = f"{folder_name(board.task)}-{number}"
    said = [unmeasured_sentence(section, at), section.drift.sentence(section.rows)]
    return {
        "name": name,
        "task": board.task,
        "budget": budget_phrase(section),
        "base": section.base,
        "finding": headline(section),
        "said": " · ".join(filter(None, said)),
        "warnings": [*section.warnings, *section.unequal],
        "key": key(section.rows),
        "paths": KEYS,
        "drift": section.drift.controls,
        "links": [(title, path + fragment) for title, path, fragment in _links(board, number) if path in paths],
        "board": board_table(section, f"{name}-board", paths),
        "charts": _charts(section, name),
        "forest": forest(section, f"{name}-forest"),
        "frontier": frontier(section, f"{name}-frontier"),
    }


def _links(board: Board, number: int) -> list[tuple[str, str, str]]:
    """Title, path and fragment of the pages about a section."""
    return [
        ("Any two methods", pairs_path(board.task), f"#section={number}"),
        ("Samples side by side", samples_path(board.task), ""),
    ]


def _charts(section: Section, name: str) -> list[tuple[str, list[Markup]]]:
    """Headings with their charts, those that have something to show."""
    found = {
        "Along the budget": along_budget(section, name),
        "What it costs": [bill(section, f"{name}-bill"), diversity(section, f"{name}-diversity")],
        "What it rests on": [reliability(section, f"{name}-reliability"), matrix(section)],
    }
    return [(title, shown) for title, charts in found.items() if (shown := list(filter(None, charts)))]


def _filters(boards: Sequence[Board]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """What rows and sections are chosen by: name, title, and values with their texts."""
    sections = [(board.task, section) for board in boards for section in board.sections]
    rows = [row for _, section in sections for row in section.rows]
    most = max(row.seeds for row in rows)
    found: dict[str, list[tuple[str, str]]] = {
        "task": [(clean(task), clean(task)) for task in dict.fromkeys(task for task, _ in sections)],
        "budget": [(text, text) for text in dict.fromkeys(budget_phrase(section) for _, section in sections)],
        "base": [(clean(base), clean(base)[:8]) for base in dict.fromkeys(section.base for _, section in sections)],
        "seeds": [(str(least), f"{least} or more") for least in range(1, most + 1)],
        "feedback": [(name, words) for name, words in key(rows)],
    }
    titles = {"task": "Task", "budget": "Budget", "base": "Base", "seeds": "Seeds", "feedback": "Learns from"}
    return [(name, titles[name], options) for name, options in found.items()]
