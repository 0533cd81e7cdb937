"""The rows of a sweep: the cards of a task that differ in one setting, by its values, all other settings being equal."""

import difflib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isoalign.core.display import clean, plain
from isoalign.core.errors import UserError
from isoalign.core.objective import Objective, objective_of
from isoalign.core.records import Card
from isoalign.core.store import digest
from isoalign.evaluation.card import file_name, package_of
from isoalign.report.board.columns import metric
from isoalign.report.board.names import distinct_names
from isoalign.report.board.ranking import pooled_estimates, seeds_of
from isoalign.report.board.rows import (
    METHOD,
    REFERENCE,
    UNMETERED,
    Row,
    flatten,
    newest_versions,
    outdated_families,
    part_of,
    row_flags,
    stage_identity,
    task_of,
)
from isoalign.report.board.sections import PROTOCOL
from isoalign.report.leaderboard import ordered

ACCURACIES = {"rm_accuracy": "with noise", "rm_accuracy_clean": "without noise"}
# Settings that change the SFT base; along any other axis all cards have one base.
_BASE_SETTINGS = ("task.model.", "task.sft.", "task.prompts.words")
_REFUSED = {
    "task.evaluation": "sets how runs are measured, and runs measured differently can't be compared",
    "task.budgets": "only names budgets",
}
_SHOWN = 3  # differing settings of a card that are listed


@dataclass(frozen=True)
class Sweep:
    """``rows`` by axis value, from the lowest, and by name. Their cards differ only in seed, method and ``key``; what they
    agree in is ``setting``, by dotted key. ``left_out``: reason to the files of the cards that were left out."""

    task: str
    key: str
    rows: dict[float, dict[str, Row]]
    setting: dict[str, Any]
    left_out: dict[str, list[str]]

    @property
    def objective(self) -> Objective:
        """What its cards are ranked by."""
        return objective_of(self.cards[0])

    @property
    def cards(self) -> list[Card]:
        """Every card of the sweep, once."""
        cards = [card for rows in self.rows.values() for row in rows.values() for card in row.cards]
        return list({id(card): card for card in cards}.values())


@dataclass(frozen=True)
class _Placed:
    """A card at an axis value; ``value`` is None for a card that belongs to every axis value."""

    card: Card
    value: float | None
    setting: dict[str, Any]

    @property
    def held_out(self) -> str:
        return stage_identity(self.card, "held_out")


def collect_sweep(cards: Iterable[Card], key: str) -> Sweep:
    """The largest set of cards that differ only in method, seed and ``key``, a dotted key of the configuration.

    Largest: with most values of the key, then methods, then cards. Raises UserError for a key that can't be an axis or that no
    card has, for a value that is not a number, and if no method has two values.
    """
    _check_key(key)
    cards = ordered(cards)
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    placed = []
    for card in cards:
        configured = {"algorithm": card.config.get("algorithm"), "task": task_of(card), "budget": card.budget}
        why, value = _place(card, configured, key)
        if why:
            left_out[why].append(file_name(card))
        else:
            placed.append(_Placed(card, value, _setting(card, configured["task"], key)))
    if not any(one.value is not None for one in placed):
        raise UserError(_no_card(key, cards, left_out))
    setting = _largest(placed)
    kept, others = _comparable(placed, setting)
    for why, files in others.items():
        left_out[why] += files
    values = sorted({one.value for one in kept if one.value is not None and part_of(one.card) == METHOD})
    left_out["no method at its axis value"] += [file_name(one.card) for one in kept if one.value not in (*values, None)]
    rows = _rows(kept, values, key)
    methods = Counter(name for own in rows.values() for name, row in own.items() if row.part == METHOD)
    if not methods or max(methods.values()) < 2:
        raise UserError(_too_few(key, kept, values, left_out))
    return Sweep(cards[0].task, key, rows, setting, {why: files for why, files in sorted(left_out.items()) if files})


def _check_key(key: str) -> None:
    for name, why in _REFUSED.items():
        if f"{key}.".startswith(f"{name}."):
            raise UserError(f"{key} can't be an axis: it {why}")
    section, _, last = key.rpartition(".")
    if last == "seed":
        raise UserError(f"{key} can't be an axis: seeds have no order, and scores are means over them")
    if section.split(".")[0] not in ("task", "algorithm", "budget"):
        raise UserError(
            f"{key!r} can't be an axis; name a setting of task, algorithm or budget, for example task.feedback.noise"
        )


