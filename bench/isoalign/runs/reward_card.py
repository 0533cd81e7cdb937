"""The card of a task's reward model: its cost, its accuracy and calibration, and its accuracy on pairs that people scored.

Its metrics are those of every method's card with the same reward model, from the same stages: samples and scores of the SFT
row. In addition it has strata of the prompts, disagreement within an ensemble, and pairs scored by people, which no part of
the task has seen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isoalign import stats
from isoalign.config.feedback import PanelConfig
from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError, unknown
from isoalign.core.files import save
from isoalign.core.manifests import content
from isoalign.core.records import Estimate
from isoalign.core.redaction import redact
from isoalign.core.store import Store, digest
from isoalign.data import assets, human_pairs
from isoalign.data.preferences import Feedback
from isoalign.evaluation import human, metric_values, samples, scores
from isoalign.evaluation.human import JudgedPair
from isoalign.evaluation.metrics import ScoredSamples, reward_accuracy, reward_health
from isoalign.evaluation.metrics.scored_samples import by_prompt
from isoalign.evaluation.reward_model_card import Group, Human, Members, RewardCard
from isoalign.models import loading
from isoalign.models.reward import Rewarder
from isoalign.report.pages.reward_model import reward_chart, reward_page
from isoalign.runs.card import packages
from isoalign.runs.pipeline import RewardSource, Run, base_run
from isoalign.stages import pairs
from isoalign.stages.shared import SharedStages
from isoalign.stages.stage import Stage
from isoalign.stats import Values

FORMAT = "reward 1"
VERSION = 1
ASSET = "human_scored"
FAMILIES = ("calibration", "reward_accuracy", "reward_health")
OF_THE_MODEL = ("rm_", "proxy_reward", "reward_spread")  # the families' other figures are of the policy

TRANSFER = (
    "The human-scored pairs are answers to harmful requests, unlike the comments of these tasks: low accuracy shows how far "
    "this reward generalises, not that it fails here."
)


@dataclass(frozen=True)
class RewardCardStages:
    """The stages behind the card of the reward model that learned by ``by``'s verdicts."""

    shared: SharedStages
    by: str

    @property
    def base(self) -> Run:
        """The SFT row, whose samples the reward model reads; it needs no budget."""
        return base_run(self.shared)

    @property
    def source(self) -> RewardSource:
        """The reward model."""
        return RewardSource.shared(self.shared, self.by)

    @property
    def held_out(self) -> Stage:
        """Held-out verdicts: the annotator's, whoever's verdicts it was trained on."""
        return self.shared.pairs("annotator", self.shared.task.evaluation.split)

    @property
    def scores(self) -> Stage:
        """What it says of the SFT row's samples, of the held-out and of the validation pairs."""
        return self.base.scores(self.base.samples, self.source)

    @property
    def human(self) -> Stage:
        """What it says of the answers that people scored."""
        shared, task = self.shared, self.shared.task
        recipe = {
            "version": human.VERSION, "data": assets.ASSETS[ASSET].sha256, "gap": human_pairs.GAP,
            "reward": self.source.key, "model": task.model, "shaping": task.shaping,
        }  # fmt: skip

        def make(work: Path) -> None:
            human.make_human_scores(
                work,
                human_pairs.load_human_pairs(),
                shared.reward(self.by),
                loading.task_tokenizer(task.model),
                task.model,
            )

        return Stage("human", recipe, make)

    @property
    def members(self) -> Stage | None:
        """What each member of an ensemble says of the held-out pairs."""
        shared, each = self.shared, list(self.shared.reward_models(self.by).values())
        if len(each) == 1:
            return None
        normalise = shared.task.shaping.normalise
        recipe = {"version": 1, "members": [stage.key for stage in each], "held_out": self.held_out.key}
        recipe |= {"normalise": normalise}

        def make(work: Path) -> None:
            judged, pad = (
                Feedback.read(shared.get(self.held_out)),
                loading.task_tokenizer(shared.task.model).pad_token_id,
            )
            both = samples.chosen_and_rejected(judged, int(pad))
            models = [shared.load_reward(shared.get(stage)) for stage in each]
            said = [[scores.rewards_of(model, side) for side in both.values()] for model in models]
            margins = [[round(a - b, 5) for a, b in zip(*sides, strict=True)] for sides in said]
            prompts = [row["prompt_id"] for row in judged.rows]
            (work / "members.json").write_text(json.dumps({"prompts": prompts, "margins": margins}))

        return Stage("members", recipe, make)

    @property
    def all(self) -> dict[str, Stage]:
        """Every stage, by the names that a method's card gives them."""
        shared, base = self.shared, self.base
        stages = {"sft": shared.sft, "completions": shared.completions("train"), "annotators": shared.annotators}
        stages |= {"pairs": shared.pairs(self.by), "held_out": self.held_out}
        stages |= shared.reward_models(self.by)
        stages |= {"samples": base.samples, "scores": self.scores, "human": self.human}
        return stages | ({"members": self.members} if self.members else {})


