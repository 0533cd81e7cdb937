"""Verifying a card: its seals, its key, the files of every stage behind it, and what can be computed again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from isoalign import stats
from isoalign.config.feedback import PanelConfig
from isoalign.config.fill import build_config
from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.manifests import MANIFEST, RECIPE, content
from isoalign.core.objective import objective_of
from isoalign.core.records import Card
from isoalign.core.store import Store, recipe_fields
from isoalign.evaluation import card as cards
from isoalign.evaluation import metrics, packs
from isoalign.evaluation.card import FAMILY
from isoalign.evaluation.kept import stage_of
from isoalign.evaluation.seals import broken_seals
from isoalign.evaluation.win_rate import WIN_RATE
from isoalign.tools.rescore import remeasured

TOLERANCE = 1e-9  # of a figure computed again; another processor may round its last bits otherwise
CLAIMS = (
    ("sft", "config", "config.task.sft"), ("sft", "words", "config.task.prompts.words"), ("sft", "seed", "config.task.seed"),
    ("completions", "draws", "config.task.feedback.draws"), ("completions", "prompts.count", "config.task.prompts.train"),
    ("completions", "prompts.clean", "config.task.prompts.clean"),
    ("pairs", "config", "config.task.feedback"), ("pairs", "config.noise", "notes.noise"),
    ("pairs", "panel", "config.task.panel"),
    ("held_out", "config", "config.task.feedback"), ("reward_", "config", "config.task.reward"),
    ("train", "algorithm", "algorithm"), ("train", "settings", "config.algorithm"), ("train", "seed", "seed"),
    ("train", "budget", "budget"), ("train", "model", "config.task.model"), ("train", "training", "config.task.training"),
    ("samples", "split", "config.task.evaluation.split"), ("samples", "split", "notes.split"),
    ("samples", "seed", "config.task.evaluation.seed"), ("samples", "draws", "config.task.evaluation.draws"),
    ("samples", "draws", "notes.draws"), ("samples", "prompts.count", "notes.prompts"),
    ("scores", "scorers.0", "config.task.evaluation.scorer"), ("scores", "scorers.0", "notes.scorer"),
    ("scores", "scorers.1", "config.task.evaluation.second_scorer"), ("scores", "scorers.1", "notes.second_scorer"),
    (WIN_RATE, "judge.kind", "config.task.evaluation.win_rate.judge.kind"),
    (WIN_RATE, "draws", "config.task.evaluation.win_rate.draws"),
    (WIN_RATE, "criterion", "config.task.evaluation.win_rate.criterion"),
    ("scores", "shaping", "config.task.shaping"), ("train", "rounds", "config.task.rounds"),
)  # fmt: skip
"""Stages behind a card (how their names begin), an entry of their recipes, and where the card says the same."""
SUBJECTS = ("task", "method", "seed", "budget")
ABSENT: dict[str, Any] = {"shaping": {}, "rounds": {}, "panel": asdict(PanelConfig()) | {"temperature": [0.0]}}
"""What a recipe means that has no such entry."""


@dataclass
class Report:
    """``wrong``: what was changed; ``checked``: what is unchanged; ``unchecked``: what could not be checked, and why."""

    wrong: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def add(self, found: list[str], what: str) -> None:
        """Note what is wrong with something, or that it holds."""
        self.wrong += found
        if not found:
            self.checked.append(what)


def verify(path: Path, store: Store) -> Report:
    """Check a card and the chain behind it: configuration -> data -> checkpoint -> samples -> scores -> metrics -> card.

    Raises UserError for a file that is not a card.
    """
    card, report = cards.read_card(path), Report()
    if card.seals:
        changed = [f"{name}: changed since the card was written" for name in broken_seals(card)]
        report.add(changed + _odd_numbers(path), f"the card's {len(card.seals)} entries agree with their seals")
    elif broken_seals(card):
        report.wrong.append("seals: missing")
    else:
        report.unchecked.append("the card has no seals: an older version wrote it")
    if card.seals:
        wrong = [] if cards.key_of(card) == card.key else [f"key: {card.key} does not match the card's scores and settings"]
        report.add(wrong, "its key matches its scores, settings, seed and budget")
    report.add(_unexplained(card), "every metric belongs to a family with a version")
    if _check_chain(card, store, report):
        _check_claims(card, store, report)
        _check_record(card, store, report)
        _check_figures(card, store, report)
    else:
        report.unchecked.append("metrics were not computed again: the stages behind them were changed")
    return report


def _odd_numbers(path: Path) -> list[str]:
    """Numbers that are not written as isoalign writes them: the last of 17 digits may change and the number stay the same."""
    found: list[str] = []

    def look(number: str) -> float:
        if repr(float(number)) != number:
            found.append(number)
        return float(number)

    lines = path.read_text(encoding="utf-8").splitlines()
    json.loads("\n".join(lines), parse_float=look)
    where = {number: next(i for i, line in enumerate(lines, start=1) if number in line) for number in found}
    return [f"line {line}: {number}, which isoalign would write as {float(number)!r}" for number, line in where.items()]


def _unexplained(card: Card) -> list[str]:
    """Metrics that belong to no family, and families without a version."""
    if not card.families:
        return []
    given = {figure for figures in card.families.values() for figure in figures}
    lost = [f"metrics.{name}: belongs to no family" for name in sorted(card.metrics.keys() - given)]
    return lost + [f"versions.{FAMILY}{name}: missing" for name in card.families if FAMILY + name not in card.versions]


def _check_claims(card: Card, store: Store, report: Report) -> None:
    """Compare task, method, seed and budget on the card with the recipes of its stages that the store has."""
    claimed = asdict(replace(card, values={}, curve=[], metrics={}))
    claimed["config"]["task"] = _as_recipes_have(claimed["config"].get("task"))
    wrong: list[str] = []
    compared: set[str] = set()
    if (name := _at(claimed, "config.task.name")) not in (None, card.task):
        wrong.append(f"task: {card.task} on the card, {name} in its configuration")
    policy = f"train-{card.parents['train']}/policy" if "train" in card.parents else f"sft-{card.parents.get('sft')}"
    wrong += _differences(card.training.get("policy", policy), policy, "training.policy", "by its stages")
    for parents, entry, place in CLAIMS:
        for name in (name for name in card.parents if name.startswith(parents)):
            folder = store.find(card.parents[name])
            recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8")) if folder else {}
            made_by = _at(recipe, entry)
            if place == "notes.noise" and "unpaired" in card.parents:
                continue  # of the simulated verdicts beside people's labels, which are not flipped
            if place == "notes.prompts":
                made_by = made_by or None  # 0 takes all that there are, which the samples show
            if entry in ABSENT and folder and made_by is None:
                made_by = ABSENT[entry]
            if made_by is not None:
                compared.add(_subject(place))
                mine = _at(claimed, place)
                if entry == "training":  # when a checkpoint is written, or patience ends, changes no figure
                    mine, made_by = ({**each, "checkpoint_seconds": None, "idle_seconds": None} for each in (mine, made_by))
                if entry == "config" and "demonstrations" in recipe:  # the digest of their rows, wherever they lie
                    mine, made_by = ({**each, "source": None} for each in (mine, made_by))
                wrong += _differences(mine, made_by, place, f"in the recipe of {name}")
    there = sum(store.find(key) is not None for key in card.parents.values())
    which = "the stages" if there == len(card.parents) else f"the {there} stages that are there"
    told = [subject for subject in SUBJECTS if subject in compared]
    if told:
        report.add(wrong, f"{_listed(told)} match{'es' * (len(told) == 1)} the recipes of {which}")
    else:
        report.wrong += wrong
    expected = SUBJECTS if "train" in card.parents else SUBJECTS[:1]
    if lacking := [subject for subject in expected if subject not in compared]:
        were = "was" if len(lacking) == 1 else "were"
        report.unchecked.append(f"{_listed(lacking)} {were} not compared: the stages' recipes have them")


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _subject(place: str) -> str:
    """What a place on the card belongs to."""
    return {"algorithm": "method", "config.algorithm": "method", "seed": "seed", "budget": "budget"}.get(place, "task")


def _as_recipes_have(task: Any) -> Any:
    """A card's task without the settings that came later and are at their default; as it is, if another version wrote it."""
    try:
        built = build_config(TaskConfig, task, "config.task")
    except UserError:
        return task
    return json.loads(json.dumps(built, default=recipe_fields))


