"""The leaderboard: a pure function of the cards of one task.

A row is one algorithm in one configuration, its seeds pooled. Rows stand together only where budget, SFT base and
measurement (prompts, draws, scorers) are the same; others get a section of their own. Same cards, same bytes, in
whatever order they come.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.lazy import rich
from isoalign.core.records import Card
from isoalign.evaluation.card import redacted
from isoalign.report.board.ranking import pooled
from isoalign.report.board.rows import Row, Section, sections_of, settings_of
from isoalign.report.charts.curves import charts
from isoalign.report.charts.frontier import chart_name, frontier
from isoalign.report.charts.reliability import reliability, reliability_name
from isoalign.report.pages import page, table, terminal

__all__ = ["Board", "Row", "Section", "build", "frontier", "ordered", "pooled", "show", "write"]


@dataclass(frozen=True)
class Board:
    """The leaderboard of one task."""

    task: str
    sections: tuple[Section, ...]

    def markdown(self) -> str:
        """The board as a Markdown page."""
        return page.markdown(self.task, self.sections)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Column names and one row of plain values for each method: what the CSV holds."""
        return table.table(self.sections)

    def csv(self) -> str:
        """The board as CSV: plain numbers, empty where a figure is missing."""
        return table.as_csv(*self.table())

    def terminal(self, width: int = 110, colour: bool = False) -> str:
        """The board for a terminal of 100 columns or more; without colour it is plain text."""
        return terminal.terminal(self.task, self.sections, width, colour)


def build(cards: Iterable[Card], task: str | None = None) -> Board:
    """The board of some cards, which must be of one ``task``. Raises UserError where they are not, or there are none."""
    cards = ordered(cards)
    if task not in (None, cards[0].task):
        raise UserError(f"a board of {task} can't be made from cards of {cards[0].task}")
    return Board(cards[0].task, tuple(sections_of(cards)))


def ordered(cards: Iterable[Card]) -> list[Card]:
    """The cards without secrets, in an order that is their own. Raises UserError for none, and for those of two tasks."""
    cards = sorted(map(redacted, cards), key=lambda card: (card.algorithm, settings_of(card), card.seed, _json(card)))
    tasks = sorted({card.task for card in cards})
    if not cards:
        raise UserError("no cards to make a board from; make some with: isoalign run")
    if len(tasks) > 1:
        raise UserError(f"a board is of one task, and these cards are of {len(tasks)}: {', '.join(tasks)}")
    return cards


def write(board: Board, folder: Path) -> Path:
    """Write ``leaderboard.md``, ``leaderboard.csv`` and the charts into a folder; returns the path of the first."""
    folder = Path(folder)
    drawn: dict[str, bytes] = {}
    for number, section in enumerate(board.sections, 1):
        found = frontier(board.task, section)
        drawn |= {chart_name(number): found} if found else {}
        drawn |= charts(board.task, section, number)
        sure = reliability(board.task, section)
        drawn |= {reliability_name(number): sure} if sure else {}
    for name, svg in drawn.items():
        save(folder / name, svg)
    for stale in (file for kind in ("frontier", "curves", "reliability") for file in folder.glob(f"{kind}*.svg")):
        if stale.name not in drawn:
            stale.unlink()
    save(folder / "leaderboard.csv", board.csv())
    save(folder / "leaderboard.md", board.markdown())
    return folder / "leaderboard.md"


def show(board: Board, stream: TextIO | None = None) -> None:
    """Print the board to a terminal or file, as wide as it allows and with no character that it can't take."""
    stream = stream or sys.stdout
    console = rich.console.Console(file=stream)
    width = min(max(console.width, 100), 120) if console.is_terminal else 110
    text = board.terminal(width, colour=console.color_system is not None)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if not encoding.lower().startswith("utf"):
        text = text.translate(str.maketrans("─–−", "---")).encode(encoding, "replace").decode(encoding)
    stream.write(text)


def _json(card: Card) -> str:
    return json.dumps(vars(card), sort_keys=True, default=vars)