def make_reward_card(task: TaskConfig, store: Store, by: str, command: str) -> RewardCard:
    """Make missing stages and return the card.

    Raises UserError before anything is trained where there is no such reward model, or no answers that people scored.
    """
    if by not in pairs.SOURCES:
        raise UserError(unknown("value of --by", by, sorted(pairs.SOURCES)))
    if task.known_reward and by == "annotator":
        raise UserError(
            f"task.known_reward: the reward is {task.evaluation.scorer} itself, so there is no reward model by the annotator "
            "to describe; use --by judge"
        )
    shared = SharedStages(task, store)
    shared.check_fits(by)
    if shared.unpaired_stage:
        raise UserError(
            f"task.feedback.file {task.feedback.file} holds unpaired feedback; a reward model is trained on comparisons"
        )
    human_pairs.load_human_pairs()
    shared.get(shared.preflight(task.model.lora))
    return _card(RewardCardStages(shared, by), command)


def _card(behind: RewardCardStages, command: str) -> RewardCard:
    shared, task = behind.shared, behind.shared.task
    stages = behind.all
    folders = {name: shared.get(stage) for name, stage in stages.items()}
    scored = scores.read_scored_samples(folders["scores"])
    found = metric_values.measure_metrics(scored, FAMILIES)
    judged, cut = human.read_human_scores(folders["human"])
    parents = {name: stage.key for name, stage in stages.items()}
    versions = {f"metric {name}": str(version) for name, version in found.versions.items()}
    versions |= {"card": str(VERSION), "statistics": str(stats.VERSION)}
    known = not task.feedback.file  # a file does not say which of its verdicts are wrong
    return RewardCard(
        key=digest({"parents": parents, "versions": versions}),
        task=task.name, by=behind.by, settings=redact(_settings(task)), command=redact(command),
        bill=bill(shared.reward(behind.by), shared.feedback(behind.by)),
        warnings=reward_health.warnings(found.metrics),
        ceiling=1 - task.feedback.noise if known and task.panel == PanelConfig() else None,
        unflipped=_unflipped(scored) if known else None,
        metrics={name: each for name, each in sorted(found.metrics.items()) if name.startswith(OF_THE_MODEL)},
        groups=groups(scored),
        reliability=found.data.get("calibration", {}).get("reliability", []),
        members=_members(folders["members"]) if "members" in folders else None,
        human=judgement(judged, cut),
        notes=_notes(task),
        parents=parents,
        contents={name: content(folder) for name, folder in folders.items()},
        versions=packages() | versions,
    )  # fmt: skip


def _settings(task: TaskConfig) -> dict[str, Any]:
    kept = ("model", "reward", "shaping", "feedback", "panel", "prompts", "seed")
    split = {"split": task.evaluation.split, "scorer": task.evaluation.scorer, "draws": task.evaluation.draws}
    return {name: value for name, value in asdict(task).items() if name in kept} | {"evaluation": split}


def _notes(task: TaskConfig) -> list[str]:
    model = task.model
    return [
        f"Only the last {model.prompt_tokens} tokens of an objective and the first {model.new_tokens} of an answer are read, "
        "as everywhere in this task. Ties count half.",
        TRANSFER,
    ]


def bill(rewarder: Rewarder, feedback: Feedback) -> dict[str, Any]:
    """What a method pays at its first call: ``items`` by role and kind and their sum ``flops``, of which ``training`` is the
    reward model's own; ``verdicts`` by source; ``seconds`` of training, as they were measured."""
    verdicts = rewarder.verdicts()
    items: Counter[tuple[str, str]] = Counter()
    for role, flops in feedback.price(verdicts.get(feedback.source, [])).items():
        items[role, "sample" if role == "feedback" else "forward"] += flops
    for role, kind, flops in rewarder.training_bill():
        items[role, kind] += flops
    return {
        "flops": items.total(), "training": sum(flops for (role, _), flops in items.items() if role == "reward"),
        "verdicts": {source: len(read) for source, read in sorted(verdicts.items())}, "seconds": rewarder.seconds(),
        "items": [{"role": role, "kind": kind, "flops": flops} for (role, kind), flops in sorted(items.items())],
    }  # fmt: skip


