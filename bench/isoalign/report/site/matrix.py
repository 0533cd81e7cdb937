"""The comparisons of a section as a matrix: a row's method against a column's."""

from __future__ import annotations

from markupsafe import Markup

from isoalign.core.display import clean, probability
from isoalign.core.records import Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import gain_digits
from isoalign.report.board.ranking import Pair
from isoalign.report.board.rows import Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.looks import name_of
from isoalign.report.site.document import render
from isoalign.stats import Comparison

MOST = 30  # methods on a side: of more the best


def matrix(section: Section) -> Markup:
    """A table of the ranked methods, best first: better, worse, or not resolved, with the difference in words."""
    pairs, rows = section.ranking.pairs, [row for row in section.rows if row.rankable]
    if not pairs:
        return Markup("")
    shown = rows[:MOST]
    lines = [(name_of(row, 24), [_compared(section, row, other, pairs) for other in shown]) for row in shown]
    resolved = sum(c.resolved for c in pairs.values())
    title = f"{resolved} of {len(pairs)} pairs are told apart" if resolved else f"No pair of {len(pairs)} is told apart"
    left = f"the best {MOST} of {len(rows)} methods; " if len(rows) > MOST else ""
    return render("matrix.html", title=title, left=left, names=[name_of(row, 24) for row in shown], lines=lines)


def _compared(section: Section, row: Row, other: Row, pairs: dict[Pair, Comparison]) -> tuple[str, str, str]:
    """Kind, sign and words of a comparison."""
    if row is other:
        return "same", "", ""
    names = f"{clean(row.name)} and {clean(other.name)}"
    flip = (row.name, other.name) not in pairs
    c = pairs.get((other.name, row.name) if flip else (row.name, other.name))
    if c is None:
        return "unknown", "?", f"{names}\nnot compared: no values on the same prompts"
    if c.single:
        return "open", "·", f"{names}\nnot decided: one seed says nothing of its method"
    if c.value is None or c.p_holm is None:
        return "open", "·", f"{names}\nnot decided: too few prompts"
    sign, (low, high) = (-1, (c.high, c.low)) if flip else (1, (c.low, c.high))
    ends = [None if end is None else sign * end for end in (low, high)]
    estimate = Estimate(sign * c.value, ends[0], ends[1], c.n)
    difference = cell(estimate, gain_digits(section.objective))
    words = f"{names}\ndifference {difference}, p {probability(c.p_holm)} after Holm's correction"
    if not c.resolved:
        return "open", "·", f"{words}\nnot told apart"
    better = sign * c.value > 0
    told = f"{clean((row if better else other).name)} is {section.objective.comparative}"
    return ("better", "▲", f"{words}\n{told}") if better else ("worse", "▼", f"{words}\n{told}")
