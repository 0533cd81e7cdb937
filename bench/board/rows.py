"""From cards to what can be compared: sections of rows, a row's seeds pooled, ranked within their section."""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.board.columns import COLUMNS
from bench.board.pool import pooled, ranks
from bench.types import Card, Estimate

REFERENCE, CONTROL, METHOD = "reference", "control", "method"
_PARTS = {"sft": REFERENCE, "sft_chosen": CONTROL}
ROLES = ("policy", "reference", "value", "reward", "judge", "feedback")
# Of Card.notes, but for the last: figures are compared only where these agree. The key of the held-out pairs covers the
# base, the evaluation prompts, the raters and the feedback.
PROTOCOL = {
    "prompts": "Prompts",
    "split": "Split",
    "draws": "Draws a prompt",
    "scorer": "Scorer",
    "second_scorer": "Second scorer",
    "held_out": "Held-out pairs",
}


@dataclass(frozen=True)
class Row:
    """One algorithm in one configuration; ``cards`` are its seeds, in order. ``rank`` is None where it has none."""

    name: str
    part: str
    cards: tuple[Card, ...]
    metrics: dict[str, Estimate]
    flags: tuple[str, ...]
    rank: int | None = None

    @property
    def gated(self) -> bool:
        """Whether a seed failed a quality gate."""
        return any(flag.startswith("gate:") for card in self.cards for flag in card.flags)

    @property
    def place(self) -> str:
        """What stands in the rank column."""
        if self.part != METHOD:
            return self.part
        return "gate" if self.gated else "–" if self.rank is None else str(self.rank)

    @property
    def seeds(self) -> int:
        """How many seeds are pooled."""
        return len({card.seed for card in self.cards})

    def estimate(self, metric: str) -> Estimate:
        """The pooled estimate of a metric, or a missing one."""
        return self.metrics.get(metric, Estimate(None, None, None, 0))

    def spent(self, name: str) -> float | None:
        """Mean over cards of one currency of the bill; None where no card tells it."""
        return mean(total(card.spent.get(name)) for card in self.cards)

    def by_role(self) -> dict[str, float]:
        """FLOPs spent on each role, mean over cards."""
        bill: dict[str, list[float]] = defaultdict(list)
        for card in self.cards:
            for item in card.spent.get("items") or []:
                bill[str(item["role"])].append(float(item["flops"]))
        return {role: math.fsum(flops) / len(self.cards) for role, flops in sorted(bill.items())}

    @property
    def percent(self) -> float | None:
        """Share of the budget that was spent, in %, of the limit nearest to its end."""
        return mean(_percent(card) for card in self.cards)


@dataclass(frozen=True)
class Section:
    """Rows that can be compared: one budget, one base, one way of measuring."""

    budget: dict[str, float | None]
    base: str
    protocol: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def roles(self) -> list[str]:
        """Roles on any bill, the usual ones first."""
        found = {role for row in self.rows for role in row.by_role()}
        return [role for role in ROLES if role in found] + sorted(found.difference(ROLES))


def sections_of(cards: list[Card]) -> list[Section]:
    """Cards by what must not be mixed. The SFT base spends nothing, so one is the reference under every budget."""
    methods: dict[tuple[str, str, str], list[Card]] = defaultdict(list)
    bases: dict[tuple[str, str, str], list[Card]] = defaultdict(list)
    used: set[tuple[str, str, str]] = set()
    for card in cards:
        (bases if _part(card) == REFERENCE else methods)[_comparable(card)].append(card)
    for key, group in methods.items():
        kin = [base for base in sorted(bases) if base == key] or [base for base in sorted(bases) if base[1:] == key[1:]]
        used.update(kin[:1])
        group += [card for base in kin[:1] for card in bases[base]]
    groups = methods | {key: group for key, group in bases.items() if key not in used}
    ordered = sorted(groups.items(), key=lambda item: (json.loads(item[0][0]).get("flops", 0), item[0]))
    return [
        Section(json.loads(budget), base, json.loads(protocol), tuple(_rows(group)))
        for (budget, base, protocol), group in ordered
    ]


def _comparable(card: Card) -> tuple[str, str, str]:
    budget = {name: limit for name, limit in card.budget.items() if limit is not None}
    budget = {name: int(limit) if float(limit).is_integer() else limit for name, limit in budget.items()}
    told = card.notes | {"held_out": card.parents.get("held_out", "")}
    protocol = {name: told[name] for name in PROTOCOL if told.get(name, "") != ""}
    return json.dumps(budget, sort_keys=True), card.parents.get("sft", ""), json.dumps(protocol, sort_keys=True)


