"""The board for a terminal."""

from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.table import Table
from rich.text import Text

from isoalign.core.display import clean, share
from isoalign.core.records import Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.drift import NOT_MEASURED, WHY
from isoalign.report.board.rows import CONTROL, DRIFT, INFERENCE, METHOD, REFERENCE, UNMETERED, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import headline, in_nats
from isoalign.report.pages.console import rendered
from isoalign.report.pages.equal_kl import area_title
from isoalign.report.pages.phrases import (
    brief_cell,
    budget_phrase,
    chance_phrase,
    more_seeds_phrase,
    rank_phrase,
    ranking_phrase,
    surely_pareto,
)
from isoalign.stats.equal_kl import GRID

_PLACES = {REFERENCE: "ref", CONTROL: "ctrl", UNMETERED: "unmet.", INFERENCE: "infer.", "outdated": "old"}
_TITLES = {
    "kl": "KL",
    "perplexity": "PPL",
    "rm_accuracy": "RM acc",
    "implicit_accuracy": "impl.",
    "distinct_2": "dist-2",
}
ABOVE, AREA = "above_drift", "area"  # columns
_LONGEST = 13  # letters of a name; longer names are folded


def board_text(task: str, sections: Sequence[Section], width: int, colour: bool) -> str:
    """The board for a terminal of 100 columns or more, as plain text unless in ``colour``. A table that is too wide exceeds
    the width: no value is cut off."""
    tables = (_section_table(task, section, width) for section in sections)
    return "".join(rendered([table], max(width, least), colour) for table, least in tables)


def _section_table(task: str, section: Section, width: int) -> tuple[Table, int]:
    """The main metrics of each row, and under them the flags; the least width of the table, without padding if need be."""
    base = clean(section.base)[:8]
    title = Text(f"{clean(task)}: {budget_phrase(section)} from base {base or '–'}", style="bold")
    for warning in section.warnings:
        title.append(f"\nNot comparable: {clean(warning)}", style="bold red")
    titles = ["rank", "method", "seeds", *_titles(section).values(), "spent"]
    lines = _lines(section)
    rows = [_row_cells(section, *line) if len(line) == 1 else _draw_cells(section, line) for line in lines]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    widths[1] = min(widths[1], _LONGEST)
    least = sum(widths) + len(widths) + 1
    padded = least + len(widths) - 1 <= width
    table = Table(
        title=title, caption=Text(_caption(section)), box=box.SIMPLE_HEAD, padding=(0, int(padded), 0, 0), pad_edge=False
    )
    table.title_justify = table.caption_justify = "left"
    for place, (name, needed) in enumerate(zip(titles, widths, strict=True)):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=place != 1, overflow="fold", min_width=needed)
    for line, cells in zip(lines, rows, strict=True):
        table.add_row(*map(Text, cells), style=_style(line[0]))
    return table, least


