"""What all charts share: SVG output, fonts, titles, and the colours and marks of rows."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from isoalign.core.display import clean, scientific
from isoalign.core.lazy import matplotlib
from isoalign.report.board.rows import CONTROL, INFERENCE, METHOD, REFERENCE, UNMETERED, Row
from isoalign.report.board.sections import Section
from isoalign.stats.equal_kl import neighbours

CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # that no XML may hold
FAINT = "#8a8a8a"
INK = "#222222"
GRID = "#ececec"
OTHERS = "#dddddd"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, without yellow
MARKERS = "osD^vPX*"
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
GAP = (0, (1, 2))  # of the line between two snapshots that lie too far apart for anything to be read between them
CROWD = 10  # with more rows than these, colours and names beside marks do not tell them apart
MOST = 30  # rows that a chart names; the others are grey


def picture(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    """An SVG of what ``draw`` puts on a figure of a size in inches. The same drawing gives the same bytes."""
    rc: dict[Any, Any] = {"svg.hashsalt": "isoalign", "font.size": 10, "axes.spines.top": False}
    rc |= {"text.parse_math": False}  # names come from anywhere, and a dollar in one is a dollar
    rc |= {"axes.spines.right": False, "axes.edgecolor": FAINT, "text.color": INK, "axes.labelcolor": INK}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names with letters that the font lacks
        matplotlib.style.use(["default", rc])
        figure = matplotlib.figure.Figure(figsize=size, dpi=100, layout="constrained")
        matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "isoalign"})
    return CONTROLS.sub(b"", file.getvalue())


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
    """Looks by name, so that neither a new rank nor colour blindness confuses two methods. Colours repeat after six."""
    methods = sorted(row.name for row in rows if row.part in (METHOD, UNMETERED, INFERENCE))
    looks = {REFERENCE: Look(INK, "p"), CONTROL: Look("#777777", "h")}
    own = {
        name: Look(PALETTE[i % 6], MARKERS[(i + i // 24) % 8], LINES[i // 6 % 3]) for i, name in enumerate(methods)
    }  # 48 different ones
    return own | {row.name: looks[row.part] for row in rows if row.part in looks}


def name_of(row: Row) -> str:
    """A row's name in charts, with the reason why it can't be compared, if there is one."""
    apart = f" ({row.part})" if row.part in (UNMETERED, INFERENCE) else " (outdated)"
    why = "" if row.comparable else " (gate)" if row.gated else apart
    return shorten(clean(row.name), 36) + why


def shorten(text: str, length: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"
