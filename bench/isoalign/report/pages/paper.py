"""A table for a paper: rank, gain and its price of each row, in LaTeX or Markdown, from the figures of the board."""

from __future__ import annotations

import re

from isoalign.core.display import clean, escape, grid, scientific
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import gain_digits, metric
from isoalign.report.board.rows import INFERENCE, REFERENCE, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import compared_at, gain_of, headline, in_nats
from isoalign.report.pages.equal_kl import area_cell, area_title
from isoalign.report.pages.phrases import row_name
from isoalign.stats.equal_kl import reaches

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}  # fmt: skip
_SIGNS = {"−": "$-$", "–": "--", "≥": r"$\geq$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "√": r"$\surd$", "…": r"\ldots{}"}


def as_markdown(section: Section) -> str:
    """The table in Markdown, under the finding."""
    titles, rows = _table(section)
    names = [row_name(row) for row in section.rows]
    shown = [[escape(cells[0]), name, *cells[2:]] for name, cells in zip(names, rows, strict=True)]
    parts = [f"{escape(headline(section))}.", grid(titles, shown, left=(0, 1))]
    notes = "\n".join(f"- {escape(note)}" for note in notes_of(section))
    return "\n\n".join([*parts, *([notes] if notes else [])]) + "\n"


def notes_of(section: Section) -> list[str]:
    """What must be known of rows before they are compared."""
    bounds = [row.name for row in section.rows if row.part == INFERENCE]
    told = [f"{', '.join(bounds)}: the KL is at most that"] if bounds else []
    told += [f"{row.name}: {'; '.join(map(str, row.flags))}" for row in section.rows if row.flags]
    return [clean(note) for note in [*told, *section.unequal]]


def as_latex(task: str, section: Section) -> str:
    """The table in LaTeX, for the package booktabs; the finding is its caption."""
    titles, rows = _table(section)
    caption = f"{headline(section)}. {clean(task)}, {scientific(section.budget.get('flops'))} FLOP a run."
    lines = [" & ".join(map(latex, cells)) + r" \\" for cells in [titles, *rows]]
    return "\n".join([
        r"% \usepackage{booktabs}", r"\begin{table}", rf"\caption{{{latex(caption)}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(titles) - 2)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
        r"\end{tabular}", r"\end{table}", *(f"% {latex(note)}" for note in notes_of(section)), "",
    ])  # fmt: skip


def latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return re.sub(r"[\\~^&%$#_{}]|[^\x00-\x7f]", lambda m: _SPECIAL.get(m[0]) or _SIGNS.get(m[0], m[0]), text)


def _table(section: Section) -> tuple[list[str], list[list[str]]]:
    objective, at = section.objective, compared_at(section)
    columns = [metric(name, objective) for name in (objective.gain, "kl", "perplexity")]
    titles = ["Rank", "Method", "Seeds", *(one.heading for one in columns)]
    titles += [] if at is None else [f"{objective.gain_title} at {in_nats(at)}"]
    titles += ([area] if (area := area_title(section)) else []) + (["Above drift"] if section.drift.controls else [])

    def cells(row: Row) -> list[str]:
        own = [cell(row.metrics.get(one.name), one.digits) for one in columns]
        own += [] if at is None else [_at(section, row, at)]
        own += [area_cell(section, row)] if area_title(section) else []
        own += [section.drift.cell(row)] if section.drift.controls else []
        return [clean(row.place), clean(row.name), str(row.seeds), *own]

    return titles, [cells(row) for row in section.rows]


def _at(section: Section, row: Row, at: float) -> str:
    gain = gain_of(section, row, at)
    if gain.value is None:
        reached = row.name not in section.curves or reaches(section.curves[row.name], at)
        return "–" if row.part == REFERENCE else "not measured" if reached else "not reached"
    return cell(gain, gain_digits(row.objective))
