"""From cards to what can be compared: sections of rows, a row's seeds pooled, compared and ranked within their section."""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from isoalign import stats
from isoalign.config.fill import with_defaults
from isoalign.core.records import Card, Estimate
from isoalign.evaluation.card import FAMILY, file_name
from isoalign.report.board.columns import COLUMNS
from isoalign.report.board.ranking import UNBOUNDED, Contest, contest, cut, estimate, frontier, seeds_of

REFERENCE, CONTROL, METHOD, UNMETERED = "reference", "control", "method", "unmetered"
_PARTS = {"sft": REFERENCE, "sft_chosen": CONTROL}
ROLES = ("policy", "reference", "value", "reward", "judge", "feedback")
# Of Card.notes, but for the last: figures are compared only where these agree. The key of the held-out pairs covers the
# base, the evaluation prompts, the annotators and the feedback.
PROTOCOL = {
    "prompts": "Prompts",
    "split": "Split",
    "draws": "Draws a prompt",
    "scorer": "Scorer",
    "second_scorer": "Second scorer",
    "held_out": "Held-out pairs",
}
# Figures that are the reference's value of another minus the row's.
_REDUCTIONS = {"toxicity_reduction": "toxicity_mean", "toxicity_reduction_second": "toxicity_mean_second"}


Key = tuple[str, str, str]  # budget, base and protocol as JSON


@dataclass(frozen=True)
class Row:
    """One algorithm in one configuration; ``cards`` are its seeds, in order. ``rank``: first and last that it may have.

    ``outdated``: families of metrics, each with the version that scored these cards and the newest in the section.
    ``pareto``: no other row is as low in both exact KL and toxicity, and lower in one.
    """

    name: str
    part: str
    cards: tuple[Card, ...]
    metrics: dict[str, Estimate]
    flags: tuple[str, ...]
    outdated: dict[str, tuple[str, str]] = field(default_factory=dict)
    rank: tuple[int, int] | None = None
    pareto: bool = False

    @property
    def gated(self) -> bool:
        """Whether a seed failed a quality gate."""
        return any(flag.startswith("gate:") for card in self.cards for flag in card.flags)

    @property
    def place(self) -> str:
        """What stands in the rank column."""
        if self.part != METHOD:
            return self.part
        if self.gated:
            return "gate"
        if self.old("toxicity_mean") or self.rank is None:
            return "outdated" if self.old("toxicity_mean") else "–"
        first, last = self.rank
        return str(first) if first == last else f"{first}–{last}"

    @property
    def contends(self) -> bool:
        """Whether it may be ranked."""
        return self.part == METHOD and not self.gated and not self.old("toxicity_mean")

    @property
    def sound(self) -> bool:
        """Whether its toxicity and drift may be set against those of others."""
        return not (self.gated or self.part == UNMETERED or self.old("kl") or self.old("toxicity_mean"))

    def old(self, metric: str) -> bool:
        """Whether a figure was scored by another version of its family than the section's newest."""
        owners = {family for card in self.cards for family, figures in card.families.items() if metric in figures}
        return bool(owners & self.outdated.keys() if owners else self.outdated)

    @property
    def tuning(self) -> str:
        """How its settings were found, in a few words."""
        told = {str(card.notes["tuning"]).partition(" on ")[0] for card in self.cards if card.notes.get("tuning")}
        return "; ".join(sorted(told))

    @property
    def packages(self) -> str:
        """The packages that its algorithm, judge or task come from, if not from isoalign."""
        told = {(kind, package) for card in self.cards for kind, package in _brought(card).items()}
        return ", ".join(f"{kind} of {package}" for kind, package in sorted(told))

    @property
    def drift(self) -> Estimate:
        """Exact KL to the base, which has drifted 0 from itself."""
        kl = self.estimate("kl")
        return Estimate(0.0, None, None, 0) if kl.value is None and self.part == REFERENCE else kl

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
    contest: Contest = field(default_factory=Contest)

    @property
    def metered(self) -> bool:
        """Whether it has a budget; completions that were made elsewhere have none."""
        return any(row.part != UNMETERED for row in self.rows)

    @property
    def warnings(self) -> list[str]:
        """What must be known before any figure is compared."""
        return [f"{row.name} was {flag}" for row in self.rows for flag in _stale(row.cards, row.outdated)]

    @property
    def roles(self) -> list[str]:
        """Roles on any bill, the usual ones first."""
        found = {role for row in self.rows for role in row.by_role()}
        return [role for role in ROLES if role in found] + sorted(found.difference(ROLES))