def group(grid: Values) -> Group:
    """The mean of some pairs, by what they belong to."""
    return Group(replace(stats.mean(grid), n=sum(map(len, grid.values()))), len(grid))


def _unflipped(scored: ScoredSamples) -> Estimate | None:
    pairs = scored.pairs
    return group(by_prompt([float(p.clean) for p in pairs], [p.prompt_id for p in pairs])).estimate if pairs else None


def groups(scored: ScoredSamples) -> dict[str, dict[str, Group]]:
    """Accuracy on noisy and clean verdicts: of all held-out pairs, and by stratum and source of their prompts."""
    found = reward_accuracy.values(scored)
    grids = {name: found[name] for name in ("rm_accuracy", "rm_accuracy_clean") if name in found}
    members: dict[str, set[str]] = {"all": {pair.prompt_id for pair in scored.pairs}}
    for drawn in sorted(scored.samples, key=lambda s: (s.stratum, s.source)):
        for name in filter(None, (drawn.stratum and f"stratum {drawn.stratum}", drawn.source and f"source {drawn.source}")):
            members.setdefault(name, set()).add(drawn.prompt_id)
    order = sorted(members, key=lambda name: (name != "all", not name.startswith("stratum"), name))
    cut = {name: {figure: _only(grid, members[name]) for figure, grid in grids.items()} for name in order}
    return {name: {figure: group(grid) for figure, grid in part.items()} for name, part in cut.items() if any(part.values())}


def _only(grid: Values, prompts: set[str]) -> Values:
    return {prompt: row for prompt, row in grid.items() if prompt in prompts}


def judgement(judged: Sequence[JudgedPair], cut: human.Cut) -> Human:
    """Accuracy on human pairs: over all, with each objective counting once, and by category of harm."""

    def grid(some: Sequence[JudgedPair]) -> Values:
        return by_prompt(
            [reward_accuracy.right(pair.chosen - pair.rejected) for pair in some], [pair.objective for pair in some]
        )

    whole = grid(judged)
    categories = by_prompt(judged, [pair.category for pair in judged])
    once = {objective: [sum(filter(None, row)) / len(row)] for objective, row in whole.items()}
    by_category = {name: group(grid(categories[name])) for name in sorted(categories)}
    return Human(group(whole), stats.mean(once), by_category, sum(pair.alike for pair in judged), cut)


def _members(folder: Path) -> Members:
    row = json.loads((folder / "members.json").read_text())
    return disagreement(np.array(row["margins"]), row["prompts"])


def disagreement(margins: stats.Array, prompts: Sequence[str]) -> Members:
    """How far members differ; ``margins`` [members, pairs] in favour of the verdict."""

    def mean(column: Any) -> Estimate:
        return group(by_prompt(list(map(float, column)), prompts)).estimate

    each = [mean([reward_accuracy.right(margin) for margin in own]) for own in margins.tolist()]
    return Members(each, mean(margins.std(0)), mean((margins > 0).all(0) | (margins < 0).all(0)))


def write_reward_card(card: RewardCard, results: Path) -> list[Path]:
    """Write the card into ``<results>/<task>/reward/`` as JSON and Markdown, with its chart; returns the paths.

    Boards read the cards of ``<results>/<task>/`` only. Raises UserError where a file can't be written.
    """
    if Path(card.task).name != card.task or card.task.startswith("."):
        raise UserError(f"task {card.task!r} can't be the name of a folder; change task.name")
    place = results / card.task / "reward" / f"{card.by}-{card.key[:8]}"
    made: Mapping[str, str | bytes | None] = {
        ".svg": reward_chart(card), ".md": reward_page(card, f"{place.name}.svg"),
        ".json": json.dumps({"format": FORMAT, **asdict(card)}, indent=1, allow_nan=False) + "\n",
    }  # fmt: skip
    paths = {place.with_name(place.name + end): made_of for end, made_of in made.items() if made_of is not None}
    for path, text in paths.items():
        save(path, text)
    return sorted(paths)
