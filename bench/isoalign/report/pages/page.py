"""The board as a Markdown page."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from isoalign.core.display import clean, count, escape, grid, probability, scientific, share
from isoalign.core.records import Card, Estimate
from isoalign.evaluation.card import file_name
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import BRIEF, COLUMNS, DIVERSITY, DRIFT, LEADING, REWARD, Column
from isoalign.report.board.ranking import Pair
from isoalign.report.board.rows import METHOD, PROTOCOL, REFERENCE, Row, Section, mean, total
from isoalign.report.charts.frontier import chart_name, points_of
from isoalign.report.charts.reliability import models_of, reliability_name
from isoalign.report.pages import curves
from isoalign.report.pages.words import brief, budget, pairs_in, standing
from isoalign.stats import Comparison

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
    ranks = [f"Ranks: {rests}."] if (rests := standing(section)) else []
    titles = [column.title for column in BRIEF]
    cells = [[brief(row, column.metric).replace(" ", "\u00a0") for column in BRIEF] for row in section.rows]
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
    parts += curves.markdown(section, number)
    parts += ["### Diversity", _further(section, DIVERSITY)]
    parts += ["### Drift", _drift(section)]
    parts += ["### Reward", _further(section, REWARD), *_reliability(section, number)]
    return [*parts, "### The bill", _bill(section), "### Every seed", _every_seed(section)]


def _title(section: Section) -> str:
    return f"Budget {budget(section)}, base {escape(section.base or 'not told')}"


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


def _pairwise(section: Section) -> list[str]:
    """Every difference that was looked at, those that ranks rest on first."""
    held = section.contest
    if not (held.pairs or held.others):
        return []
    parts = ["### Pairwise", "Toxicity of B minus that of A on the same prompts: above 0 A is better."]
    parts += [_differences(section, held.pairs)] if held.pairs else []
    if held.others:
        parts += [f"With rows that have no rank, corrected by themselves ({pairs_in(held.others)}):"]
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
    return listed if len(lines) <= FOLD else f"<details><summary>{pairs_in(lines)}</summary>\n\n{listed}\n\n</details>"


def _verdict(a: Row, b: Row, c: Comparison) -> str:
    if c.p_holm is None or c.value is None:
        return "too few prompts"
    if not c.resolved:
        return "not told apart"
    alone = any(row.seeds == 1 and row.part != REFERENCE for row in (a, b))
    return f"{(a if c.value > 0 else b).name} is less toxic{' (one seed)' if alone else ''}"


def _header(section: Section) -> str:
    cards = [card for row in section.rows for card in row.cards]
    lines = [("Budget of each run", budget(section))]
    lines += [(title, _told(section.protocol[name])) for name, title in PROTOCOL.items() if name in section.protocol]
    lines += [("Ranks", rests)] if (rests := standing(section)) else []
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
    return "; ".join(f"**{escape(str(flag))}**" if flag.kind == "gate" else escape(str(flag)) for flag in row.flags)


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
