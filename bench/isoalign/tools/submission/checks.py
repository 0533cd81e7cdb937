"""What a card must be to stand on a published board; what is not is refused in one line.

The same checks hold for who submits, with the store of the run, and for who is asked to publish, with the card alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from isoalign import stats
from isoalign.config.fill import build_config
from isoalign.config.task import TaskConfig
from isoalign.config.training import OF_THE_MACHINE
from isoalign.core import plugins
from isoalign.core.errors import UserError
from isoalign.core.objective import objective_of
from isoalign.core.places import CONF, is_plain
from isoalign.core.records import Budget, Card
from isoalign.core.store import Store
from isoalign.evaluation import metrics, packs
from isoalign.evaluation.card import FAMILY, file_name, read_unchanged, to_json
from isoalign.runs.overrides import task_named
from isoalign.runs.pipeline import Run
from isoalign.stages.shared import SharedStages
from isoalign.tools.submission.figures import wrong_figures
from isoalign.tools.verify import Report, verify
from isoalign.training import registry

PUBLISHED, ELSEWHERE = "published", "elsewhere"  # below results/: cards on the published base, and on that of other machines
BASE = "sft"
NOWHERE = Store(Path(os.devnull))  # holds no stage
AGAIN = "run it again by its command with this version"


@dataclass(frozen=True)
class Checked:
    """A card that may be published. ``place``: where, below results/; ``text``: the file; ``original``: the published card
    of this run on another machine, which it reproduces; ``package``: what provides the method, if not isoalign; ``report``:
    what `verify` finds."""

    card: Card
    place: Path
    text: str
    report: Report
    original: Card | None = None
    package: str = ""


def check(path: Path, results: Path, store: Store | None = None, beside: Sequence[Path] = ()) -> Checked:
    """Check a card against this version of isoalign, its tasks and what ``results``, the repository's, has published.

    With a store all behind the card is verified too. ``beside``: cards that are submitted with it. Raises UserError, in one
    line, for the first thing that is wrong.
    """
    card = read_unchanged(path)
    if card.digits is not None:
        raise UserError(f"{path} was rounded for publishing, which can't be checked again; submit the run's own card")
    if not card.seals:
        raise UserError(f"{path} has no seals: an older version of isoalign wrote it; {AGAIN}")
    if not card.metered:
        raise UserError(
            f"{path}: its completions were made outside isoalign, so nobody can run it again; it stays unpublished"
        )
    package = str((card.notes.get("packages") or {}).get("algorithm") or "")
    task = _check_task(card, path)
    _check_versions(card, path)
    _check_code(card, path, task, package)
    place, original = _place(card, path, results)
    others = [read_unchanged(file) for file in _others(results / place.parent, path)] + list(map(read_unchanged, beside))
    base = next((other for other in others if other.algorithm == BASE and _base(other) == _base(card)), None)
    if base is None and card.algorithm != BASE:
        raise UserError(
            f"{path}: the row of its SFT base is neither published nor submitted with it; add the card of algorithm={BASE}"
        )
    report = verify(path, store or NOWHERE)
    if report.wrong:
        raise UserError(f"{path}: {report.wrong[0]}; `isoalign verify` says all that was changed; {AGAIN}")
    if store and report.unchecked:
        raise UserError(
            f"{path}: {report.unchecked[0]}; a submission needs all behind it: name the store of the run (--store), or "
            "run it again by its command"
        )
    for line in wrong_figures(card, base if card.algorithm != BASE else None):
        raise UserError(f"{path}: {line}; {AGAIN}")
    return Checked(card, place, to_json(card, path), report, original, package)


def _check_task(card: Card, path: Path) -> TaskConfig:
    """The card's task, which must be one of this repository, with its settings and one of its budgets."""
    if not is_plain(card.task) or not (CONF / "task" / f"{card.task}.yaml").exists():
        raise UserError(f"{path}: task {card.task!r} is none of isoalign's; propose it as a task first (docs/submitting.md)")
    try:
        task: TaskConfig = build_config(TaskConfig, card.config.get("task"), "config.task")
    except UserError as error:
        raise UserError(f"{path}: another version of isoalign wrote it ({error}); {AGAIN}") from error
    known = _published_task(card.task).on_base(card.seed)
    for name, mine, published in _differences(asdict(task), asdict(known)):
        if name not in OF_THE_MACHINE:
            raise UserError(
                f"{path}: task.{name} is {mine!r}, and {published!r} in the task {card.task}; leave it out, or give the "
                "task another name and propose it"
            )
    budget = {name: value for name, value in card.budget.items() if value is not None}
    if budget not in [{"flops": flops} for flops in task.budgets.values()]:
        names = ", ".join(f"budget={name}" for name in task.budgets)
        raise UserError(f"{path}: its budget is none of the task's; boards take {names}")
    return task


@cache
def _published_task(name: str) -> TaskConfig:
    return task_named(name)