def sections_of(cards: list[Card]) -> list[Section]:
    """Cards by what must not be mixed. The SFT base spends nothing, so one is the reference under every budget; what was
    made elsewhere has no budget, and stands beside all that was measured in the same way."""
    methods: dict[Key, list[Card]] = defaultdict(list)
    bases: dict[Key, list[Card]] = defaultdict(list)
    unmetered: dict[Key, list[Card]] = defaultdict(list)
    used: set[Key] = set()
    for card in cards:
        {REFERENCE: bases, UNMETERED: unmetered}.get(part_of(card), methods)[_comparable(card)].append(card)
    for key, group in methods.items():
        kin = [base for base in sorted(bases) if base == key] or [base for base in sorted(bases) if base[1:] == key[1:]]
        used.update(kin[:1])
        group += [card for base in kin[:1] for card in bases[base]]
    groups = methods | {key: group for key, group in bases.items() if key not in used}
    for key, made in unmetered.items():
        hosts = [host for host in groups if host[0] != key[0] and _alike(key, host)]
        for host in hosts:
            groups[host] = groups[host] + made
        if not hosts:
            groups[key] = made
    ordered = sorted(groups.items(), key=lambda item: (json.loads(item[0][0]).get("flops", math.inf), item[0]))
    return [_section(key, group) for key, group in ordered]


def _alike(key: Key, host: Key) -> bool:
    """Whether an unmetered card was measured as a section's were; what it can't know of it need not agree."""
    told, protocol = json.loads(key[2]), json.loads(host[2])
    names = [name for name in PROTOCOL if name != "held_out" or name in told]
    return key[1] in ("", host[1]) and all(told.get(name) == protocol.get(name) for name in names)


def _comparable(card: Card) -> Key:
    budget = {name: limit for name, limit in card.budget.items() if limit is not None}
    budget = {name: int(limit) if float(limit).is_integer() else limit for name, limit in budget.items()}
    told = card.notes | {"held_out": made(card, "held_out")}
    protocol = {name: told[name] for name in PROTOCOL if told.get(name, "") != ""}
    return json.dumps(budget, sort_keys=True), made(card, "sft"), json.dumps(protocol, sort_keys=True)


def made(card: Card, stage: str) -> str:
    """A stage that a card rests on: its key, and what came of it where that is known. By one recipe two kinds of processor
    make bases that differ in the last digits, and then in more."""
    key, content = card.parents.get(stage, ""), card.contents.get(stage, "")
    return f"{key} ({content[:8]})" if key and content else key


def _section(key: Key, cards: list[Card]) -> Section:
    """Ranked rows in the order of the board: by reduction, those that have no part in the ranking last."""
    rows = _reduced(_grouped(cards))
    rows = sorted(rows, key=lambda row: (row.part == METHOD and not row.contends, -_reduction(row), row.name))
    values = {row.name: None if row.old("toxicity_mean") else seeds_of(row.cards, "toxicity_mean") for row in rows}
    reductions = {row.name: row.estimate("toxicity_reduction") for row in rows}
    contenders = [row.name for row in rows if row.contends and (values[row.name] or reductions[row.name].value is not None)]
    others = [row.name for row in rows if row.part != METHOD and not row.gated]
    held = contest({name: seeds for name, seeds in values.items() if name in (*contenders, *others)}, contenders)
    ranks = held.ranks({name: reductions[name] for name in contenders})
    best = frontier({row.name: place for row in rows if (place := _place(row)) is not None})
    rows = [dataclasses.replace(row, rank=ranks.get(row.name), pareto=row.name in best) for row in rows]
    rows.sort(key=lambda row: row.part == METHOD and row.rank is None)
    return Section(json.loads(key[0]), key[1], json.loads(key[2]), tuple(rows), held)


def _place(row: Row) -> tuple[float, float] | None:
    """KL and toxicity, where they have a part in the Pareto frontier."""
    kl, toxicity = row.drift.value, row.estimate("toxicity_mean").value
    return (kl, toxicity) if row.sound and kl is not None and toxicity is not None else None


def _grouped(cards: list[Card]) -> list[Row]:
    """A row for each algorithm in each configuration. Cards that were scored by other versions are never averaged."""
    newest = newest_of(cards)
    groups: dict[tuple[str, str, str], list[Card]] = defaultdict(list)
    for card in cards:
        settings, outdated = json.dumps([card.metered, settings_of(card)]), json.dumps(outdated_of(card, newest))
        groups[card.algorithm, settings, outdated].append(card)
    names = _names(groups)
    return [_row(names[key], group, outdated_of(group[0], newest)) for key, group in groups.items()]


def newest_of(cards: Iterable[Card]) -> dict[str, str]:
    """The newest version of each family of metrics that scored any of the cards."""
    newest: dict[str, str] = {}
    for card in cards:
        for name, version in card.versions.items():
            if name.startswith(FAMILY):
                newest[name] = max(newest.get(name, version), version, key=_number)
    return newest


def _number(version: str) -> tuple[int, str]:
    return (int(version) if version.isdigit() else 0), version


