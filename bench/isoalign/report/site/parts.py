"""What several parts of a report's first page share: marks of rows, and tables that say what a chart shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from isoalign.core.display import clean
from isoalign.core.records import Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.rows import DRIFT, Row
from isoalign.report.charts.forest import TWIN
from isoalign.report.charts.frontier import WORDS
from isoalign.report.charts.looks import HUES, family_of, name_of
from isoalign.report.site.document import render

SHAPES = {
    "pairs": "circle", "unpaired": "square", "reward": "diamond", "judge": "triangle-up", "distillation": "triangle-down",
    "none": "M.5,-.87L1,0L.5,.87L-.5,.87L-1,0L-.5,-.87Z", "other": "cross",
}  # fmt: skip
POINT: dict[str, Any] = {"type": "point", "size": 64, "strokeWidth": 1.6, "opacity": 1}
LOOKS: dict[str, Any] = {
    "shape": {"field": "shape", "type": "nominal", "scale": None},
    "stroke": {"field": "hue", "type": "nominal", "scale": None},
    "fill": {"field": "fill", "type": "nominal", "scale": None},
}
"""Channels of marks that are rows with a `look`."""
SAYS: dict[str, Any] = {"description": {"field": "says", "type": "nominal"}}
"""The channel of what a mark says when it is pointed at."""
KL: dict[str, Any] = {
    "type": "quantitative", "scale": {"type": "sqrt", "zero": True},
    "title": "Exact KL from the base, nats (square-root scale)",
}  # fmt: skip


def hue(row: Row) -> str:
    """The colour of a row, by what it learns from."""
    family = family_of(row)
    return f"var(--hue-{family if family in HUES else 'other'})"


def look(row: Row) -> dict[str, str]:
    """How a row's marks are drawn: hollow for TRL's twin of a method, and for what can't be compared."""
    hollow = row.name.startswith(TWIN) or not row.comparable
    return {
        "name": name_of(row, 60),
        "hue": hue(row),
        "shape": SHAPES.get(family_of(row), SHAPES["other"]),
        "fill": "var(--paper)" if hollow else hue(row),
    }


def learns_from(row: Row) -> str:
    """What a row learns from, in words."""
    return WORDS.get(family_of(row), WORDS["other"])


def key(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Families with their words, those that are among the rows."""
    families = {family_of(row) if family_of(row) in WORDS else "other" for row in rows if row.algorithm not in DRIFT}
    return [(name, words) for name, words in WORDS.items() if name in families]


def shown(estimate: Estimate | None, digits: int = 3) -> str:
    """An estimate as text, "not measured" where it has no value."""
    if estimate is None or estimate.value is None:
        return "not measured"
    return cell(replace(estimate, missing=0), digits)


def html_table(caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table with a caption; the first cell of a row is its heading."""
    return render("table.html", caption=caption, titles=titles, rows=[list(map(clean, row)) for row in rows])
