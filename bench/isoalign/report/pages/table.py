"""The board as a table of plain values, and as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from isoalign.core.display import clean, plain
from isoalign.report.board.columns import shown
from isoalign.report.board.rows import Row
from isoalign.report.board.sections import ROLES, Section
from isoalign.stats.equal_kl import GRID

FIGURES = 7  # significant digits of a number that is not whole
LIMITS = ("flops", "labels", "tokens", "steps", "seconds")


def board_table(sections: Sequence[Section]) -> tuple[list[str], list[list[Any]]]:
    """Column names and one row of plain values for each row of the board."""
    names = {name for section in sections for row in section.rows for name in row.metrics}
    first = shown(sections[0].objective)
    metrics = [*first, *sorted(names.difference(first))]
    roles = list(ROLES) + sorted({role for section in sections for role in section.roles}.difference(ROLES))
    header = ["section", "budget_flops", "base", "rank", "rank_last", "method", "algorithm", "part"]
    header += ["gated", "outdated", "pareto", "pareto_share", "seeds", "prompts", "tuning", "packages"]
    header += [name + end for name in metrics for end in ("", "_low", "_high")]
    header += [f"gain_at_kl_{kl:g}{end}" for kl in GRID for end in ("", "_low", "_high", "_rank", "_rank_last")]
    header += [f"gain_mean_over_kl{end}" for end in ("_to", "", "_low", "_high", "_rank", "_rank_last")]
    header += ["drift_control", "drift_draws", "drift_kl", "drift_gain", "above_drift"]
    header += ["above_drift_low", "above_drift_high", "above_drift_shown"]
    header += ["spent_percent", *(f"spent_{name}" for name in LIMITS)]
    header += [*(f"flops_{role}" for role in roles), "flags"]
    rows = [
        _plain_row(number, section, row, metrics, roles) for number, section in enumerate(sections, 1) for row in section.rows
    ]
    return header, rows


def as_csv(header: list[str], rows: list[list[Any]]) -> str:
    """A table as CSV: plain numbers of seven digits, empty where a value is missing, texts that no spreadsheet takes for a
    formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[_cell(value) for value in row] for row in [header, *rows]])
    return text.getvalue()


def _cell(value: Any) -> str:
    fraction = isinstance(value, float) and not value.is_integer()
    text = plain(float(f"{value:.{FIGURES}g}") if fraction else value)
    return f"'{text}" if isinstance(value, str) and text.lstrip().startswith(("=", "+", "-", "@", "|", "%")) else text


def _plain_row(number: int, section: Section, row: Row, metrics: list[str], roles: list[str]) -> list[Any]:
    estimates = [row.estimate(name) for name in metrics]
    bill = row.flops_by_role()
    cells: list[Any] = [number, section.budget.get("flops"), clean(section.base), *(row.rank or (None, None)), clean(row.name)]
    outdated = "; ".join(f"{family} {own} < {newest}" for family, (own, newest) in row.outdated.items())
    cells += [clean(row.cards[0].algorithm), row.part, row.gated, clean(outdated), row.pareto, row.on_frontier]
    cells += [row.seeds, row.estimate(row.objective.level).n, clean(row.tuning), clean(row.packages)]
    cells += [value for e in estimates for value in (e.value, e.low, e.high)]
    cells += _at_equal_kl(section, row)
    cells += _above_drift(section, row)
    cells += [row.percent, *(row.spent(name) for name in LIMITS)]
    return [*cells, *(bill.get(role) for role in roles), clean("; ".join(map(str, row.flags)))]


def _at_equal_kl(section: Section, row: Row) -> list[Any]:
    """Gains at the KL of the grid, and their mean up to a KL, each with interval and rank; empty where not measured."""
    cells: list[Any] = []
    for kl in GRID:
        at = section.equal_kl.get(kl, {}).get(row.name)
        cells += [at.gain.value, at.gain.low, at.gain.high, *(at.rank or (None, None))] if at else [None] * 5
    to, means = section.areas
    if row.name not in means:
        return [*cells, *[None] * 6]
    mean, rank = means[row.name]
    return [*cells, to, mean.value, mean.low, mean.high, *(rank or (None, None))]


def _above_drift(section: Section, row: Row) -> list[Any]:
    """The control and its draws, the KL at which it is read, its gain there, and the row's gain above it; empty where not
    measured."""
    found = section.drift.rows.get(row.name)
    if found is None:
        return [None] * 8
    above = found.beyond
    return [found.control, found.draws, found.kl, found.drift, above.value, above.low, above.high, found.above]
