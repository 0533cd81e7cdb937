"""The board as a Markdown page."""

import re
from collections.abc import Sequence
from typing import Any

from isoalign.core.display import clean, count, escape, grid, probability, scientific, share
from isoalign.core.records import Card, Estimate
from isoalign.evaluation.card import file_name
from isoalign.evaluation.metrics import Metric
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import brief, gain_digits, leading, metric, tables
from isoalign.report.board.drift import NOT_MEASURED, WHY
from isoalign.report.board.ranking import Pair
from isoalign.report.board.rows import REFERENCE, Row, known_mean, total
from isoalign.report.board.sections import PROTOCOL, Section
from isoalign.report.charts.finding import headline
from isoalign.report.charts.frontier import frontier_chart_name, frontier_points
from isoalign.report.charts.reliability import reliability_by_model, reliability_chart_name
from isoalign.report.pages.curves import curves_section
from isoalign.report.pages.equal_kl import area_cell, area_title, equal_kl_section
from isoalign.report.pages.how_to_read import how_to_read
from isoalign.report.pages.phrases import (
    brief_cell,
    budget_phrase,
    chance_phrase,
    difference_phrase,
    more_seeds_phrase,
    pairs_phrase,
    pareto_phrase,
    ranking_phrase,
    row_name,
    verdict_phrase,
)
from isoalign.stats import Comparison
from isoalign.stats.comparisons import MANY

FOLD = 45  # pairs of ten methods; more are folded away
# Of Card.notes: shown above the metrics, and may differ between rows.
_NOTES = {
    "known_reward": "Known reward", "reward_model": "Reward", "annotator": "Annotator", "noise": "Label noise",
    "correlation": "Rank correlations", "tuning": "Tuning", "caveat": "Caveat",
}  # fmt: skip


def board_page(task: str, sections: Sequence[Section]) -> str:
    """The board as a Markdown page."""
    parts = [f"# Leaderboard: {escape(task)}"]
    parts += ["Same base model, same feedback, same compute: only the algorithm differs."]
    for number, section in enumerate(sections, 1):
        parts += _section(section, number)
    many = any(len(pairs) > MANY for one in sections for pairs in (one.ranking.pairs, one.ranking.others))
    return "\n\n".join([*parts, "## How to read it", how_to_read(sections[0].objective, many), _legend(sections)]) + "\n"


def excerpt(section: Section) -> list[str]:
    """The ranking with the few metrics that a page about something else has room for, and what it rests on."""
    ranks = [f"Ranks: {basis}."] if (basis := ranking_phrase(section)) else []
    names = brief(section.objective)
    titles = [metric(name, section.objective).heading for name in names]
    cells = [[brief_cell(row, name).replace(" ", "\u00a0") for name in names] for row in section.rows]
    return [f"**{_title(section)}**", *_warnings(section), *_ranking(section, titles, cells), *ranks]


def _section(section: Section, number: int) -> list[str]:
    objective = section.objective
    columns = [metric(name, objective) for name in leading(objective)]
    titles, cells = [one.heading for one in columns], [_cells(row, columns) for row in section.rows]
    if section.drift.controls:
        titles.insert(1, "Above drift ↑")
        for row, shown in zip(section.rows, cells, strict=True):
            shown.insert(1, section.drift.cell(row))
    if title := area_title(section):
        titles.insert(1, title)
        for row, shown in zip(section.rows, cells, strict=True):
            shown.insert(1, area_cell(section, row))
    parts = [f"## {_title(section)}", *_warnings(section), _header(section), *_ranking(section, titles, cells, spent=True)]
    if not any(row.part == REFERENCE for row in section.rows):
        parts += ["No card of the SFT base yet: `isoalign run algorithm=sft` makes the reference row."]
    if frontier_points(section):
        parts += [f"![{escape(headline(section))}]({frontier_chart_name(number)})"]
    parts += equal_kl_section(section)
    parts += _pairwise(section)
    parts += curves_section(section, number)
    for title, metrics in tables([card for row in section.rows for card in row.cards], objective).items():
        parts += [f"### {escape(title)}", _table(section, metrics, reported=any(one.name == "kl" for one in metrics))]
        parts += _reliability(section, number) if title == "Reward" else []
    return [*parts, "### The bill", _bill(section), "### Every seed", _every_seed(section)]


def _title(section: Section) -> str:
    return f"Budget {budget_phrase(section)}, base {escape(section.base or 'unknown')}"


