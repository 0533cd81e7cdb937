"""Two methods or two cards, paired prompt by prompt, on every metric, with a verdict in words."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from isoalign import stats
from isoalign.core.display import clean, scientific
from isoalign.core.errors import UserError, unknown
from isoalign.core.lazy import rich
from isoalign.core.records import Card
from isoalign.evaluation.card import FAMILY, read, read_all
from isoalign.report import leaderboard
from isoalign.report.board.columns import COLUMNS
from isoalign.report.board.rows import PROTOCOL, made
from isoalign.stats import Comparison

BETTER = {"↑": 1, "↓": -1}
REFERENCE_ROW = "sft"  # spends nothing, so it stands beside every budget


def sides(first: str, second: str, folder: Path) -> tuple[list[Card], list[Card]]:
    """The cards of either side: that of a path, or all of the algorithm (or row of the board) of that name in a folder.

    Raises UserError for a name that is neither, or that several configurations share.
    """
    return _side(first, folder), _side(second, folder)


def _side(name: str, folder: Path) -> list[Card]:
    if name.endswith(".json"):
        return [read(Path(name))]
    cards = read_all(folder)
    if not cards:
        raise UserError(f"no cards in {folder}; name cards by their paths, or another folder with --task and --results")
    found = [
        (f"{row.name} at {scientific(section.budget.get('flops'))} FLOP", row)
        for section in leaderboard.build(cards).sections
        for row in section.rows
        if name in (row.name, row.cards[0].algorithm)
    ]
    exact = [(told, row) for told, row in found if row.name == name]
    found = exact or found
    if not found:
        raise UserError(unknown("row", name, sorted({card.algorithm for card in cards})))
    if len(found) > 1:
        raise UserError(f"{name} is {len(found)} rows ({'; '.join(told for told, _ in found)}); name their cards by path")
    return list(found[0][1].cards)


def compare(first: Sequence[Card], second: Sequence[Card]) -> str:
    """A table of paired differences, A minus B, with p-values after Holm's correction over the metrics, for a terminal.

    Raises UserError where the two were not measured in the same way, or have no values by prompt.
    """
    _check(first, second)
    found = {name: c for name in _shared(first, second) if (c := _difference(first, second, name)) is not None}
    if not found:
        raise UserError("no figure of both has values by prompt; run them again with this version of isoalign")
    tested = [name for name, c in found.items() if c.p is not None]
    adjusted = dict(zip(tested, stats.holm([found[name].p or 0.0 for name in tested]), strict=True))
    a, b = _name(first), _name(second)
    if a == b:
        a, b = f"{a} (A)", f"{b} (B)"
    rows = [[name, *_means(first, second, name), _span(c), _p(adjusted.get(name)),
             verdict(name, c, adjusted.get(name), a, b)] for name, c in found.items()]  # fmt: skip
    lines = _table(["metric", a, b, "A - B", "p (Holm)", "verdict"], rows)
    return lines + _footer(first, second, found, adjusted, a, b)


def _check(first: Sequence[Card], second: Sequence[Card]) -> None:
    """Refuse what no board would put side by side."""
    a = first[0]
    for b in (*first, *second):
        if a.task != b.task:
            raise UserError(f"{_name([a])} is of task {a.task}, {_name([b])} of {b.task}: only the same prompts can be paired")
        if REFERENCE_ROW not in (a.algorithm, b.algorithm) and a.metered and b.metered and a.budget != b.budget:
            raise UserError(f"{_name([a])} had {_budget(a)}, {_name([b])} {_budget(b)}: other budgets can't be compared")
        if made(a, "sft") != made(b, "sft"):
            raise UserError(f"{_name([a])} and {_name([b])} start from other SFT bases: they can't be compared")
        told = {title: [c.notes.get(name, made(c, name)) for c in (a, b)] for name, title in PROTOCOL.items()}
        for title, (mine, theirs) in told.items():
            if mine != theirs:
                raise UserError(f"{title.lower()} differ ({mine} and {theirs}): these figures can't be compared")


def _budget(card: Card) -> str:
    return ", ".join(f"{name} {limit:g}" for name, limit in card.budget.items() if limit is not None)


def _shared(first: Sequence[Card], second: Sequence[Card]) -> list[str]:
    """Metrics whose values by prompt every card has and that were measured by the same version of their family."""
    cards = [*first, *second]
    names = set.intersection(*(set(card.values) for card in cards))
    families = {figure: family for card in cards for family, figures in card.families.items() for figure in figures}
    mixed = {name for name in names if len({card.versions.get(FAMILY + families.get(name, "")) for card in cards}) > 1}
    if mixed:
        odd = ", ".join(sorted({families[name] for name in mixed}))
        raise UserError(f"scored with different versions of {odd}; apply one to all with: isoalign rescore")
    if len({tuple(sorted(card.parents[name] for name in card.parents if name.startswith("reward_"))) for card in cards}) > 1:
        names -= {name for name in names if name.startswith("rm_") or name == "proxy_reward"}  # of different reward models
    return sorted(names, key=lambda name: (list(COLUMNS).index(name) if name in COLUMNS else len(COLUMNS), name))


def _difference(first: Sequence[Card], second: Sequence[Card], name: str) -> Comparison | None:
    tables = {side: [card.values[name] for card in cards] for side, cards in (("a", first), ("b", second))}
    prompts = {frozenset(table) for side in tables.values() for table in side}
    return stats.compare(tables)["a", "b"] if len(prompts) == 1 else None


def verdict(name: str, found: Comparison, p_holm: float | None, a: str, b: str) -> str:
    """Which is higher, whether that is better, and whether it outlives the correction for looking at many metrics."""
    if found.value is None or found.p is None or p_holm is None:
        return "too few prompts"
    if found.p >= 1 - stats.LEVEL:
        return "not resolved" if found.value else "equal"
    sign = 1 if found.value > 0 else -1
    arrow = next((better for mark, better in BETTER.items() if name in COLUMNS and mark in COLUMNS[name].title), 0)
    words = f"{a if sign == arrow else b} is better" if arrow else f"{a} is {'higher' if sign > 0 else 'lower'}"
    return words if p_holm < 1 - stats.LEVEL else f"{words}, if looked at alone"


def _footer(
    first: Sequence[Card], second: Sequence[Card], found: dict[str, Comparison], adjusted: dict[str, float], a: str, b: str
) -> str:
    prompts = max(c.n for c in found.values())
    seeds = [len({card.seed for card in side}) for side in (first, second)]
    counts = " and ".join("one seed" if count == 1 else f"{count} seeds" for count in seeds)
    lines = [f"{a} (A) against {b} (B) on {clean(first[0].task)}: {counts}, paired on {prompts} prompts."]
    if min(seeds) == 1:
        lines += ["With one seed the spread of training is unknown: this holds for these runs only."]
    lines += [
        f"Of {len(found)} metrics a few differ by chance: a verdict that does not outlive the correction for all of them",
        'says "if looked at alone".',
    ]
    told = [
        f"{name}: {verdict(name, found[name], adjusted.get(name), a, b)}" for name in ("toxicity_mean", "kl") if name in found
    ]
    return "\n".join([*lines, *("; ".join(told) + "." for _ in told[:1])]) + "\n"


def _name(cards: Sequence[Card]) -> str:
    return clean(cards[0].algorithm)


def _means(first: Sequence[Card], second: Sequence[Card], name: str) -> tuple[str, str]:
    """Both means, over the prompts that every card has a value of."""
    tables = [card.values[name] for card in (*first, *second)]
    common = [prompt for prompt in tables[0] if all(table.get(prompt) is not None for table in tables)]

    def mean(cards: Sequence[Card]) -> str:
        known = [card.values[name][prompt] or 0.0 for card in cards for prompt in common]
        return f"{sum(known) / len(known):.4g}" if known else "-"

    return mean(first), mean(second)


def _span(c: Comparison) -> str:
    if c.value is None or c.low is None or c.high is None:
        return "-"
    value, low, high = (0.0 if abs(bound) < 1e-12 else bound for bound in (c.value, c.low, c.high))  # rounding
    return f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"


def _p(p: float | None) -> str:
    return "-" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for place, title in enumerate(titles):
        table.add_column(
            rich.text.Text(title),
            justify="left" if place in (0, len(titles) - 1) else "right",
            no_wrap=place != 0,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(rich.text.Text, row))
    text = io.StringIO()
    rich.console.Console(file=text, width=130, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n\n"
