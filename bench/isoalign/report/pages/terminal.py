"""The board for a terminal."""

import io
from collections.abc import Sequence
from typing import Any

from isoalign.core.display import clean, share
from isoalign.evaluation.card import BY_HAND
from isoalign.report.board.rows import CONTROL, METHOD, REFERENCE, UNMETERED, Row, Section
from isoalign.report.pages.words import brief, budget, standing

_SHORT = {REFERENCE: "ref", CONTROL: "ctrl", UNMETERED: "unmet.", "outdated": "old"}
_BRIEF = {
    "toxicity_reduction": "reduction",
    "toxicity_mean": "tox.",
    "toxicity_emt": "EMT",
    "kl": "KL",
    "perplexity": "PPL",
    "rm_accuracy": "RM acc",
    "implicit_accuracy": "impl.",
    "distinct_2": "dist-2",
}


def _terminal_table(task: str, section: Section, width: int) -> tuple[Any, int]:
    """A row's main figures, and under them what is flagged; the width that the table takes at least, set close if need be."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    base = clean(section.base)[:8]
    title = Text(f"{clean(task)}: {budget(section)} from base {base or '–'}", style="bold")
    for warning in section.warnings:
        title.append(f"\nNot to be compared: {clean(warning)}", style="bold red")
    titles, rows = ["rank", "method", "seeds", *_BRIEF.values(), "spent"], [_terminal_row(row) for row in section.rows]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    widths[1] = min(widths[1], 13)  # longer names are folded
    least = sum(widths) + len(widths) + 1
    wide = least + len(widths) - 1 <= width
    table = Table(
        title=title, caption=Text(_caption(section)), box=box.SIMPLE_HEAD, padding=(0, int(wide), 0, 0), pad_edge=False
    )
    table.title_justify = table.caption_justify = "left"
    for place, (name, needed) in enumerate(zip(titles, widths, strict=True)):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=place != 1, overflow="fold", min_width=needed)
    for row, cells in zip(section.rows, rows, strict=True):
        best = row.rank is not None and row.rank[0] == 1
        style = "green" if best else "cyan" if row.part != METHOD else "dim" if not row.contends else ""
        table.add_row(*map(Text, cells), style=style)
    return table, least


def _terminal_row(row: Row) -> list[str]:
    """A row's cells, the KL with a star on the Pareto frontier."""
    figures = {name: brief(row, name) for name in _BRIEF}
    figures["kl"] += "*" if row.pareto else " "
    place = _SHORT.get(row.place, row.place)
    return [place, clean(row.name), str(row.seeds), *figures.values(), share(row.percent)]


def _caption(section: Section) -> str:
    """What the ranks rest on, what the star is, and what is flagged."""
    lines = [f"ranks: {rests}"] if (rests := standing(section)) else []
    lines += ["* no other row has both less toxicity and less KL"] if any(row.pareto for row in section.rows) else []
    ranked = [row for row in section.rows if row.part == METHOD]
    by_hand = [clean(row.name) for row in ranked if row.tuning in ("", BY_HAND)]
    lines += [f"not tuned: {', '.join(by_hand)}"] if 0 < len(by_hand) < len(ranked) else []
    lines += [f"{clean(row.name)}: {clean(row.packages)}" for row in section.rows if row.packages]
    lines += [f"{clean(row.name)}: {clean('; '.join(map(str, row.flags)))}" for row in section.rows if row.flags]
    return "\n".join(lines)


def terminal(task: str, sections: Sequence[Section], width: int, colour: bool) -> str:
    """The board for a terminal of 100 columns or more; without colour it is plain text. A table that is too wide goes past
    the width: no figure is cut off."""
    from rich.console import Console

    text = io.StringIO()
    system: Any = "standard" if colour else None
    console = Console(file=text, width=width, color_system=system, force_terminal=colour, highlight=False)
    for section in sections:
        table, least = _terminal_table(task, section, width)
        console.width = max(width, least)
        console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