def _lines(section: Section) -> list[list[Row]]:
    """The rows of each line: one, or all draws of a control for drift, where the median of them is."""
    draws = {name: [row for row in section.rows if row.algorithm == name] for name in DRIFT}
    middle = {name: rows[len(rows) // 2] for name, rows in draws.items() if rows}
    return [draws.get(row.algorithm, [row]) for row in section.rows if middle.get(row.algorithm, row) is row]


def _style(row: Row) -> str:
    best = row.rank is not None and row.rank[0] == 1
    return "green" if best else "cyan" if row.part != METHOD else "dim" if not row.rankable else ""


def _draw_cells(section: Section, rows: Sequence[Row]) -> list[str]:
    """The cells of a control's draws: from where to where their gains and KL go."""
    cells = dict.fromkeys(_titles(section), "–")
    gains = [value for row in rows if (value := row.estimate(section.objective.gain).value) is not None]
    nats = [row.kl.value for row in rows if row.kl.value is not None]
    if gains:
        low, high = (cell(Estimate(value, None, None, 1)) for value in (min(gains), max(gains)))
        cells[section.objective.gain] = f"{low} to {high}"
    if nats:
        cells["kl"] = f"{min(nats):.0f} to {max(nats):.0f} "
    return [_PLACES[CONTROL], clean(rows[0].algorithm), str(len(rows)), *cells.values(), "–"]


def _titles(section: Section) -> dict[str, str]:
    """Metrics and their short titles, those of the objective first; with a control for drift, the gain above it in the place
    of two others."""
    objective = section.objective
    own = {"toxicity_mean": "tox.", "toxicity_emt": "EMT"} if objective.is_toxicity else {objective.level: objective.noun}
    titles = {objective.gain: objective.gain_noun, AREA: "area", ABOVE: "above drift"} | own | _TITLES
    dropped = ["toxicity_emt", "rm_accuracy"] if section.drift.controls else [ABOVE]
    dropped += ["implicit_accuracy"] if area_title(section) else [AREA]
    return {name: title for name, title in titles.items() if name not in dropped}


def _row_cells(section: Section, row: Row) -> list[str]:
    """A row's cells, with a star at the KL on the Pareto frontier."""
    cells = {name: brief_cell(row, name) for name in _titles(section)}
    cells |= {ABOVE: section.drift.cell(row).partition(";")[0]} if ABOVE in cells else {}
    cells |= {AREA: _area(section, row)} if AREA in cells else {}
    cells["kl"] += "*" if surely_pareto(row) else " "
    return [_PLACES.get(row.place, row.place), clean(row.name), str(row.seeds), *cells.values(), share(row.percent)]


def _area(section: Section, row: Row) -> str:
    """The area under a row's curve and its rank; a dash where it is not measured."""
    mean, rank = section.areas[1].get(row.name, (None, None))
    if mean is None:
        return "–"
    return cell(replace(mean, low=None, high=None, missing=0)) + (
        f" {rank_phrase(rank):>5}" if rank and row.clusters > 1 else " " * 6
    )


def _missing(section: Section) -> list[str]:
    """Of how many answers a row lacks the value by which it is ranked."""
    known = [(row, row.estimate(section.objective.gain)) for row in section.rows]
    gain = section.objective.gain_noun
    return [f"{clean(row.name)}: values of {gain} missing: {each.missing:,}" for row, each in known if each.missing]


def _caption(section: Section) -> str:
    """What the ranks rest on, what the star means, and the flags."""
    lines = [f"{headline(section)}."] if section.areas[1] else []
    lines += [f"ranks: {basis}"] if (basis := ranking_phrase(section)) else []
    lines += (
        [f"area: mean gain over √KL from {GRID[0]:g} to {in_nats(section.areas[0])}, with its rank"]
        if area_title(section)
        else []
    )
    lines += [f"chance: {told}"] if (told := chance_phrase(section)) else []
    lines += [] if section.drift.controls else [f"above drift: {NOT_MEASURED}, {WHY}"]
    lines += [cost] if (cost := more_seeds_phrase(section)) else []
    star = f"* no other row has both {section.objective.better} and less KL, in 95% of resamples"
    lines += [star] if any(map(surely_pareto, section.rows)) else []
    cards = [card for row in section.rows for card in row.cards]
    lines += [
        clean(told) for told in sorted({str(card.notes["known_reward"]) for card in cards if "known_reward" in card.notes})
    ]
    lines += map(clean, section.unequal)
    lines += _missing(section)
    lines += [f"{clean(row.name)}: {clean(row.packages)}" for row in section.rows if row.packages]
    for rows in _lines(section):
        name = clean(rows[0].name if len(rows) == 1 else rows[0].algorithm)
        gated = sum(row.gated for row in rows)
        if len(rows) > 1:
            lines.append(f"{name}: {len(rows)} draws, of which {gated} fail a gate; the page has them one by one")
        elif rows[0].flags:
            lines.append(f"{name}: {clean('; '.join(map(str, rows[0].flags)))}")
    return "\n".join(lines)