def _at(data: Any, place: str) -> Any:
    """The value at a dotted path; None if there is none."""
    for step in place.split("."):
        data = data.get(step) if isinstance(data, dict) else data[int(step)] if isinstance(data, list | tuple) else None
    return data


def _check_chain(card: Card, store: Store, report: Report) -> bool:
    """Every stage behind the card, and behind those: recipe against key, files against manifest, manifest against child."""
    waiting: list[Path] = []
    seen: set[str] = set()
    wrong: list[str] = []
    if absent := [f"{name} ({key})" for name, key in card.parents.items() if store.find(key) is None]:
        report.unchecked.append(
            f"of {len(card.parents)} stages, {len(absent)} are not in the store {store.root}: {', '.join(absent)}"
        )
    for name, key in card.parents.items():
        if (folder := store.find(key)) is None:
            continue
        if card.contents and content(folder) != card.contents.get(name):
            wrong.append(f"{folder.name}/{MANIFEST}: not the one that the card was made from")
        waiting.append(folder)
    while waiting:
        folder = waiting.pop()
        if folder.name in seen:
            continue
        seen.add(folder.name)
        if not (folder / MANIFEST).exists():  # one that is gone is missed by the card, or by its child's manifest
            report.unchecked.append(f"{folder.name}: has no {MANIFEST}: an older version made it")
            continue
        try:
            wrong += store.changes(folder)
            waiting += store.parents(folder)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            wrong.append(f"{folder.name}: its {RECIPE} or {MANIFEST} was changed ({type(error).__name__}: {error})")
    if seen:
        report.add(wrong, f"the files of {len(seen)} stages match their manifests")
    return not wrong


