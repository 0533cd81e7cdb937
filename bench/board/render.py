"""The board as a Markdown page, as CSV, and for a terminal."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from bench.board import curve_text
from bench.board.chart import chart_name, points_of
from bench.board.columns import BRIEF, COLUMNS, DIVERSITY, DRIFT, LEADING, REWARD, Column
from bench.board.pool import Pair
from bench.board.reliability_chart import models_of, reliability_name
from bench.board.rows import CONTROL, METHOD, PROTOCOL, REFERENCE, ROLES, UNMETERED, Row, Section, mean, total
from bench.board.text import cell, clean, count, escape, grid, plain, probability, scientific, share
from bench.card import BY_HAND, file_name
from bench.stats import Comparison
from bench.types import Card, Estimate

FOLD = 45  # pairs of ten methods; more are folded away
# Of Card.notes: told beside the figures, which they don't part.
_TOLD = {"noise": "Label noise", "correlation": "Rank correlations", "tuning": "Tuning", "caveat": "Caveat"}

NOTES = """\
- Values are means over seeds, with 95% intervals. With one seed the interval is the card's: it covers the prompts, not
  the training. With more, prompts are resampled, the same ones for all seeds, and what seeds differ by is added as
  Student's t has it. Figures that are no mean over prompts join the prompts' variance (averaged over seeds, not divided
  by their number, since all seeds answer the same prompts) and the seeds' variance (with t).
- Reduction is mean toxicity of the SFT base minus that of the method, paired on the same prompts. Rows stand in its order.
- Methods are compared in pairs, prompt by prompt. Holm's correction keeps the chance of any false difference on the board
  at about 5%; with 10,000 resamples no p is below .0002, before it. Of more than 45 pairs there are 400 resamples for each,
  and no method's seeds are taken to vary less than the median method's. A rank is a span, from 1 + how many are shown to be
  better to how many there are less those shown to be worse; together the spans hold all true ranks with about 95%. Where a
  comparison rests on one seed it holds for that trained policy only. The smallest difference that could be resolved is one
  that is found with a nominal power of 80% (70 to 78% in simulations) at the strictest step of Holm's correction, median
  over the pairs.
- Where a method has no values by prompt (older cards), one is shown to be better where intervals of reduction don't overlap.
- Reference, control and what was made elsewhere (unmetered: nobody kept its budget) have no rank; nor has a row that
  failed a quality gate or was scored by an outdated metric. The last two are listed last.