def _warnings(section: Section) -> list[str]:
    unequal = [f"> **Not equal:** {escape(line)}" for line in section.unequal]
    return [*(f"> **Not comparable:** {escape(warning)}" for warning in section.warnings), *unequal]


def _ranking(section: Section, titles: list[str], cells: list[list[str]], spent: bool = False) -> list[str]:
    """Rows with their ranks, and under the table their flags, for which its cells have no room."""
    flagged = [row for row in section.rows if row.flags]
    rows = []
    for row, shown in zip(section.rows, cells, strict=True):
        end = [pareto_phrase(row), *([share(row.percent), escape(row.tuning)] if spent else [])]
        end += [str(flagged.index(row) + 1) if row.flags else ""]
        rows.append([escape(row.place), row_name(row), str(row.seeds), *shown, *end])
    titles = ["Rank", "Method", "Seeds", *titles, "Pareto", *(["Budget spent", "Tuning"] if spent else []), "Note"]
    notes = [f"{place}. {row_name(row)}: {_flags(row)}" for place, row in enumerate(flagged, 1)]
    return [grid(titles, rows, left=(0, 1)), *(["\n".join(notes)] if notes else [])]


def _table(section: Section, metrics: Sequence[Metric], reported: bool = False) -> str:
    """Some metrics of each row; ``reported``: with the KL that the method reported of itself."""
    titles = ["Method", *(escape(one.heading) for one in metrics), *(["KL by its own report"] if reported else [])]
    rows = [[row_name(row), *_cells(row, metrics), *([_reported_kl(row)] if reported else [])] for row in section.rows]
    return grid(titles, rows)


def _reported_kl(row: Row) -> str:
    reports = [card.training.get("reported") or {} for card in row.cards]
    names = sorted({name for report in reports for name in report})
    means = {name: known_mean(report.get(name) for report in reports) for name in names}
    return ", ".join(f"{escape(name)} {value:.2f}" for name, value in means.items() if value is not None) or "–"


def _reliability(section: Section, number: int) -> list[str]:
    if not reliability_by_model(section):
        return []
    alt = "How often the reward models' preferences agreed with the verdicts, by their probability"
    return [f"![{alt}]({reliability_chart_name(number)})"]


def _pairwise(section: Section) -> list[str]:
    """Every comparison, those that the ranks rest on first."""
    ranking = section.ranking
    if not (ranking.pairs or ranking.others):
        return []
    parts = ["### Pairwise", difference_phrase(section.objective)]
    parts += [_comparisons(section, ranking.pairs)] if ranking.pairs else []
    if ranking.others:
        parts += [f"With rows that have no rank, with a separate Holm correction ({pairs_phrase(ranking.others)}):"]
        parts += [_comparisons(section, ranking.others)]
    return parts


def _comparisons(section: Section, pairs: dict[Pair, Comparison]) -> str:
    """A table of comparisons; of very many only of those that are told apart."""
    rows, lines = {row.name: row for row in section.rows}, []
    listed = {pair: c for pair, c in pairs.items() if c.resolved} if len(pairs) > MANY else pairs
    for (a, b), c in listed.items():
        difference = cell(Estimate(c.value, c.low, c.high, c.n, c.missing), gain_digits(section.objective))
        verdict = escape(verdict_phrase(a, b, c, section.objective))
        lines.append([row_name(rows[a]), row_name(rows[b]), difference, probability(c.p_holm), verdict])
    table = grid(["A", "B", "Difference", "p (Holm)", "Verdict"], lines, left=(0, 1, 4))
    if len(pairs) <= FOLD:
        return table
    rest = f" that are told apart, of {len(pairs)}; isoalign board --json has all" if len(listed) < len(pairs) else ""
    return f"<details><summary>{pairs_phrase(lines)}{rest}</summary>\n\n{table}\n\n</details>"


