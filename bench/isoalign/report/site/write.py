"""A report as a folder of pages that open from a disk: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from isoalign.core.files import new_folder
from isoalign.core.records import Card
from isoalign.core.store import Store
from isoalign.report.leaderboard import Board, build_board, naming_its_card
from isoalign.report.site.charts import library
from isoalign.report.site.document import HERE, stylesheet
from isoalign.report.site.front_page import front_page
from isoalign.report.site.runs import pages_of_runs

MARKER = ".isoalign-report"
Page = tuple[str, str]  # path in the report, text
PAGES: tuple[Callable[[Sequence[Board]], Iterable[Page]], ...] = ()
"""What writes the pages beside the first one: functions of the boards, that give (path, text) of pages and of their data."""


def write_report(cards: Mapping[str, Sequence[Card]], folder: Path, store: Store | None = None) -> Path:
    """Write the report of cards, by task, into a folder; returns the path of its first page. ``store``: where
    the samples and the training logs of its runs are, those that it holds.

    A folder that holds an older report is replaced as a whole. Raises UserError for a folder that holds anything else, and
    without the library that draws the charts.
    """
    with new_folder(folder, replaces=MARKER) as work:
        charts, boards = library(), []
        for task, read in cards.items():
            with naming_its_card(read):
                boards.append(build_board(read, task))
        pages = {path: text for pages in PAGES for path, text in pages(boards)}
        pages |= dict(pages_of_runs(boards, store))
        pages |= {
            "index.html": front_page(boards, set(pages)),
            "assets/report.css": stylesheet(),
            "assets/vega.js": charts,
            MARKER: "",
        }
        pages |= {f"assets/{file.name}": file.read_text(encoding="utf-8") for file in HERE.glob("assets/*.js")}
        for path, text in pages.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_text(text, encoding="utf-8")
    return Path(folder) / "index.html"