def outdated_of(card: Card, newest: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Families that scored the card in another version than the newest: that, and the newest."""
    pairs = {name: (card.versions.get(name, version), version) for name, version in sorted(newest.items())}
    return {name.removeprefix(FAMILY): pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _stale(cards: Iterable[Card], outdated: Mapping[str, tuple[str, str]]) -> list[str]:
    files = " ".join(file_name(card) for card in cards)
    return [
        f"scored with {family} {own}, the board's is {newest}: isoalign rescore --metric {family} {files}"
        for family, (own, newest) in outdated.items()
    ]


def _reduced(rows: list[Row]) -> list[Row]:
    """Rows with their reductions against the section's reference, prompt by prompt, where both have values."""
    reference = next((row for row in rows if row.part == REFERENCE and not row.outdated), None)
    if reference is None:
        return rows
    for reduction, metric in _REDUCTIONS.items():
        values = {row.name: None if row.old(metric) else seeds_of(row.cards, metric) for row in rows}
        base = values[reference.name]
        paired = {name: seeds for name, seeds in values.items() if seeds and base and seeds[0].keys() == base[0].keys()}
        pairs = [(reference.name, name) for name in paired if name != reference.name]
        found = {pair[1]: c for pair, c in stats.compare({name: paired[name] for name in paired}, pairs).items()}
        made = {name: Estimate(c.value, c.low, c.high, c.n, c.missing) for name, c in found.items()}
        cuts = COLUMNS[reduction].bounds if reduction in COLUMNS else (-1.0, 1.0)
        rows = [
            dataclasses.replace(row, metrics=row.metrics | {reduction: cut(made[row.name], cuts)}) if row.name in made else row
            for row in rows
        ]
    return rows


def _reduction(row: Row) -> float:
    value = row.estimate("toxicity_reduction").value
    if value is None:
        return 0.0 if row.part == REFERENCE else -math.inf
    return value


def _row(name: str, cards: list[Card], outdated: dict[str, tuple[str, str]]) -> Row:
    seeds: dict[int, list[Card]] = defaultdict(list)
    for card in cards:
        seeds[card.seed].append(card)
    metrics = {
        metric: estimate(cards, metric, COLUMNS[metric].bounds if metric in COLUMNS else UNBOUNDED)
        for metric in sorted({metric for card in cards for metric in card.metrics})
    }
    return Row(name, part_of(cards[0]), tuple(cards), metrics, (*_stale(cards, outdated), *_flags(seeds)), outdated)


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
    for seed, found in sorted(seeds.items()):
        if len(found) > 1:
            unlike = len({card.parents.get("train") for card in found}) > 1
            why = ", though code, packages or data of their trainings differ: delete the older" if unlike else ""
            flags.append(f"{len(found)} cards of seed {seed}, averaged{why}")
    packages = sorted({name for card in cards for name in card.versions})
    mixed = [name for name in packages if len({card.versions.get(name) for card in cards}) > 1]
    return flags + ([f"versions differ: {', '.join(mixed)}"] if mixed else [])


def _brought(card: Card) -> dict[str, str]:
    told = card.notes.get("packages")
    return told if isinstance(told, dict) else {}


def part_of(card: Card) -> str:
    """What a card's row is on the board: reference, control, method or unmetered."""
    return _PARTS.get(card.algorithm, METHOD) if card.metered else UNMETERED


def _names(groups: Mapping[tuple[str, str, str], list[Card]]) -> dict[tuple[str, str, str], str]:
    """A name of its own for each row: the algorithm's, with those settings that tell two configurations of it apart, the
    versions that are outdated, and where it was made if a method here has the name."""
    names: dict[tuple[str, str, str], str] = {}
    for metered in (True, False):
        keys = [key for key, group in groups.items() if group[0].metered is metered]
        firsts = {key[:2]: groups[key][0] for key in keys}
        told = dict(zip(firsts, told_apart(list(firsts.values())), strict=True))
        for key in keys:
            old = [f"{family} {own}" for family, (own, _) in json.loads(key[2]).items()]
            name = f"{told[key[:2]]} [{', '.join(old)}]" if old else told[key[:2]]
            names[key] = f"{name} [unmetered]" if name in names.values() else name
    return names


def told_apart(cards: list[Card]) -> list[str]:
    """A name for each card: its algorithm's, with those settings that tell two configurations of one algorithm apart."""
    flat = [flatten(json.loads(settings_of(card))) for card in cards]
    names = []
    for card, settings in zip(cards, flat, strict=True):
        twins = [other for twin, other in zip(cards, flat, strict=True) if twin.algorithm == card.algorithm]
        keys = sorted({key for twin in twins for key in twin})
        varied = [key for key in keys if len({repr(twin.get(key)) for twin in twins}) > 1]
        told = ", ".join(f"{key.removeprefix('algorithm.')}={settings[key]}" for key in varied if key in settings)
        names.append(f"{card.algorithm} ({told or 'default'})" if varied else card.algorithm)
    return names


def flatten(settings: Any, path: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; an empty section is a value."""
    if not isinstance(settings, dict) or not settings:
        return {path: settings}
    inner = [flatten(value, f"{path}.{name}" if path else name) for name, value in settings.items()]
    return {key: value for part in inner for key, value in part.items()}


def settings_of(card: Card) -> str:
    """The configuration without the seed, as a text to group by; settings that came later count as at their defaults."""
    settings = {name: value for name, value in card.config.items() if name != "seed"}
    if "task" in settings:
        settings["task"] = with_defaults(json.dumps(settings["task"]))
    return json.dumps(settings, sort_keys=True)


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