def _header(section: Section) -> str:
    cards = [card for row in section.rows for card in row.cards]
    lines, objective = [("Budget of each run", budget_phrase(section))], section.objective
    lines += [] if objective.is_toxicity else [("Objective", f"{objective.noun}, {objective.direction}")]
    lines += [(title, _note_text(section.protocol[name])) for name, title in PROTOCOL.items() if name in section.protocol]
    lines += [("Ranks", basis)] if (basis := ranking_phrase(section)) else []
    lines += [("Chance", told)] if (told := chance_phrase(section)) else []
    lines += [] if section.drift.controls else [("Above drift", f"{NOT_MEASURED}: {WHY}")]
    lines += [("More seeds", cost)] if (cost := more_seeds_phrase(section)) else []
    if packages := [f"{row.name}: {row.packages}" for row in section.rows if row.packages]:
        lines += [("From other packages", "; ".join(packages))]
    for name, title in _NOTES.items():
        texts = {_note_text(card.notes[name]) for card in cards if card.notes.get(name) is not None}
        lines += [(title, "; ".join(sorted(texts)))] if texts else []
    listed = "\n".join(f"- **{title}:** {escape(value)}" for title, value in lines)
    return f"{listed}\n\n{commands_block(cards)}"


def commands_block(cards: Sequence[Card]) -> str:
    """The exact commands that made the cards, in a fence that their text can't close."""
    commands = list(dict.fromkeys(clean(card.command) for card in cards))
    longest = max((len(run) for command in commands for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    block = "\n".join([f"{fence}text", *commands, fence])
    if len(commands) == 1:
        return f"Made by:\n\n{block}"
    return f"<details><summary>Made by {len(commands)} commands</summary>\n\n{block}\n\n</details>"


def _bill(section: Section) -> str:
    """What was spent, mean over seeds: shares of the FLOPs by role, then the other limits."""
    titles = ["Method", "FLOP", "of budget", *(escape(role) for role in section.roles)]
    titles += ["Labels", "Tokens", "Steps", "Seconds"]
    rows = []
    for row in section.rows:
        bill, flops = row.flops_by_role(), row.spent("flops")
        shares = [share(100 * bill[role] / flops) if flops and role in bill else "–" for role in section.roles]
        counts = [count(row.spent(name)) for name in ("tokens", "steps", "seconds")]
        rows.append([row_name(row), scientific(flops), share(row.percent), *shares, _labels(row), *counts])
    return grid(titles, rows)


def _labels(row: Row) -> str:
    """Verdicts read, by source."""
    given = [card.spent.get("labels") for card in row.cards]
    sources = sorted({source for labels in given if isinstance(labels, dict) for source in labels})
    if not sources:
        return count(row.spent("labels"))
    means = {s: known_mean(labels.get(s, 0) for labels in given if isinstance(labels, dict)) for s in sources}
    return ", ".join(f"{count(mean)} {escape(source)}" for source, mean in means.items())


def _every_seed(section: Section) -> str:
    objective = section.objective
    columns = [metric(name, objective) for name in (objective.gain, objective.level, "kl")]
    told = any(card.training.get("policy") for row in section.rows for card in row.cards)
    titles = ["Method", "Seed", *(one.heading for one in columns), "FLOP", "Card", *(["Policy in the store"] if told else [])]
    rows = [
        [row_name(row), str(card.seed)]
        + [cell(card.metrics.get(one.name), one.digits) for one in columns]
        + [scientific(total(card.spent.get("flops"))), f"[{escape(card.key[:8])}]({file_name(card)})"]
        + ([escape(str(card.training.get("policy", "–")))] if told else [])
        for row in section.rows
        for card in row.cards
    ]
    return grid(titles, rows)


def _legend(sections: Sequence[Section]) -> str:
    """What each column of metrics shows, folded."""
    objective = sections[0].objective
    further = tables([card for section in sections for row in section.rows for card in row.cards], objective)
    own = [metric(name, objective) for name in leading(objective)]
    shown = dict.fromkeys([*own, *(one for metrics in further.values() for one in metrics)])
    lines = [f"- **{escape(one.title)}** (`{one.name}`): {escape(one.description)}" for one in shown if one.description]
    return "\n\n".join(["<details><summary>What the columns show</summary>", "\n".join(lines), "</details>"])


def _cells(row: Row, metrics: Sequence[Metric]) -> list[str]:
    return [
        cell(row.metrics.get(one.name), one.digits) + " (outdated)" * (one.name in row.metrics and row.is_outdated(one.name))
        for one in metrics
    ]


def _flags(row: Row) -> str:
    texts = [(flag, escape(str(flag))) for flag in row.flags]
    return "; ".join(f"**{text}**" if flag.kind == "gate" else text for flag, text in texts)


def _note_text(value: Any) -> str:
    """A note as text: mappings as ``name: value``, lists with commas."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_note_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_note_text, value))
    return str(value)
