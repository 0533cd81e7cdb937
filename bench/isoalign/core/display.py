"""Numbers and names as text, safe in Markdown, HTML and a terminal."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any


def scientific(value: float | None) -> str:
    """A number with three digits and a short exponent, as for FLOPs."""
    if value is None:
        return "–"
    return re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", f"{value:.2e}") if value else "0"


def share(percent: float | None) -> str:
    """A percentage with one decimal."""
    return "–" if percent is None else f"{percent:.1f}%"


def probability(p: float | None) -> str:
    """A p-value with three decimals."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return "–" if value is None else f"{value:,.0f}"


def clean(text: str) -> str:
    """The text as one line without control, direction and other invisible characters, which could hide or forge text."""
    kept = (" " if char.isspace() else char for char in text)
    return "".join(char for char in kept if not unicodedata.category(char).startswith("C")).strip()


def escape(text: str) -> str:
    """Text that Markdown and HTML show literally, also in the cell of a table."""
    text = re.sub(r"[\\|`*\[\]~]", r"\\\g<0>", clean(text)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def grid(titles: list[str], rows: list[list[str]], left: Sequence[int] = (0,)) -> str:
    """A Markdown table, aligned so that its source is readable; the columns ``left`` are left-aligned."""
    widths = [max(3, *map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(titles), line(rule), *map(line, rows)])


def plain(value: Any) -> str:
    """A value without formatting, with 12 digits, so that the last bits, which differ between platforms, do not show."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e18 else f"{value:.12g}"
    return "" if value is None else str(value)


def visible(text: str) -> str:
    """The text with its lines, in which every other control, direction and invisible character is shown by its code point, so
    that none can hide, reorder or end what stands around it."""

    def shown(char: str) -> str:
        harmless = char in "\n\t\u200c\u200d" or not unicodedata.category(char).startswith("C")
        return char if harmless else f"‹U+{ord(char):04X}›"

    return "".join(map(shown, text.replace("\r\n", "\n")))