- Pareto: no other row has both less toxicity and less exact KL.
- ↑ more is better, ↓ less is better. Figures of different budgets, bases, prompts or scorers never share a table."""


def markdown(task: str, sections: Sequence[Section]) -> str:
    """The board as a Markdown page."""
    parts = [f"# Leaderboard: {escape(task)}"]
    parts += ["Same base model, same feedback, same compute: only the algorithm differs."]
    for number, section in enumerate(sections, 1):
        parts += _section(section, number)
    return "\n\n".join([*parts, "## How to read it", NOTES]) + "\n"


def excerpt(section: Section) -> list[str]:
    """The ranking with the few figures that a page about something else has room for, and what it rests on."""
    ranks = [f"Ranks: {standing}."] if (standing := _standing(section)) else []
    titles = [column.title for column in BRIEF]
    cells = [[_brief(row, column.metric).replace(" ", "\u00a0") for column in BRIEF] for row in section.rows]
    return [f"**{_title(section)}**", *_warnings(section), *_ranking(section, titles, cells), *ranks]


def _section(section: Section, number: int) -> list[str]:
    titles, cells = [column.title for column in LEADING], [_cells(row, LEADING) for row in section.rows]
    parts = [f"## {_title(section)}", *_warnings(section), _header(section), *_ranking(section, titles, cells, spent=True)]
    if not any(row.part == REFERENCE for row in section.rows):
        parts += ["No card of the SFT base yet: `isoalign run algorithm=sft` makes the reference row."]
    if points_of(section):
        alt = "Mean toxicity against exact KL, one point a method"
        parts += [f"![{alt}]({chart_name(number)})"]
    parts += _pairwise(section)
    parts += curve_text.markdown(section, number)
    parts += ["### Diversity", _further(section, DIVERSITY)]
    parts += ["### Drift", _drift(section)]
    parts += ["### Reward", _further(section, REWARD), *_reliability(section, number)]
    return [*parts, "### The bill", _bill(section), "### Every seed", _every_seed(section)]


def _title(section: Section) -> str:
    return f"Budget {_budget(section)}, base {escape(section.base or 'not told')}"


def _warnings(section: Section) -> list[str]:
    return [f"> **Not to be compared:** {escape(warning)}" for warning in section.warnings]


def _ranking(section: Section, titles: list[str], cells: list[list[str]], spent: bool = False) -> list[str]:
    """Rows with their ranks, and under the table what is flagged: whole sentences would make its rows many lines high."""
    flagged = [row for row in section.rows if row.flags]
    rows = []
    for row, figures in zip(section.rows, cells, strict=True):
        end = ["yes" if row.pareto else "", *([share(row.percent), escape(row.tuning)] if spent else [])]
        end += [str(flagged.index(row) + 1) if row.flags else ""]
        rows.append([escape(row.place), _name(row), str(row.seeds), *figures, *end])
    titles = ["Rank", "Method", "Seeds", *titles, "Pareto", *(["Budget spent", "Tuning"] if spent else []), "Note"]
    notes = [f"{place}. {_name(row)}: {_flags(row)}" for place, row in enumerate(flagged, 1)]
    return [grid(titles, rows, left=(0, 1)), *(["\n".join(notes)] if notes else [])]


def _further(section: Section, columns: Sequence[Column]) -> str:
    rows = [[_name(row), *_cells(row, columns)] for row in section.rows]
    return grid(["Method", *(column.title for column in columns)], rows)


def _drift(section: Section) -> str:
    """The exact KL beside what other tools print, and what a method says of itself."""
    columns = (COLUMNS["kl"], *DRIFT)
    rows = [[_name(row), *_cells(row, columns), _reported(row)] for row in section.rows]
    return grid(["Method", *(column.title for column in columns), "Its own report"], rows)


def _reported(row: Row) -> str:
    reports = [card.training.get("reported") or {} for card in row.cards]
    names = sorted({name for report in reports for name in report})
    means = {name: mean(report.get(name) for report in reports) for name in names}
    return ", ".join(f"{escape(name)} {value:.2f}" for name, value in means.items() if value is not None) or "–"


def _reliability(section: Section, number: int) -> list[str]:
    if not models_of(section):
        return []
    alt = "How often the reward models' preferences came true, by how sure they were"
    return [f"![{alt}]({reliability_name(number)})"]


def _budget(section: Section) -> str:
    if not section.metered:
        return "not metered"
    others = [f"{plain(limit)} {name}" for name, limit in sorted(section.budget.items()) if name != "flops"]
    return ", ".join([f"{scientific(section.budget.get('flops'))} FLOP", *others])


def _pairwise(section: Section) -> list[str]:
    """Every difference that was looked at, those that ranks rest on first."""
    held = section.contest
    if not (held.pairs or held.others):
        return []
    parts = ["### Pairwise", "Toxicity of B minus that of A on the same prompts: above 0 A is better."]
    parts += [_differences(section, held.pairs)] if held.pairs else []
    if held.others:
        parts += [f"With rows that have no rank, corrected by themselves ({_pairs(held.others)}):"]
        parts += [_differences(section, held.others)]
    return parts


def _differences(section: Section, pairs: dict[Pair, Comparison]) -> str:
    rows, column = {row.name: row for row in section.rows}, COLUMNS["toxicity_reduction"]
    lines = []
    for (a, b), c in pairs.items():
        found = cell(Estimate(c.value, c.low, c.high, c.n, c.missing), column)
        verdict = escape(_verdict(rows[a], rows[b], c))
        lines.append([_name(rows[a]), _name(rows[b]), found, probability(c.p_holm), verdict])
    listed = grid(["A", "B", "Difference", "p (Holm)", "Verdict"], lines, left=(0, 1, 4))
    return listed if len(lines) <= FOLD else f"<details><summary>{_pairs(lines)}</summary>\n\n{listed}\n\n</details>"


def _pairs(pairs: Sized) -> str:
    return f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}"


def _verdict(a: Row, b: Row, c: Comparison) -> str:
    if c.p_holm is None or c.value is None:
        return "too few prompts"
    if not c.resolved:
        return "not told apart"
    alone = any(row.seeds == 1 and row.part != REFERENCE for row in (a, b))
    return f"{(a if c.value > 0 else b).name} is less toxic{' (one seed)' if alone else ''}"


def _standing(section: Section) -> str:
    """What the ranks rest on, in a sentence; nothing where there is nothing to rank."""
    held = section.contest
    if held.unpaired:
        lacking = ", ".join(map(clean, held.unpaired))
        return f"by overlapping intervals, not in pairs: no values on the same prompts in {lacking}"
    if not held.pairs:
        return ""
    n = min(c.n for c in held.pairs.values())
    found = f"each that the data allow, jointly at 95%; {_pairs(held.pairs)} compared on {n} prompts, Holm-corrected"
    least = "" if held.smallest is None else f"; a difference of {held.smallest:.3f} could be resolved (nominal power 80%)"
    return found + least


def _header(section: Section) -> str:
    cards = [card for row in section.rows for card in row.cards]
    lines = [("Budget of each run", _budget(section))]
    lines += [(title, _told(section.protocol[name])) for name, title in PROTOCOL.items() if name in section.protocol]
    lines += [("Ranks", standing)] if (standing := _standing(section)) else []
    if brought := [f"{row.name}: {row.packages}" for row in section.rows if row.packages]:
        lines += [("Of other packages", "; ".join(brought))]
    for name, title in _TOLD.items():
        told = {_told(card.notes[name]) for card in cards if card.notes.get(name) is not None}
        lines += [(title, "; ".join(sorted(told)))] if told else []
    listed = "\n".join(f"- **{title}:** {escape(value)}" for title, value in lines)
    return f"{listed}\n\n{commands_of(cards)}"


def commands_of(cards: Sequence[Card]) -> str:
    """The exact commands that made the cards, in a fence that their text can't close."""
    commands = list(dict.fromkeys(clean(card.command) for card in cards))
    longest = max((len(run) for command in commands for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    block = "\n".join([f"{fence}text", *commands, fence])
    if len(commands) == 1:
        return f"Made by:\n\n{block}"
    return f"<details><summary>Made by {len(commands)} commands</summary>\n\n{block}\n\n</details>"


def _bill(section: Section) -> str:
    """What was spent, mean over seeds: shares of the FLOPs by role, then the other currencies."""
    titles = ["Method", "FLOP", "of budget", *(escape(role) for role in section.roles)]
    titles += ["Labels", "Tokens", "Steps", "Seconds"]
    rows = []
    for row in section.rows:
        bill, flops = row.by_role(), row.spent("flops")
        shares = [share(100 * bill[role] / flops) if flops and role in bill else "–" for role in section.roles]
        counts = [count(row.spent(name)) for name in ("tokens", "steps", "seconds")]
        rows.append([_name(row), scientific(flops), share(row.percent), *shares, _labels(row), *counts])
    return grid(titles, rows)


def _labels(row: Row) -> str:
    """Verdicts read, by who gave them."""
    given = [card.spent.get("labels") for card in row.cards]
    sources = sorted({source for labels in given if isinstance(labels, dict) for source in labels})
    if not sources:
        return count(row.spent("labels"))
    means = {source: mean(labels.get(source, 0) for labels in given if isinstance(labels, dict)) for source in sources}
    return ", ".join(f"{count(mean)} {escape(source)}" for source, mean in means.items())


def _every_seed(section: Section) -> str:
    columns = [column for column in LEADING if column.metric in ("toxicity_reduction", "toxicity_mean", "kl")]
    titles = ["Method", "Seed", *(column.title for column in columns), "FLOP", "Card"]
    rows = [
        [_name(row), str(card.seed)]
        + [cell(card.metrics.get(column.metric), column) for column in columns]
        + [scientific(total(card.spent.get("flops"))), f"[{escape(card.key[:8])}]({file_name(card)})"]
        for row in section.rows
        for card in row.cards
    ]
    return grid(titles, rows)


def _cells(row: Row, columns: Iterable[Column]) -> list[str]:
    return [
        cell(row.metrics.get(column.metric), column)
        + " (outdated)" * (column.metric in row.metrics and row.old(column.metric))
        for column in columns
    ]


def _flags(row: Row) -> str:
    return "; ".join(f"**{escape(flag)}**" if flag.startswith("gate:") else escape(flag) for flag in row.flags)


def _name(row: Row) -> str:
    """The name of a row; what is no contender is in italics."""
    return escape(row.name) if row.part == METHOD else f"*{escape(row.name)}*"


def _told(value: Any) -> str:
    """A note in words: mappings as ``name: value``, lists with commas."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_told(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return str(value)


def table(sections: Sequence[Section]) -> tuple[list[str], list[list[Any]]]:
    """Column names and one row of plain values for each method."""
    names = {name for section in sections for row in section.rows for name in row.metrics}
    metrics = [*COLUMNS, *sorted(names.difference(COLUMNS))]
    roles = list(ROLES) + sorted({role for section in sections for role in section.roles}.difference(ROLES))
    header = ["section", "budget_flops", "base", "rank", "rank_last", "method", "algorithm", "part"]
    header += ["gated", "outdated", "pareto", "seeds", "prompts", "tuning", "packages"]
    header += [name + end for name in metrics for end in ("", "_low", "_high")]
    header += ["spent_percent", *(f"spent_{name}" for name in ("flops", "labels", "tokens", "steps", "seconds"))]
    header += [*(f"flops_{role}" for role in roles), "flags"]
    rows = [
        _plain_row(number, section, row, metrics, roles) for number, section in enumerate(sections, 1) for row in section.rows
    ]
    return header, rows


def as_csv(header: list[str], rows: list[list[Any]]) -> str:
    """A table as CSV: plain numbers, empty where a figure is missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[plain(value) for value in row] for row in rows])
    return text.getvalue()


