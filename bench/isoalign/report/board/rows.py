"""A row of the board: one algorithm in one configuration, its seeds pooled, and what its cards say beside their metrics."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isoalign.config.fill import with_defaults
from isoalign.core.objective import Objective, objective_of
from isoalign.core.records import Card, Estimate, Flag
from isoalign.evaluation.card import CODE, FAMILY, file_name
from isoalign.evaluation.tracks import track, tuning
from isoalign.report.board.columns import clip_bounds
from isoalign.report.board.ranking import pooled_estimates

REFERENCE, CONTROL, METHOD, UNMETERED = "reference", "control", "method", "unmetered"
INFERENCE = "inference"  # trains nothing and pays for every answer instead: a budget of training measures nothing of it
DRIFT = {
    "drift_rloo": "reward_seed",
    "drift_dpo": "verdict_seed",
}  # controls for drift, each with the setting that is its draw
PARTS = {"sft": REFERENCE, "sft_chosen": CONTROL, **dict.fromkeys(DRIFT, CONTROL)}


@dataclass(frozen=True)
class Row:
    """One algorithm in one configuration; ``cards`` are its seeds, in order. ``rank``: first and last that it may have.

    ``outdated``: families of metrics, each with the version that scored these cards and the newest in the section.
    ``pareto``: whether no other row has both as little exact KL and as good a score, and is better in one; ``on_frontier``: in
    which share of resamples, None without values by prompt.
    """

    name: str
    part: str
    cards: tuple[Card, ...]
    metrics: dict[str, Estimate]
    flags: tuple[Flag, ...]
    outdated: dict[str, tuple[str, str]] = field(default_factory=dict)
    rank: tuple[int, int] | None = None
    pareto: bool = False
    on_frontier: float | None = None

    @property
    def objective(self) -> Objective:
        """What its task ranks by."""
        return objective_of(self.cards[0])

    @property
    def algorithm(self) -> str:
        """The name of its algorithm, without settings."""
        return self.cards[0].algorithm

    @property
    def gated(self) -> bool:
        """Whether a seed failed a gate."""
        return any(flag.kind == "gate" for card in self.cards for flag in card.flags)

    @property
    def place(self) -> str:
        """The text of the rank column."""
        if self.part != METHOD:
            return self.part
        if self.gated:
            return "gate"
        if self._unranked or self.rank is None:
            return "outdated" if self._unranked else "–"
        return "–".join(map(str, sorted({*self.rank})))

    @property
    def rankable(self) -> bool:
        """Whether it may be ranked."""
        return self.part == METHOD and not self.gated and not self._unranked

    @property
    def comparable(self) -> bool:
        """Whether its score and KL may be compared with those of others."""
        return self.current and not self.gated

    @property
    def current(self) -> bool:
        """Whether its KL is measured, and both it and the score by the newest versions."""
        return not (self.part in (UNMETERED, INFERENCE) or self.is_outdated("kl") or self._unranked)

    @property
    def _unranked(self) -> bool:
        return self.is_outdated(self.objective.level)

    def is_outdated(self, name: str) -> bool:
        """Whether a metric was scored by another version of its family than the newest in the section."""
        owners = {family for card in self.cards for family, names in card.families.items() if name in names}
        return bool(owners & self.outdated.keys() if owners else self.outdated)

    @property
    def tuning(self) -> str:
        """How its settings were found, in a few words."""
        return "; ".join(sorted({tuning(card) for card in self.cards} - {""}))

    @property
    def track(self) -> str:
        """How its settings were found: tuned, default or by hand."""
        return "; ".join(sorted({track(card) for card in self.cards} - {""}))

    @property
    def packages(self) -> str:
        """The packages that its algorithm, judge or task come from, if not from isoalign."""
        noted = [card.notes.get("packages") for card in self.cards]
        sources = {source for packages in noted if isinstance(packages, dict) for source in packages.items()}
        return ", ".join(f"{kind} of {package}" for kind, package in sorted(sources))

    @property
    def kl(self) -> Estimate:
        """Exact KL from the base, which is 0 for the base itself."""
        kl = self.estimate("kl")
        return Estimate(0.0, None, None, 0) if kl.value is None and self.part == REFERENCE else kl

    @property
    def clusters(self) -> int:
        """Number of seeds, or of bases where the task has several: what counts as independent. Seeds that gave the same
        answers are one."""
        return len({_answers(card) if card.base is None else card.cluster for card in self.cards})

    @property
    def lone(self) -> bool:
        """Whether it is by one seed, which says nothing of its method."""
        return self.clusters == 1 and self.part in (METHOD, CONTROL, INFERENCE)

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len({card.seed for card in self.cards})

    def estimate(self, name: str) -> Estimate:
        """The pooled estimate of a metric, or a missing one."""
        return self.metrics.get(name, Estimate(None, None, None, 0))

    def spent(self, name: str) -> float | None:
        """Mean over cards of what was spent of one limit; None where no card says."""
        return known_mean(total(card.spent.get(name)) for card in self.cards)

    def flops_by_role(self) -> dict[str, float]:
        """FLOPs spent on each role, mean over cards."""
        bill: dict[str, list[float]] = defaultdict(list)
        for card in self.cards:
            for item in card.spent.get("items") or []:
                bill[str(item["role"])].append(float(item["flops"]))
        return {role: math.fsum(flops) / len(self.cards) for role, flops in sorted(bill.items())}

    @property
    def percent(self) -> float | None:
        """What was spent of the limit nearest to its end, in %, mean over cards."""
        return known_mean(max(_percents(card).values(), default=None) for card in self.cards)


def build_row(name: str, cards: list[Card], outdated: dict[str, tuple[str, str]]) -> Row:
    """A row of cards that differ in the seed alone."""
    names = sorted({name for card in cards for name in card.metrics})
    objective = objective_of(cards[0])
    metrics = pooled_estimates(cards, {each: clip_bounds(each, objective) for each in names})
    flags = (*(Flag("warning", text) for text in rescore_hints(cards, outdated)), *row_flags(cards))
    return Row(name, part_of(cards[0]), tuple(cards), metrics, flags, outdated)


def rescore_hints(cards: Iterable[Card], outdated: Mapping[str, tuple[str, str]]) -> list[str]:
    """For each outdated family, the command that scores the cards again."""
    files = " ".join(file_name(card) for card in cards)
    rescore = "in the folder of the cards: isoalign rescore --metric"
    return [
        f"scored with {family} {own}, the board's is {newest}; {rescore} {family} {files}"
        for family, (own, newest) in outdated.items()
    ]


def row_flags(cards: Sequence[Card]) -> list[Flag]:
    """The flags of the cards, with the seeds where not all have them, and what only shows when cards stand together."""
    seeds: dict[int, list[Card]] = defaultdict(list)
    raised: dict[Flag, set[int]] = defaultdict(set)
    for card in cards:
        seeds[card.seed].append(card)
        for flag in [*card.flags, *([Flag("warning", "over budget")] if _over_budget(card) else [])]:
            raised[flag].add(card.seed)
    flags = [
        flag if len(own) == len(seeds) else Flag(flag.kind, f"{flag.text} (seed {', '.join(map(str, sorted(own)))})")
        for flag, own in sorted(raised.items(), key=lambda item: (item[0].kind, item[0].text))
    ]
    for seed, same in sorted(seeds.items()):
        if len(same) > 1:
            differ = len({card.parents.get("train") for card in same}) > 1
            why = ", though code, packages or data of their trainings differ: delete the older" if differ else ""
            flags.append(Flag("warning", f"{len(same)} cards of seed {seed}, averaged{why}"))
    alike: dict[str | int, set[int]] = defaultdict(set)
    for card in cards if part_of(cards[0]) != REFERENCE else ():
        alike[_answers(card)].add(card.seed)
    twins = [", ".join(map(str, sorted(numbers))) for numbers in alike.values() if len(numbers) > 1]
    flags += [
        Flag("warning", f"seeds {each} gave the same answers: they are one run, and tell nothing of seeds") for each in twins
    ]
    packages = sorted({name for card in cards for name in card.versions})
    told = {
        name: {card.versions.get(name) for card in cards} - ({None} if name.endswith(CODE) else set()) for name in packages
    }
    mixed = [name for name, versions in told.items() if len(versions) > 1]
    return flags + ([Flag("warning", f"versions differ: {', '.join(mixed)}")] if mixed else [])


def _answers(card: Card) -> str | int:
    """The digest of its answers, or the seed where the card has none."""
    return card.contents.get("samples") or card.cluster


def part_of(card: Card) -> str:
    """What a card's row is on the board: reference, control, method, inference or unmetered."""
    if not card.metered:
        return UNMETERED
    trains = card.training.get("steps") != 0
    return PARTS.get(card.algorithm, METHOD if trains else INFERENCE)