def _differences(mine: Any, other: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(mine, dict) and isinstance(other, dict) and mine.keys() == other.keys():
        for name in mine:
            yield from _differences(mine[name], other[name], f"{where}.{name}" if where else name)
    elif mine != other:
        yield where, mine, other


def _check_versions(card: Card, path: Path) -> None:
    """Metrics and statistics must be of this code's versions, or a board would mix two."""
    if (drawn := card.versions.get("statistics", "1")) != str(stats.VERSION):
        raise UserError(
            f"{path}: its intervals are of version {drawn} of the statistics, this code's {stats.VERSION}; {AGAIN}"
        )
    judged = "win_rate" in card.parents
    for name, version in metrics.versions(objective_of(card), judged).items():
        if name not in plugins.entry_points("metrics") and card.versions.get(FAMILY + name) != str(version):
            had = card.versions.get(FAMILY + name, "none")
            raise UserError(f"{path}: metric {name} is of version {had}, this code's {version}; use `isoalign rescore --all`")


def _check_code(card: Card, path: Path, task: TaskConfig, package: str) -> None:
    """The keys of base, feedback, training and samples must be those that this version's code and settings give."""
    shared = SharedStages(task, NOWHERE)
    made = {"sft": shared.sft, "pairs": shared.pairs("annotator")}
    if card.algorithm in registry.algorithm_names():
        run = _run_of(card, path, shared)
        made |= {"train": run.train} if run.trains else {}
        made |= {"held_out": run.held_out, "samples": run.samples}
    elif not package:
        raise UserError(f"{path}: no algorithm {card.algorithm!r} is known here, and the card names no package that has one")
    if other := [name for name, stage in made.items() if card.parents.get(name) != stage.key]:
        raise UserError(
            f"{path}: {', '.join(other)}: not made by the code and settings of this version (another version, or changed "
            f"code); {AGAIN}, or submit a changed method under a name of its own"
        )


def _run_of(card: Card, path: Path, shared: SharedStages) -> Run:
    try:
        with registry.sandboxed(card.algorithm):
            settings = build_config(registry.algorithm(card.algorithm), card.config.get("algorithm"), "config.algorithm")
            algorithm = registry.with_checked_settings(settings)
        budget = build_config(Budget, card.budget, "budget")
    except UserError as error:
        raise UserError(f"{path}: {error}; {AGAIN}") from error
    return Run(card.algorithm, algorithm, budget, card.seed, shared)


def source_of(checked: Checked, store: Store) -> str:
    """Digest of the code of a card's method, as its training was keyed; empty where nothing was trained."""
    shared = SharedStages(build_config(TaskConfig, checked.card.config["task"], "config.task"), store)
    run = _run_of(checked.card, checked.place, shared)
    return str(run.train.recipe["source"]) if run.trains else ""


def _place(card: Card, path: Path, results: Path) -> tuple[Path, Card | None]:
    """Where a card goes below results/, and the published card of the same run on another machine.

    Another processor gives the shared base other samples, and a board has one base: cards on another one than the published
    lie apart, in a folder named by it.
    """
    if not (results / PUBLISHED).is_dir():
        raise UserError(f"{results} has no folder {PUBLISHED}; type this in a clone of the repository, or name its --results")
    published = {file.name: read_unchanged(file) for file in _others(results / PUBLISHED / card.task, path)}
    name, original = file_name(card), None
    for other, theirs in published.items():
        if other != name and _identity(theirs) == _identity(card):
            raise UserError(
                f"{path}: {other} is this run by another version of the code, and a board has one version; its cards are made "
                "anew together (docs/submitting.md)"
            )
    place = Path(PUBLISHED, card.task, name)
    if any(_base(theirs) != _base(card) for theirs in published.values() if _base_key(theirs) == _base_key(card)):
        place, original = Path(ELSEWHERE, _base(card)[:8], card.task, name), published.get(name)
    for file in _others(results / place.parent, path):
        if file.name == name:
            same = packs.same_metrics(read_unchanged(file), card)
            more = "with the same figures: say in an issue that you reproduced it" if same else "with other figures"
            raise UserError(f"{path}: {place.as_posix()} is published already, {more} (docs/submitting.md)")
    return place, original


def _others(folder: Path, path: Path) -> list[Path]:
    """The cards of a folder, without one that is looked at, which in a pull request lies there already."""
    return [file for file in sorted(folder.glob("*.json")) if file.resolve() != path.resolve()]


def _base(card: Card) -> str:
    """Digest of the SFT base's samples, which says on what base a card is to the last digit."""
    return card.contents.get("samples" if card.algorithm == BASE else "base_samples", "")


def _base_key(card: Card) -> str:
    """Their key, which is the same on every machine."""
    return card.parents.get("samples" if card.algorithm == BASE else "base_samples", "")


def _identity(card: Card) -> Any:
    """What two cards of one run have in common, whatever code made them."""
    return card.algorithm, card.seed, card.budget, card.config.get("algorithm")
