"""Methods at equal KL, and the areas under their curves, as a section of the board's page."""

from __future__ import annotations

from dataclasses import replace

from isoalign.core.display import grid
from isoalign.core.records import Estimate
from isoalign.evaluation.metrics.metric import with_arrow
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import gain_digits
from isoalign.report.board.rows import Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import in_nats
from isoalign.report.pages.phrases import rank_phrase, row_name
from isoalign.stats.drift import drift_at
from isoalign.stats.equal_kl import GRID, NEAR, AtKL, Reading, reaches

_HOW = """\
Read off the snapshots along each run, at the same KL from the base for all methods: {gain} where the curve of each seed first
reaches it, by a line in √KL between two snapshots, mean over seeds. Behind the interval stand the first and last rank that
the method may have at this KL, jointly at 95% for each column. *Not measured*: somewhere between these nats a seed has no
snapshots that are near enough, at most {apart:g} apart in √KL and within a ratio of 5/3. Intervals and ranks allow for
prompts, seeds, and the bend of the curve between two snapshots. † crosses that KL more than once; the first time counts.
{area}KL here is the price of a change, not how hard a method optimised: by that measure methods differ at equal KL (Gao et
al. 2023)."""

_AREA = """*Area* is the mean of {gain} over √KL from {start:g} to {to}: the area under the curve, by its width.
"""


def equal_kl_section(section: Section) -> list[str]:
    """The gain of each method at several KL and its mean over them; empty if no card has a curve."""
    at_kl, to = section.equal_kl, section.areas[0]
    if not at_kl:
        return []
    objective = section.objective
    rows = [row for row in section.rows if row.name in section.curves]
    first = next(iter(at_kl.values()))
    titles = ["Method", "KL at the end", *(with_arrow(f"{objective.gain_title} at {kl:g}", True) for kl in at_kl)]
    titles += [area] if (area := area_title(section)) else []
    cells = []
    for row in rows:
        line = [row_name(row), f"{first[row.name].end:.2f}", *(at_kl_cell(row, found[row.name]) for found in at_kl.values())]
        cells.append([*line, area_cell(section, row)] if area else line)
    for name, draws in section.drift.controls.items():
        pooled = [_drift_cell(drift_at(draws, kl), len(draws), gain_digits(objective)) for kl in at_kl]
        cells.append([f"*{name}, {len(draws)} draws*", "", *pooled, *([""] if area else [])])
    gain = objective.gain_noun
    told = _AREA.format(gain=gain, start=GRID[0], to=in_nats(to)) if area else ""
    return ["### At equal KL", grid(titles, cells), _HOW.format(gain=f"the {gain}", apart=2 * NEAR, area=told)]


def _drift_cell(reading: Reading | None, draws: int, digits: int) -> str:
    """What a control gains at a KL, with the number of draws that are known there if that is not all."""
    if reading is None:
        return "not measured"
    shown, known = cell(replace(reading.estimate(), missing=0), digits), len(reading.seeds)
    return f"{shown} ({known} draws)" if known < draws else shown


def area_title(section: Section) -> str:
    """The title of the column of areas, with the KL between which they are taken; empty where no row has one."""
    to, areas = section.areas
    return with_arrow(f"Area, {GRID[0]:g} to {in_nats(to)}", True) if areas else ""


def area_cell(section: Section, row: Row) -> str:
    """The mean gain over the root of the KL with its interval and its rank, or why there is none."""
    to, areas = section.areas
    if row.name in areas:
        return _ranked(row, *areas[row.name])
    if row.name not in section.curves:
        return "–"
    return "not measured" if reaches(section.curves[row.name], to) else "not reached"


def at_kl_cell(row: Row, at: AtKL) -> str:
    """A gain with its interval and its rank, or why there is none."""
    if at.gain.value is None:
        return "not reached" if at.gap is None else f"not measured ({at.gap[0]:.2g} to {at.gap[1]:.2g})"
    return _ranked(row, at.gain, at.rank) + " †" * at.again


def _ranked(row: Row, gain: Estimate, rank: tuple[int, int] | None) -> str:
    shown = cell(replace(gain, missing=0), gain_digits(row.objective))
    return f"{shown}; {rank_phrase(rank)}" if rank and row.clusters > 1 else shown