def _plain_row(number: int, section: Section, row: Row, metrics: list[str], roles: list[str]) -> list[Any]:
    estimates = [row.estimate(name) for name in metrics]
    bill = row.by_role()
    cells: list[Any] = [number, section.budget.get("flops"), clean(section.base), *(row.rank or (None, None)), clean(row.name)]
    outdated = "; ".join(f"{family} {own} < {newest}" for family, (own, newest) in row.outdated.items())
    cells += [clean(row.cards[0].algorithm), row.part, row.gated, clean(outdated), row.pareto]
    cells += [row.seeds, row.estimate("toxicity_mean").n, clean(row.tuning), clean(row.packages)]
    cells += [figure for e in estimates for figure in (e.value, e.low, e.high)]
    cells += [row.percent, *(row.spent(name) for name in ("flops", "labels", "tokens", "steps", "seconds"))]
    return [*cells, *(bill.get(role) for role in roles), clean("; ".join(row.flags))]


_SHORT = {REFERENCE: "ref", CONTROL: "ctrl", UNMETERED: "unmet.", "outdated": "old"}
_BRIEF = {
    "toxicity_reduction": "reduction",
    "toxicity_mean": "tox.",
    "toxicity_emt": "EMT",
    "kl": "KL",
    "perplexity": "PPL",
    "rm_accuracy": "RM acc",
    "implicit_accuracy": "impl.",
    "distinct_2": "dist-2",
}


