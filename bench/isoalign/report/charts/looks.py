"""What all charts share: SVG output, fonts, titles, and the colours and marks of rows."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from isoalign.core import plugins
from isoalign.core.display import clean, scientific
from isoalign.core.lazy import matplotlib
from isoalign.report.board.rows import CONTROL, INFERENCE, REFERENCE, UNMETERED, Row
from isoalign.report.board.sections import Section
from isoalign.stats.equal_kl import neighbours

CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # that no XML may hold
FAINT = "#6b6b6b"
INK = "#222222"
GRID = "#ececec"
OTHERS = "#dddddd"
PAPER = "#ffffff"
HUES = {
    "pairs": "#1565d8", "unpaired": "#00382f", "reward": "#c2410c", "judge": "#7b1fa2",
    "distillation": "#4a3500", "none": FAINT,
}  # fmt: skip
"""A colour for what a method learns from (`provenance.FAMILIES`), dark enough for text, and apart to colour-blind eyes."""
SHAPES = {"pairs": "o", "unpaired": "s", "reward": "D", "judge": "^", "distillation": "v", "none": "h"}
PALETTE = tuple(HUES.values())
DARK = {
    PAPER: "#0d1117", INK: "#e6edf3", FAINT: "#9da7b1", GRID: "#262c34", OTHERS: "#39414b", "#1565d8": "#a9b8ff",
    "#00382f": "#52ff95", "#c2410c": "#e8791f", "#7b1fa2": "#b880ff", "#4a3500": "#fffd4c",
}  # fmt: skip
"""The colours of a page in the dark, each in the place of one in the light."""
FONTS = ("DejaVu Sans", "Verdana", "Arial", "sans-serif")  # of about the width that matplotlib measures
MARKERS = "osD^vPX*"
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
GAP = (0, (1, 2))  # of the line between two snapshots that lie too far apart for anything to be read between them
CROWD = 10  # with more rows than these, colours and names beside marks do not tell them apart
MOST = 24  # rows that a chart names; the others are grey
PLACES = re.compile(rb' (?:d|x|y)="[^"]*"')  # in an SVG
DIGITS = re.compile(rb"(\.\d)\d+")  # beyond a tenth of a point, two thirds of an SVG
BLANKS = re.compile(rb" *\n *")


def picture(draw: Callable[[Any], None], size: tuple[float, float], kind: str = "svg") -> bytes:
    """An SVG, with text as text, or a PDF of what ``draw`` puts on a figure of a size in inches. The same drawing gives the
    same bytes. An SVG turns its colours where the reader's pages are dark."""
    rc: dict[Any, Any] = {"svg.hashsalt": "isoalign", "font.size": 10, "axes.spines.top": False, "svg.fonttype": "none"}
    rc |= {"font.sans-serif": FONTS[:-1], "pdf.fonttype": 42, "xtick.color": FAINT, "ytick.color": FAINT}
    rc |= {"xtick.labelcolor": INK, "ytick.labelcolor": INK, "figure.facecolor": PAPER, "axes.facecolor": "none"}
    rc |= {"text.parse_math": False}  # names come from anywhere, and a dollar in one is a dollar
    rc |= {"axes.spines.right": False, "axes.edgecolor": FAINT, "text.color": INK, "axes.labelcolor": INK}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names with letters that the font lacks
        matplotlib.style.use(["default", rc])
        figure = matplotlib.figure.Figure(figsize=size, dpi=100, layout="constrained")
        matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
        draw(figure)
        file = io.BytesIO()
        if kind == "svg":  # savefig would draw it twice
            canvas = matplotlib.backends.backend_svg.FigureCanvasSVG(figure)
            canvas.print_svg(file, metadata={"Date": None, "Creator": "isoalign"})
        else:
            figure.savefig(file, format=kind, metadata={"CreationDate": None, "Creator": "isoalign"})
    if kind != "svg":
        return file.getvalue()
    small = PLACES.sub(lambda place: DIGITS.sub(rb"\1", place[0]), file.getvalue())
    return CONTROLS.sub(b"", BLANKS.sub(b"\n", small)).replace(b"<defs>", _in_the_dark(), 1)


