"""The leaderboard: a pure function of the cards of one task.

A row is one algorithm in one configuration, its seeds pooled. Rows are in one section only if budget, SFT base and measurement
(prompts, draws, scorers) are the same. The same cards give the same bytes, in any order.
"""

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from isoalign.core.errors import UserError, unforeseen
from isoalign.core.files import save
from isoalign.core.objective import objective_of
from isoalign.core.records import Card
from isoalign.evaluation.card import file_name, redacted
from isoalign.report.board.rows import settings_of
from isoalign.report.board.sections import Section, build_sections
from isoalign.report.charts.curves import curves_chart, curves_chart_name
from isoalign.report.charts.frontier import frontier_chart, frontier_chart_name
from isoalign.report.charts.reliability import reliability_chart, reliability_chart_name
from isoalign.report.pages.page import board_page
from isoalign.report.pages.paper import as_latex, as_markdown
from isoalign.report.pages.table import as_csv, board_table
from isoalign.report.pages.terminal import board_text

CHARTS = (
    (frontier_chart_name, frontier_chart),
    (curves_chart_name, curves_chart),
    (reliability_chart_name, reliability_chart),
)


@dataclass(frozen=True)
class Board:
    """The leaderboard of one task."""

    task: str
    sections: tuple[Section, ...]

    def markdown(self) -> str:
        """The board as a Markdown page."""
        return board_page(self.task, self.sections)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Column names and one row of plain values for each row of the board: what the CSV holds."""
        return board_table(self.sections)

    def csv(self) -> str:
        """The board as CSV: plain numbers, empty where a value is missing."""
        return as_csv(*self.table())

    def terminal(self, width: int = 110, colour: bool = False) -> str:
        """The board for a terminal of 100 columns or more; without colour it is plain text."""
        return board_text(self.task, self.sections, width, colour)

    def charts(self, kind: str = "svg") -> dict[str, bytes]:
        """The charts of all sections by file name, as SVG or PDF, those that have something to show."""
        drawn = {name(i): draw(self.task, one, kind) for i, one in enumerate(self.sections, 1) for name, draw in CHARTS}
        return {name.replace(".svg", f".{kind}"): chart for name, chart in drawn.items() if chart is not None}


def build_board(cards: Iterable[Card], task: str | None = None) -> Board:
    """The board of cards of one ``task``. Raises UserError for cards of another task or of several, and for no cards."""
    cards = ordered(cards)
    if task not in (None, cards[0].task):
        raise UserError(f"a board of {task} can't be made from cards of {cards[0].task}")
    return Board(cards[0].task, tuple(build_sections(cards)))


@contextmanager
def naming_its_card(cards: Collection[Card]) -> Iterator[None]:
    """Context in which boards are made of cards that may hold anything: an error is told with the card that is at fault."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError | OSError) or os.environ.get("ISOALIGN_DEBUG"):
            raise
        for card in cards:
            try:
                board = build_board([card])
                board.markdown(), board.charts()
            except Exception as own:
                raise UserError(f"no board can be made of {file_name(card)}, so move it away: {unforeseen(own)}") from error
        raise


def ordered(cards: Iterable[Card]) -> list[Card]:
    """The cards without secrets, in an order that depends on them alone. Raises UserError for no cards and for several
    tasks or objectives."""
    alike: dict[tuple[str, str, int], list[Card]] = defaultdict(list)
    for card in map(redacted, cards):
        alike[card.algorithm, settings_of(card), card.seed].append(card)
    cards = [card for _, same in sorted(alike.items()) for card in (sorted(same, key=_json) if len(same) > 1 else same)]
    tasks = sorted({card.task for card in cards})
    if not cards:
        raise UserError("no cards to make a board from; make some with: isoalign run")
    if len(tasks) > 1:
        raise UserError(f"a board shows one task, but these cards are of {len(tasks)}: {', '.join(tasks)}")
    if len(set(map(objective_of, cards))) > 1:
        raise UserError(different_objectives(cards))
    return cards


def different_objectives(cards: Iterable[Card]) -> str:
    """The line for cards that were ranked by several objectives, which can't share a board."""
    objectives = sorted({f"{o.noun} ({o.direction}, bounds {list(o.bounds)})" for o in map(objective_of, cards)})
    return f"these cards have {len(objectives)} objectives: {' and '.join(objectives)}; compare cards of one objective"


def write_board(board: Board, folder: Path) -> Path:
    """Write ``leaderboard.md``, ``leaderboard.csv`` and the charts into a folder; returns the path of the first."""
    folder = Path(folder)
    charts = board.charts()
    for name, svg in charts.items():
        save(folder / name, svg)
    for stale in folder.glob("*.svg"):
        if CHART.fullmatch(stale.name) and stale.name not in charts:
            stale.unlink()
    save(folder / "leaderboard.csv", board.csv())
    save(folder / "leaderboard.md", board.markdown())
    return folder / "leaderboard.md"


CHART = re.compile(r"(frontier|curves|reliability)(-\d+)?\.svg")
PAPER = re.compile(r"table(-\d+)?\.(tex|md)|(frontier|curves|reliability)(-\d+)?\.pdf")


def write_paper(board: Board, folder: Path) -> list[Path]:
    """Write the charts as PDF, and a table of the main figures of each section in LaTeX and in Markdown; returns the paths."""
    tables: dict[str, str] = {}
    for number, section in enumerate(board.sections, 1):
        name = "table" if number == 1 else f"table-{number}"
        tables |= {f"{name}.tex": as_latex(board.task, section), f"{name}.md": as_markdown(section)}
    files: dict[str, str | bytes] = {**board.charts("pdf"), **tables}
    for stale in Path(folder).glob("*"):
        if PAPER.fullmatch(stale.name) and stale.name not in files:
            stale.unlink()
    for name, data in files.items():
        save(Path(folder) / name, data)
    return [Path(folder) / name for name in files]


def print_board(board: Board, stream: TextIO | None = None) -> None:
    """Print the board to a terminal or file, in its width and without characters that it can't encode."""
    stream = stream or sys.stdout
    console = Console(file=stream)
    width = min(max(console.width, 100), 120) if console.is_terminal else 110
    text = board.terminal(width, colour=console.color_system is not None)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if not encoding.lower().startswith("utf"):
        text = text.translate(str.maketrans("─–−", "---")).encode(encoding, "replace").decode(encoding)
    stream.write(text)


def _json(card: Card) -> str:
    return json.dumps(vars(card), sort_keys=True, default=vars)