def _place(card: Card, configured: Mapping[str, Any], key: str) -> tuple[str, float | None]:
    """The reason why a card is left out, or "" and its axis value; None for the base along a setting of algorithms."""
    part = part_of(card)
    if part == UNMETERED:
        return "made outside isoalign, so not part of a sweep", None
    objective = objective_of(card)
    if seeds_of([card], objective.level) is None:
        return f"no {objective.noun} by prompt, as on cards of older versions", None
    if part == REFERENCE and key.startswith(("algorithm.", "budget.")):
        return "", None
    value: Any = configured
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return f"{card.algorithm} has no {key}", None
        value = value[name]
    if isinstance(value, dict):
        raise UserError(f"{key} is a section; name one of its settings: {', '.join(map(clean, value)) or 'it has none'}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        shown = clean(value if isinstance(value, str) else json.dumps(value))
        raise UserError(f"{key} is {shown!r} on {file_name(card)}, but an axis needs numbers; name another setting")
    return "", float(value)


def _no_card(key: str, cards: Sequence[Card], left_out: Mapping[str, Sequence[str]]) -> str:
    """The error line if all cards are left out: the nearest existing key, or the reasons."""
    known = {name for card in cards for name in flatten({name: card.config.get(name) for name in ("algorithm", "task")})}
    near = difflib.get_close_matches(key, sorted(known), n=1)
    if near and near[0] != key:
        return f"no card has {key}; did you mean {clean(near[0])!r}?"
    return f"no card can be used along {key}: {_left_out_phrase(left_out) or 'all are of the base'}"


def _setting(card: Card, task: Any, key: str) -> dict[str, Any]:
    """What cards must agree in to be compared, by dotted key. Held-out pairs depend on the feedback, so along a setting of the
    task they are compared within each axis value."""
    setting = {name: value for name, value in flatten({"task": task}).items() if not name.startswith("task.budgets")}
    if part_of(card) != REFERENCE:  # the base spends nothing, so it is the reference under every budget
        setting |= {f"budget.{name}": float(limit) for name, limit in sorted(card.budget.items()) if limit is not None}
    setting.pop(key, None)
    setting |= {f"notes.{name}": card.notes[name] for name in PROTOCOL if name in card.notes}
    setting |= {
        "the annotators": card.parents.get("annotators", ""),
        "the prompts": digest(sorted(card.values[objective_of(card).level])),
    }
    if not key.startswith(_BASE_SETTINGS):
        setting["the weights of the SFT base"] = stage_identity(card, "sft")
    if key.startswith(("algorithm.", "budget.")):
        setting["the held-out pairs"] = stage_identity(card, "held_out")
    return setting


def _largest(placed: Sequence[_Placed]) -> dict[str, Any]:
    """The setting of the methods' cards with most axis values, methods and cards; the cheapest of equal ones."""
    groups: defaultdict[str, list[_Placed]] = defaultdict(list)
    for one in placed:
        if part_of(one.card) == METHOD:
            groups[json.dumps(one.setting, sort_keys=True)].append(one)

    def size(text: str) -> tuple[float, ...]:
        group = groups[text]
        values, methods = {one.value for one in group}, {one.card.algorithm for one in group}
        return len(values), len(methods), len(group), -group[0].setting.get("budget.flops", 0.0)

    return groups[max(sorted(groups), key=size)][0].setting if groups else placed[0].setting


def _comparable(placed: Sequence[_Placed], setting: Mapping[str, Any]) -> tuple[list[_Placed], dict[str, list[str]]]:
    """The cards of a setting whose scores are of one version and, at each axis value, of one feedback; and why others are
    left out."""
    same = [one for one in placed if not _difference(one, setting)]
    newest = newest_versions(one.card for one in same)
    kept: list[_Placed] = []
    others: defaultdict[str, list[str]] = defaultdict(list)
    pairs: defaultdict[float | None, Counter[str]] = defaultdict(Counter)
    for one in same:
        pairs[one.value][one.held_out] += 1
    for one in placed:
        why = _difference(one, setting) or _outdated(one.card, newest)
        if not why and one.held_out != max(sorted(pairs[one.value]), key=pairs[one.value].__getitem__):
            why = "other held-out pairs than most at its axis value"
        if why:
            others[why].append(file_name(one.card))
        else:
            kept.append(one)
    return kept, others


def _difference(one: _Placed, setting: Mapping[str, Any]) -> str:
    """In which settings a card differs from a setting, or else in what was made from them; empty if it does not."""
    own = dict(one.setting)
    if part_of(one.card) == REFERENCE:
        own |= {name: limit for name, limit in setting.items() if name.startswith("budget.")}
    names = [name for name in sorted({*own, *setting}) if own.get(name) != setting.get(name)]
    results = [name for name in names if name.startswith("the ")]
    changed = [f"{name}={_short(own.get(name))}, not {_short(setting.get(name))}" for name in names if name not in results]
    more = [f"{len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
    return "; ".join([*changed[:_SHOWN], *more] or [f"{name} differ" for name in results])


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else plain(value)


def _outdated(card: Card, newest: Mapping[str, str]) -> str:
    """The version that scored it, if not the newest; else empty."""
    row = Row(card.algorithm, part_of(card), (card,), {}, (), outdated_families(card, newest))
    if not row.is_outdated(row.objective.level):
        return ""
    versions = ", ".join(f"{family} {own}, the newest is {latest}" for family, (own, latest) in row.outdated.items())
    command = f"isoalign rescore --metric {' --metric '.join(row.outdated)} FILES"
    return f"scored with {versions} (in the folder of the cards: {command})"


def _too_few(key: str, kept: Sequence[_Placed], values: Sequence[float], left_out: Mapping[str, Sequence[str]]) -> str:
    """The error line if no method has a second value, with the command that makes one."""
    cards = [one.card for one in kept if part_of(one.card) == METHOD]
    methods = ",".join(sorted({clean(card.algorithm) for card in cards})) or "ppo,dpo"
    seeds = ",".join(map(str, sorted({card.seed for card in cards} or {0})))
    task = clean(kept[0].card.task) if kept else "TASK"
    existing = ",".join(map(plain, values)) or "VALUE"
    without = f" ({phrase})" if (phrase := _left_out_phrase(left_out)) else ""
    return (
        f"no method has two values of {key} (found: {existing if values else 'none'}){without}; make another with: "
        f"isoalign run -m task={task} algorithm={methods} {key}={existing},ANOTHER seed={seeds}"
    )


def _left_out_phrase(left_out: Mapping[str, Sequence[str]]) -> str:
    """The number of cards left out, with the most frequent reason; empty without any."""
    most = max(left_out, key=lambda why: len(left_out[why]), default="")
    count = sum(map(len, left_out.values()))
    return f"{count} card{'s' * (count > 1)} left out, for example for: {clean(most)}" if count else ""


def _rows(kept: Sequence[_Placed], values: Sequence[float], key: str) -> dict[float, dict[str, Row]]:
    """Rows by axis value and name, with the seeds of a method in one row; names contain the settings that differ, but for
    ``key``."""
    methods: defaultdict[tuple[str, str, str], list[_Placed]] = defaultdict(list)
    for one in kept:
        settings = flatten({"algorithm": one.card.config.get("algorithm")})
        settings.pop(key, None)
        methods[one.card.algorithm, json.dumps(settings, sort_keys=True), package_of(one.card)].append(one)
    firsts = [replace(own[0].card, config=json.loads(method[1])) for method, own in methods.items()]
    newest = newest_versions(one.card for one in kept)
    rows: dict[float, dict[str, Row]] = {value: {} for value in values}
    for name, own in zip(distinct_names(firsts), methods.values(), strict=True):
        for value in values:
            if cards := [one.card for one in own if one.value in (value, None)]:
                rows[value][name] = _row(name, cards, newest)
    return rows


def _row(name: str, cards: Sequence[Card], newest: Mapping[str, str]) -> Row:
    outdated = {family: pair for card in cards for family, pair in outdated_families(card, newest).items()}
    objective = objective_of(cards[0])
    shown = (objective.level, *ACCURACIES)
    metrics = pooled_estimates(cards, {each: metric(each, objective).bounds for each in shown})
    return Row(name, part_of(cards[0]), tuple(cards), metrics, tuple(row_flags(cards)), outdated)