def _in_the_dark() -> bytes:
    """A style for an SVG that turns each colour where pages are dark."""
    rules = (
        f'[style*="{what}: {old}"]{{{what}:{new} !important}}' for old, new in DARK.items() for what in ("fill", "stroke")
    )
    return f"<style>@media (prefers-color-scheme: dark){{{' '.join(rules)}}}</style><defs>".encode()


def dress(axes: Any, title: str, subtitle: str) -> None:
    """Add a title with a subtitle, and a grid behind the data."""
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=22)
    text = axes.text(0, 1.025, subtitle, transform=axes.transAxes, color=FAINT, fontsize=9)
    text.set_in_layout(False)  # it may extend above the next panel
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def setting(task: str, section: Section) -> str:
    """Task and budget, for a chart's subtitle."""
    return f"{clean(task)}, {scientific(section.budget.get('flops'))} FLOP"


def known_parts(d: Sequence[float], score: Sequence[float]) -> tuple[list[float], list[float]]:
    """A path with breaks (nan) where two snapshots are too far apart in d = sqrt(KL) for anything to be read between them."""
    x, y = list(d[:1]), list(score[:1])
    for (d0, d1), s1 in zip(pairwise(d), score[1:], strict=True):
        if not neighbours(np.array(min(d0, d1)), np.array(max(d0, d1))):
            x.append(math.nan)
            y.append(math.nan)
        x.append(d1)
        y.append(s1)
    return x, y


def even_steps(farthest: float, most: int) -> list[float]:
    """At most ``most`` round steps of d = sqrt(KL) from 0 to a little past ``farthest``; gains are roughly linear in d."""
    steps = (digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5))
    step = next((step for step in steps if farthest <= most * step), 1e4)
    return [i * step for i in range(int(1.1 * farthest / step) + 1)]


@dataclass(frozen=True)
class Look:
    """How a row is drawn: colour, marker, and the style of its lines."""

    colour: str
    marker: str
    line: Any = "-"


def looks_of(rows: list[Row]) -> dict[str, Look]:
    """Looks by name, whatever the ranks: colours by what a method learns from, marks and lines that differ within a colour."""
    looks = {REFERENCE: Look(INK, "p"), CONTROL: Look(FAINT, "h")}
    alike: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.name):
        alike.setdefault(family_of(row), []).append(row.name)
    own = {
        name: Look(HUES.get(family, INK), MARKERS[i % 8], LINES[i % 3])
        for family, names in alike.items()
        for i, name in enumerate(names)
    }  # 24 in each colour
    return own | {row.name: looks[row.part] for row in rows if row.part in looks}


@cache
def _families() -> dict[str, str]:
    return plugins.families()


def family_of(row: Row) -> str:
    """What a row learns from, one of `HUES`; "other" for a method of another package."""
    if row.part == UNMETERED:  # a name that somebody gave says nothing of how it was made
        return "other"
    return "none" if row.part in (REFERENCE, CONTROL) else _families().get(row.algorithm, "other")


def name_of(row: Row, length: int = 36) -> str:
    """A row's name in charts, as `cut_name` has it, and why it can't be compared, if it can't."""
    apart = f" ({row.part})" if row.part in (UNMETERED, INFERENCE) else " (outdated)"
    why = "" if row.comparable else " (gate)" if row.gated else apart
    return cut_name(row, length) + why


def cut_name(row: Row, length: int) -> str:
    """A row's name, its middle left out where it is longer than ``length``."""
    name = clean(row.name)
    half = length // 2
    return name if len(name) <= length else f"{name[:half]}…{name[half + 1 - length :]}"


def shorten(text: str, length: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"