def _check_record(card: Card, store: Store, report: Report) -> None:
    """Bill and training against what training left on record, the annotators' agreement against its own."""
    wrong: list[str] = []
    try:
        if "agreement" in card.parents:
            recorded = json.loads((stage_of(card, store, "agreement") / "correlation.json").read_text())
            wrong += _differences(card.notes.get("correlation"), recorded, "notes.correlation", "on record")
        if "train" in card.parents:
            record = json.loads((stage_of(card, store, "train") / "record.json").read_text())
            spent, on_record = ({**each, "seconds": None} for each in (card.spent, record["spent"]))  # decide nothing
            wrong += _differences(spent, on_record, "spent", "on record")
            told = {name: value for name, value in card.training.items() if name != "policy"}  # a place, compared above
            recorded = {name: record[name] for name in told.keys() & record.keys()}
            wrong += _differences(told, recorded, "training", "on record")
            if card.seals and record["snapshots"] and not card.curve:
                wrong.append("curve: missing, though the record has snapshots")
        elif card.metered and card.spent["flops"]:
            wrong.append(f"spent.flops: {card.spent['flops']} on a card without training")
    except UserError:
        return  # already reported by _check_chain
    report.add(wrong, "bill and training match the record of training")


def _check_figures(card: Card, store: Store, report: Report) -> None:
    """Every figure computed again from the scores by the families that are still of the card's version."""
    families = metrics.versions(objective_of(card), WIN_RATE in card.parents)
    now = {FAMILY + name: str(version) for name, version in families.items()}
    on_card = {name: version for name, version in card.versions.items() if name.startswith(FAMILY)}
    if (drawn := card.versions.get("statistics", "1")) != str(stats.VERSION):
        versions = f"version {drawn} of the statistics, this code's of {stats.VERSION}"
        report.unchecked.append(f"metrics: the card's intervals are of {versions}")
        return
    for name in sorted(name for name in on_card if now.get(name) != on_card[name]):
        report.unchecked.append(f"{name}: the card has version {on_card[name]}, this code {now.get(name, 'none')}")
    same = [name.removeprefix(FAMILY) for name in on_card if now.get(name) == on_card[name]]
    if not same:
        report.unchecked.append("metrics were not computed again: none is of this code's version")
        return
    try:
        found = remeasured(card, store, same)
    except UserError as error:
        report.unchecked.append(f"metrics were not computed again: {error}")
        return
    except Exception as error:  # of a changed card; its broken seals are already reported
        report.unchecked.append(f"metrics could not be computed again: {type(error).__name__}: {error}")
        return
    wrong = []
    whole = len(same) == len(now) == len(on_card)  # flags rest on all families together
    for name in ("metrics", "data", "values", "curve", *(["flags"] if whole else [])):
        mine, theirs = (asdict(replace(c, seals={}))[name] for c in (card, found))
        if name == "data" and not mine:
            continue  # of a card that was written before there was such a field
        wrong += _differences(mine, theirs, name, digits=card.digits)
    done = sum(name in card.metrics for family in same for name in found.families.get(family, []))
    report.add(wrong, f"{done} metrics, computed again from the scores, match the card")


def _differences(on_card: Any, found: Any, where: str, source: str = "computed again", digits: int | None = None) -> list[str]:
    """Places where two plain values differ by more than rounding; ``digits``: those of a published card."""
    if isinstance(on_card, dict) and isinstance(found, dict):
        names = sorted(on_card.keys() | found.keys())
        both_of = ((on_card.get(name), found.get(name), f"{where}.{name}") for name in names)
        return [line for both in both_of for line in _differences(*both, source, digits)]
    if isinstance(on_card, list) and isinstance(found, list) and len(on_card) == len(found):
        numbered = enumerate(zip(on_card, found, strict=True))
        return [line for i, both in numbered for line in _differences(*both, f"{where}[{i}]", source, digits)]
    if isinstance(on_card, float | int) and isinstance(found, float | int):
        slack = packs.shift(where, found, digits) if digits else 0.0
        same = abs(on_card - found) <= slack + TOLERANCE * max(1.0, abs(on_card), abs(found))
    else:
        same = on_card == found
    return [] if same else [f"{where}: {on_card} on the card, {found} {source}"]