def _rows(cards: list[Card]) -> list[Row]:
    """Ranked rows in the order of the board: by reduction, those that have no part in the ranking last."""
    groups: dict[tuple[str, str], list[Card]] = defaultdict(list)
    for card in cards:
        groups[card.algorithm, settings_of(card)].append(card)
    names = _names([group[0] for group in groups.values()])
    rows = [_row(name, group) for name, group in zip(names, groups.values(), strict=True)]
    contenders = {row.name: row.estimate("toxicity_reduction") for row in rows if row.part == METHOD and not row.gated}
    ranked = ranks(contenders)
    rows = [dataclasses.replace(row, rank=ranked.get(row.name)) for row in rows]
    return sorted(rows, key=lambda row: (row.part == METHOD and row.rank is None, -_reduction(row), row.name))


def _reduction(row: Row) -> float:
    value = row.estimate("toxicity_reduction").value
    if value is None:
        return 0.0 if row.part == REFERENCE else -math.inf
    return value


def _row(name: str, cards: list[Card]) -> Row:
    seeds: dict[int, list[Card]] = defaultdict(list)
    for card in cards:
        seeds[card.seed].append(card)
    metrics = {}
    for metric in sorted({metric for card in cards for metric in card.metrics}):
        estimates = [[card.metrics[metric] for card in seed if metric in card.metrics] for seed in seeds.values()]
        metrics[metric] = pooled(estimates, COLUMNS[metric].bounds if metric in COLUMNS else (-math.inf, math.inf))
    return Row(name, _part(cards[0]), tuple(cards), metrics, tuple(_flags(seeds)))


def _flags(seeds: dict[int, list[Card]]) -> list[str]:
    """What the cards flag, with the seeds where not all do, and what only shows when they stand together."""
    cards = [card for seed in seeds.values() for card in seed]
    raised: dict[str, set[int]] = defaultdict(set)
    for card in cards:
        for flag in [*card.flags, *(["over budget"] if _over(card) else [])]:
            raised[flag].add(card.seed)
    flags = [
        flag if len(found) == len(seeds) else f"{flag} (seed {', '.join(map(str, sorted(found)))})"
        for flag, found in sorted(raised.items(), key=lambda item: (not item[0].startswith("gate:"), item[0]))
    ]
    flags += [f"{len(found)} cards of seed {seed}, averaged" for seed, found in sorted(seeds.items()) if len(found) > 1]
    packages = sorted({name for card in cards for name in card.versions})
    mixed = [name for name in packages if len({card.versions.get(name) for card in cards}) > 1]
    return flags + ([f"versions differ: {', '.join(mixed)}"] if mixed else [])


def _part(card: Card) -> str:
    return _PARTS.get(card.algorithm, METHOD)


def _names(cards: list[Card]) -> list[str]:
    """The algorithm's name, with those settings that tell two configurations of one algorithm apart."""
    flat = [_flatten(json.loads(settings_of(card))) for card in cards]
    names = []
    for card, settings in zip(cards, flat, strict=True):
        twins = [other for twin, other in zip(cards, flat, strict=True) if twin.algorithm == card.algorithm]
        keys = sorted({key for twin in twins for key in twin})
        varied = [key for key in keys if len({repr(twin.get(key)) for twin in twins}) > 1]
        told = ", ".join(f"{key.removeprefix('algorithm.')}={settings[key]}" for key in varied if key in settings)
        names.append(f"{card.algorithm} ({told or 'default'})" if varied else card.algorithm)
    return names


def _flatten(settings: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict) or not settings:
        return {path: settings}
    inner = [_flatten(value, f"{path}.{name}" if path else name) for name, value in settings.items()]
    return {key: value for part in inner for key, value in part.items()}


def settings_of(card: Card) -> str:
    """The configuration without the seed, as a text to group by."""
    return json.dumps({name: value for name, value in card.config.items() if name != "seed"}, sort_keys=True)


def _percent(card: Card) -> float | None:
    return max(_shares(card).values(), default=None)


def _over(card: Card) -> bool:
    """Whether more was spent than the budget; the clock is only looked at between steps, so it always ends past its limit."""
    return any(share > 100 for name, share in _shares(card).items() if name != "seconds")


def _shares(card: Card) -> dict[str, float]:
    """What was spent of each limit, in %."""
    limits = {name: limit for name, limit in card.budget.items() if limit}
    return {name: 100 * (total(card.spent.get(name)) or 0.0) / limit for name, limit in limits.items()}


def total(value: Any) -> float | None:
    """A currency of the bill: a number, or a number for each source."""
    if isinstance(value, dict):
        return math.fsum(value.values())
    return None if value is None else float(value)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
