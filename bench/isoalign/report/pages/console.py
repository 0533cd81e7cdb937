"""Tables for a terminal, by rich."""

import io
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def plain_table(title: str, titles: list[str], rows: list[list[str]], names: int = 1) -> Table:
    """A table whose first ``names`` columns are left-aligned. Cells that are too long are folded."""
    table = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, pad_edge=False)
    table.title_justify = "left"
    for place, name in enumerate(titles):
        table.add_column(Text(name), justify="left" if place < names else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def rendered(parts: Iterable[Any], width: int, colour: bool = False) -> str:
    """Texts and tables of rich as the lines of a terminal of a width, plain unless in ``colour``."""
    file = io.StringIO()
    system: Any = "standard" if colour else None
    console = Console(file=file, width=width, color_system=system, force_terminal=colour, highlight=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