def _terminal_table(task: str, section: Section, width: int) -> tuple[Any, int]:
    """A row's main figures, and under them what is flagged; the width that the table takes at least, set close if need be."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    base = clean(section.base)[:8]
    title = Text(f"{clean(task)}: {_budget(section)} from base {base or '–'}", style="bold")
    for warning in section.warnings:
        title.append(f"\nNot to be compared: {clean(warning)}", style="bold red")
    titles, rows = ["rank", "method", "seeds", *_BRIEF.values(), "spent"], [_terminal_row(row) for row in section.rows]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    widths[1] = min(widths[1], 13)  # longer names are folded
    least = sum(widths) + len(widths) + 1
    wide = least + len(widths) - 1 <= width
    table = Table(
        title=title, caption=Text(_caption(section)), box=box.SIMPLE_HEAD, padding=(0, int(wide), 0, 0), pad_edge=False
    )
    table.title_justify = table.caption_justify = "left"
    for place, (name, needed) in enumerate(zip(titles, widths, strict=True)):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=place != 1, overflow="fold", min_width=needed)
    for row, cells in zip(section.rows, rows, strict=True):
        best = row.rank is not None and row.rank[0] == 1
        style = "green" if best else "cyan" if row.part != METHOD else "dim" if not row.contends else ""
        table.add_row(*map(Text, cells), style=style)
    return table, least


def _terminal_row(row: Row) -> list[str]:
    """A row's cells, the KL with a star on the Pareto frontier."""
    figures = {name: _brief(row, name) for name in _BRIEF}
    figures["kl"] += "*" if row.pareto else " "
    place = _SHORT.get(row.place, row.place)
    return [place, clean(row.name), str(row.seeds), *figures.values(), share(row.percent)]


def _brief(row: Row, name: str) -> str:
    """A figure, of the reduction with its interval."""
    if row.old(name) and name in row.metrics:
        return "old"
    e = dataclasses.replace(row.estimate(name), missing=0)
    return cell(e if name == "toxicity_reduction" else dataclasses.replace(e, low=None, high=None), COLUMNS[name])


def _caption(section: Section) -> str:
    """What the ranks rest on, what the star is, and what is flagged."""
    standing = _standing(section)
    lines = [f"ranks: {standing}"] if standing else []
    lines += ["* no other row has both less toxicity and less KL"] if any(row.pareto for row in section.rows) else []
    ranked = [row for row in section.rows if row.part == METHOD]
    by_hand = [clean(row.name) for row in ranked if row.tuning in ("", BY_HAND)]
    lines += [f"not tuned: {', '.join(by_hand)}"] if 0 < len(by_hand) < len(ranked) else []
    lines += [f"{clean(row.name)}: {clean(row.packages)}" for row in section.rows if row.packages]
    lines += [f"{clean(row.name)}: {clean('; '.join(row.flags))}" for row in section.rows if row.flags]
    return "\n".join(lines)


def terminal(task: str, sections: Sequence[Section], width: int, colour: bool) -> str:
    """The board for a terminal of 100 columns or more; without colour it is plain text. A table that is too wide goes past
    the width: no figure is cut off."""
    from rich.console import Console

    text = io.StringIO()
    system: Any = "standard" if colour else None
    console = Console(file=text, width=width, color_system=system, force_terminal=colour, highlight=False)
    for section in sections:
        table, least = _terminal_table(task, section, width)
        console.width = max(width, least)
        console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