def of_methods(cards: Iterable[Card], names: Collection[str]) -> list[Card]:
    """The cards of some methods, with the reference and the controls."""
    return [card for card in cards if card.algorithm in names or part_of(card) in (REFERENCE, CONTROL)]


def newest_versions(cards: Iterable[Card]) -> dict[str, str]:
    """The newest version of each family of metrics that scored any of the cards."""
    newest: dict[str, str] = {}
    for card in cards:
        for name, version in card.versions.items():
            if name.startswith(FAMILY):
                newest[name] = max(newest.get(name, version), version, key=_version_key)
    return newest


def _version_key(version: str) -> tuple[int, str]:
    return (int(version) if version.isdigit() else 0), version


def outdated_families(card: Card, newest: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Families that scored the card in another version than the newest: that version, and the newest."""
    pairs = {name: (card.versions.get(name, version), version) for name, version in sorted(newest.items())}
    return {name.removeprefix(FAMILY): pair for name, pair in pairs.items() if pair[0] != pair[1]}


def flatten(settings: Any, path: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; an empty section is a value."""
    if not isinstance(settings, dict) or not settings:
        return {path: settings}
    inner = [flatten(value, f"{path}.{name}" if path else name) for name, value in settings.items()]
    return {key: value for part in inner for key, value in part.items()}


def settings_of(card: Card) -> str:
    """The configuration without the seed, as text to group by; settings that are newer than the card are at their defaults."""
    settings = {name: value for name, value in card.config.items() if name != "seed"}
    if "task" in settings:
        settings["task"] = task_of(card)
    return json.dumps(settings, sort_keys=True)


def task_of(card: Card) -> Any:
    """The settings of a card's task with those that are newer at their defaults; the seed of a task with several bases is that
    of the first one."""
    task = with_defaults(json.dumps(card.config.get("task")))
    seed = task.get("seed", 0) if isinstance(task, dict) else None
    return task if card.base is None or not isinstance(seed, int) else task | {"seed": seed - card.base}


def stage_identity(card: Card, stage: str) -> str:
    """A stage behind a card: its key and, if known, its content. Two kinds of processor make bases of one key that differ in
    the last digits, and so in everything after. For base and held-out pairs of a task with several, what tells all of them."""
    if card.base is not None and stage in ("sft", "held_out"):
        return str(card.notes.get("bases", ""))
    key, content = card.parents.get(stage, ""), card.contents.get(stage, "")
    return f"{key} ({content[:8]})" if key and content else key


def _over_budget(card: Card) -> bool:
    """Whether more was spent than the budget. Seconds do not count: they are checked between steps, so always exceeded."""
    return any(percent > 100 for name, percent in _percents(card).items() if name != "seconds")


def _percents(card: Card) -> dict[str, float]:
    """What was spent of each limit, in %."""
    limits = {name: limit for name, limit in card.budget.items() if limit}
    return {name: 100 * (total(card.spent.get(name)) or 0.0) / limit for name, limit in limits.items()}


def total(value: Any) -> float | None:
    """What was spent of a limit: a number, or the sum over sources."""
    if isinstance(value, dict):
        return math.fsum(value.values())
    return None if value is None else float(value)


def known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of the known values; None without any."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
