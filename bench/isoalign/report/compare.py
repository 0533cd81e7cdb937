"""Two methods or two cards, paired prompt by prompt, on every metric, with a verdict as text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path

from isoalign import stats
from isoalign.core.display import clean, scientific
from isoalign.core.errors import UserError, unknown
from isoalign.core.objective import TOXICITY, Objective, objective_of
from isoalign.core.records import Card, Flag
from isoalign.evaluation.card import FAMILY, file_name, read_cards, read_unchanged
from isoalign.report import side_by_side
from isoalign.report.board.columns import metric, shown
from isoalign.report.board.ranking import bases_of, seeds_of
from isoalign.report.board.rows import REFERENCE, UNMETERED, Row, part_of, row_flags, settings_of, stage_identity
from isoalign.report.board.sections import PROTOCOL
from isoalign.report.board.unequal import unequal
from isoalign.report.leaderboard import build_board, different_objectives
from isoalign.report.side_by_side import Compared, SideBySide, corrected, distinct, some, versus
from isoalign.stats import Comparison

REFERENCE_ROW = "sft"  # spends nothing, so it can be compared under every budget


def sides(first: str, second: str, folder: Path) -> tuple[list[Card], list[Card]]:
    """The cards of each side: the card of a path, or all cards of the algorithm (or row of the board) of that name in a
    folder. Of one configuration at several budgets or on several bases, the rows are taken that can be compared.

    Raises UserError for an unknown name, and for one that several configurations share.
    """
    found = [_rows(name, folder) for name in (first, second)]
    pairs = [(a, b) for (_, a), (_, b) in product(*found) if _fit(a, b)]
    if len(pairs) == 1 and all(len({settings_of(cards[0]) for _, cards in rows}) == 1 for rows in found):
        return pairs[0]
    for name, rows in zip((first, second), found, strict=True):
        if len(rows) > 1:
            places = "; ".join(place for place, _ in rows)
            raise UserError(f"{name} matches {len(rows)} rows ({places}); name their cards by path")
    return found[0][0][1], found[1][0][1]


def _rows(name: str, folder: Path) -> list[tuple[str, list[Card]]]:
    """The place and cards of each row of that name, of one in several sections (the base) once; or the card of a path."""
    if name.endswith(".json"):
        return [(name, [read_unchanged(Path(name))])]
    cards = read_cards(folder)
    if not cards:
        raise UserError(f"no cards in {folder}; name cards by path, or another folder by --task and --results")
    rows = [
        (f"{row.name} at {scientific(section.budget.get('flops'))} FLOP", row)
        for section in build_board(cards).sections
        for row in section.rows
        if name in (row.name, row.cards[0].algorithm)
    ]
    rows = [(place, row) for place, row in rows if row.name == name] or rows
    if not rows:
        raise UserError(unknown("row", name, sorted({card.algorithm for card in cards})))
    once = {tuple(card.key for card in row.cards): (place, list(row.cards)) for place, row in rows}
    return list(once.values())


def _fit(first: Sequence[Card], second: Sequence[Card]) -> bool:
    """Whether a board may put these cards side by side."""
    try:
        _check(first, second)
    except UserError:
        return False
    return True


def compare_methods(first: Sequence[Card], second: Sequence[Card]) -> str:
    """A table of paired differences, A minus B, with p-values after Holm's correction over the metrics, for a terminal.

    Raises UserError as `pair_up` does.
    """
    return pair_up(first, second).text()


def pair_up(first: Sequence[Card], second: Sequence[Card]) -> SideBySide:
    """Paired differences, A minus B, on every metric that both have.

    Raises UserError if the two were not measured in the same way, or have no values by prompt.
    """
    _check(first, second)
    comparisons = {name: c for name in _shared(first, second) if (c := _difference(first, second, name)) is not None}
    if not comparisons:
        if _shared(first, second):
            raise UserError(
                "the two sides have values on different prompts, so nothing can be paired; evaluate both on the same"
            )
        raise UserError("no metric has values by prompt on both sides; run both again with this version of isoalign")
    adjusted = corrected(comparisons)
    a, b = distinct(_name(first), _name(second))
    objective = objective_of(first[0])
    rows = tuple(
        Compared(
            name, _means(first, second, name), c, adjusted.get(name), verdict(name, c, adjusted.get(name), a, b, objective)
        )
        for name, c in comparisons.items()
    )
    seeds = {f"seeds_{side}": sorted({card.seed for card in cards}) for side, cards in (("a", first), ("b", second))}
    files = {f"cards_{side}": [file_name(card) for card in cards] for side, cards in (("a", first), ("b", second))}
    flags = row_flags(first), row_flags(second)
    told = {f"flags_{side}": list(map(str, own)) for side, own in zip("ab", flags, strict=True)}
    both = [Row(name, part_of(cards[0]), tuple(cards), {}, (), {}) for name, cards in ((a, first), (b, second))]
    about = {"task": first[0].task, "paired_on": max(c.n for c in comparisons.values()), **seeds, **files, **told}
    apart = unequal(both, [row for row in both if row.part not in (REFERENCE, UNMETERED)])  # gated or a control as well
    left = _left_out([*first, *second], comparisons.keys())
    about |= {"unequal": apart, "metrics_left_out": sorted(name for names in left.values() for name in names)}
    return SideBySide((a, b), rows, _footer(first, second, rows, {a: flags[0], b: flags[1]}, apart, left), about)


def _check(first: Sequence[Card], second: Sequence[Card]) -> None:
    """Raise UserError for cards that no board would put side by side."""
    a = first[0]
    for b in (*first, *second):
        if a.task != b.task:
            raise UserError(
                f"{_name([a])} is of task {a.task} and {_name([b])} of {b.task}; only cards of one task can be paired"
            )
        if objective_of(a) != objective_of(b):
            raise UserError(different_objectives((a, b)))
        if REFERENCE_ROW not in (a.algorithm, b.algorithm) and a.metered and b.metered and _limits(a) != _limits(b):
            both = f"the budget of {_name([a])} is {_budget(a)}, that of {_name([b])} {_budget(b)}"
            raise UserError(f"{both}; different budgets can't be compared")
        if stage_identity(a, "sft") != stage_identity(b, "sft"):
            raise UserError(f"{_name([a])} and {_name([b])} start from different SFT bases; they can't be compared")
        for name, title in PROTOCOL.items():
            first_note, second_note = (card.notes.get(name, stage_identity(card, name)) for card in (a, b))
            if first_note != second_note:
                raise UserError(f"{title.lower()} differ ({first_note} and {second_note}); these cards can't be compared")


def _limits(card: Card) -> dict[str, float]:
    return {name: limit for name, limit in card.budget.items() if limit is not None}


def _budget(card: Card) -> str:
    return ", ".join(f"{name} {limit:g}" for name, limit in _limits(card).items())


def _shared(first: Sequence[Card], second: Sequence[Card]) -> list[str]:
    """Metrics for which every card has values by prompt, of the same version of their family."""
    cards = [*first, *second]
    names = set.intersection(*(set(card.values) for card in cards))
    families = {figure: family for card in cards for family, figures in card.families.items() for figure in figures}
    versions = {name for card in cards for name in card.versions if name.startswith(FAMILY)}
    differ = {name.removeprefix(FAMILY) for name in versions if len({card.versions.get(name) for card in cards}) > 1}
    mixed = {name for name in names if (families[name] in differ if name in families else differ)}  # old cards name none
    if mixed:
        odd = ", ".join(sorted({families[name] for name in mixed if name in families} or differ))
        raise UserError(f"scored with different versions of {odd}; apply the same to all with: isoalign rescore")
    names -= _of_reward_models(cards)
    order = shown(objective_of(first[0]))
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def _of_reward_models(cards: Sequence[Card]) -> set[str]:
    """The metrics of cards that are of different reward models."""
    models = {tuple(sorted(card.parents[name] for name in card.parents if name.startswith("reward_"))) for card in cards}
    names = {name for card in cards for name in card.values}
    return {name for name in names if name.startswith("rm_") or name == "proxy_reward"} if len(models) > 1 else set()


def _left_out(cards: Sequence[Card], compared: Collection[str]) -> dict[str, list[str]]:
    """Why metrics of some card are not compared, to their names."""
    left = {name for card in cards for name in card.values if name not in compared}
    models = left & _of_reward_models(cards)
    reasons = {"not on every card for the same prompts": left - models, "of different reward models": models}
    return {why: sorted(names) for why, names in reasons.items() if names}


def _difference(first: Sequence[Card], second: Sequence[Card], name: str) -> Comparison | None:
    tables = {side: values for side, cards in (("a", first), ("b", second)) if (values := seeds_of(cards, name))}
    prompts = {frozenset(table) for side in tables.values() for table in side}
    bases = {side: found for side, cards in (("a", first), ("b", second)) if (found := bases_of(cards))}
    trained = [side for side, cards in (("a", first), ("b", second)) if part_of(cards[0]) not in (REFERENCE, UNMETERED)]
    return stats.compare(tables, trained=trained, bases=bases)["a", "b"] if len(tables) == 2 and len(prompts) == 1 else None


def verdict(name: str, c: Comparison, p_holm: float | None, a: str, b: str, objective: Objective = TOXICITY) -> str:
    """The verdict on a metric of isoalign, whose direction is known."""
    return side_by_side.verdict(c, p_holm, a, b, metric(name, objective).higher_is_better)


def _footer(
    first: Sequence[Card],
    second: Sequence[Card],
    rows: Sequence[Compared],
    flags: Mapping[str, Sequence[Flag]],
    apart: Sequence[str],
    left: Mapping[str, Sequence[str]],
) -> str:
    """What was compared, what it says, what was ``left`` out and why, the flags of both sides, by name, and what sets them
    ``apart`` beside the method."""
    a, b = flags
    prompts = max(row.difference.n for row in rows)
    seeds = [len({card.seed for card in side}) for side in (first, second)]
    counts = " and ".join("one seed" if count == 1 else f"{count} seeds" for count in seeds)
    flops = {card.budget.get("flops") for card in (*first, *second) if card.metered and card.algorithm != REFERENCE_ROW}
    at = f" at {scientific(flops.pop())} FLOP" if len(flops) == 1 else ""
    lines = [f"{versus(a, b)} on {clean(first[0].task)}{at}: {counts}, paired on {prompts} prompts."]
    if short := [f"{row.name} {row.difference.missing}" for row in rows if row.difference.missing]:
        lines += [f"Prompts without a value on every card, left out: {', '.join(short)}."]
    lines += [f"Not compared, as {why}: {some(names)}." for why, names in left.items()]
    if any(row.difference.single for row in rows):
        lines += [
            "One seed says nothing of its method: intervals cover the prompts, not the training, and there are no verdicts."
        ]
    else:
        lines += [
            f"Of {len(rows)} metrics a few differ by chance: a verdict that does not hold after correction for their",
            'number says "before correction".',
        ]
    said = {row.name: row.verdict for row in rows}
    verdicts = [f"{name}: {said[name]}" for name in (objective_of(first[0]).level, "kl") if name in said]
    lines += ["; ".join(verdicts) + "."] if verdicts else []
    gated = [name for name, own in flags.items() if any(flag.kind == "gate" for flag in own)]
    which = f"{' and '.join(gated)} fail{'s' * (len(gated) == 1)}"
    lines += [f"{which} a gate of quality: no board ranks such a method."] if gated else []
    lines += [f"{name}: {clean('; '.join(map(str, own)))}" for name, own in flags.items() if own]
    lines += [f"Not equal: {clean(line)}." for line in apart]
    return "\n".join(lines) + "\n"


def _name(cards: Sequence[Card]) -> str:
    return clean(cards[0].algorithm)


def _means(first: Sequence[Card], second: Sequence[Card], name: str) -> tuple[float | None, float | None]:
    """The means of both sides over seeds, or bases, on the prompts that have a value on every card."""
    tables = [card.values[name] for card in (*first, *second)]
    common = [prompt for prompt in tables[0] if all(table.get(prompt) is not None for table in tables)]

    def mean(cards: Sequence[Card]) -> float | None:
        known = [seed[prompt] or 0.0 for seed in seeds_of(cards, name) or () for prompt in common]
        return sum(known) / len(known) if known else None

    return mean(first), mean(second)
