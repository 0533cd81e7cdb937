"""The first page of a report: a picture with its answer, the boards, and what they rest on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import compared_at, finding, unmeasured_sentence
from isoalign.report.leaderboard import Board
from isoalign.report.pages.phrases import budget_phrase
from isoalign.report.site.document import document, render, script
from isoalign.report.site.names import folder_name
from isoalign.report.site.parts import key
from isoalign.report.site.picture import forest, frontier

SCRIPTS = ("assets/vega.js", "assets/charts.js", "assets/front.js")


def front_page(boards: Sequence[Board], paths: Collection[str]) -> str:
    """The first page. ``paths``: of the other pages, to which it links."""
    sections = [_section(board, section, number) for board in boards for number, section in enumerate(board.sections, 1)]
    body = render("front.html", sections=sections)
    return document("isoalign: results", body, scripts=[script(path) for path in SCRIPTS])


def _section(board: Board, section: Section, number: int) -> dict[str, object]:
    at = compared_at(section)
    name = f"{folder_name(board.task)}-{number}"
    said = [unmeasured_sentence(section, at), section.drift.sentence(section.rows)]
    return {
        "name": name,
        "task": board.task,
        "budget": budget_phrase(section),
        "base": section.base,
        "finding": finding(section, at),
        "said": " · ".join(filter(None, said)),
        "warnings": section.warnings,
        "key": key(section.rows),
        "forest": forest(section, f"{name}-forest"),
        "frontier": frontier(section, f"{name}-frontier"),
    }
