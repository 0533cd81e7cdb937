"""Figures and names as text, safe in Markdown, HTML and a terminal."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from isoalign.core.lazy import rich


def scientific(value: float | None) -> str:
    """FLOPs: three digits and a short exponent."""
    if value is None:
        return "–"
    return re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", f"{value:.2e}") if value else "0"


def share(percent: float | None) -> str:
    """A share in %."""
    return "–" if percent is None else f"{percent:.1f}%"


def probability(p: float | None) -> str:
    """A p-value: three digits."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: float | None) -> str:
    """A whole number with its thousands set apart."""
    return "–" if value is None else f"{value:,.0f}"


def clean(text: str) -> str:
    """One line without control, direction or other invisible characters, which could hide or forge what is read."""
    kept = (" " if char.isspace() else char for char in text)
    return "".join(char for char in kept if not unicodedata.category(char).startswith("C")).strip()


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, in a table cell too."""
    text = re.sub(r"[\\|`*\[\]~]", r"\\\g<0>", clean(text)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def grid(titles: list[str], rows: list[list[str]], left: Sequence[int] = (0,)) -> str:
    """A Markdown table that reads as one before it is rendered too; columns ``left`` are left-aligned."""
    widths = [max(3, *map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(titles), line(rule), *map(line, rows)])


def printable(title: str, titles: list[str], rows: list[list[str]], names: int = 1) -> Any:
    """A table for rich's console; the first ``names`` columns are left-aligned. Too long a cell goes on in the next line."""
    made = rich.table.Table(title=rich.text.Text(title, style="bold"), box=rich.box.SIMPLE_HEAD, pad_edge=False)
    made.title_justify = "left"
    for place, name in enumerate(titles):
        made.add_column(rich.text.Text(name), justify="left" if place < names else "right", overflow="fold")
    for row in rows:
        made.add_row(*map(rich.text.Text, row))
    return made


def plain(value: Any) -> str:
    """A value without formatting; 12 digits, so that no platform's last bit shows."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e18 else f"{value:.12g}"
    return "" if value is None else str(value)
