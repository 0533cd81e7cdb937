"""The first page of a report: a picture with its answer, the boards, and what they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isoalign.report.leaderboard import Board
from isoalign.report.site.document import document, render, script

SCRIPTS = ("assets/vega.js", "assets/charts.js")


def front_page(boards: Sequence[Board]) -> Iterator[tuple[str, str]]:
    """The first page, by its path."""
    body = render("front.html", boards=boards)
    yield "index.html", document("isoalign: results", body, scripts=[script(path) for path in SCRIPTS])
