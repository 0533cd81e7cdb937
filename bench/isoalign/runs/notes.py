"""The notes of a card: the conditions of the evaluation and the sources of feedback."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from isoalign.core import plugins
from isoalign.core.store import digest
from isoalign.evaluation import samples
from isoalign.evaluation.scores import weights_digest
from isoalign.models import reward_classifier
from isoalign.runs.flags import feedback_flags, record_of, score_flags, training_flags, verdicts_of, win_rate_flags
from isoalign.runs.pipeline import Run
from isoalign.runs.win_rate import protocol
from isoalign.stages.graph import StageGraph
from isoalign.stages.stage import Stage

KNOWN = "annotator, reward and objective are one known function ({}): no proxy gap"
CAVEAT = "Classifier scorers are weak on implicit hate and blind to threats; judge, annotator and scorers share Jigsaw data."


def make_notes(run: Run) -> dict[str, Any]:
    """The notes of a run's card."""
    config = run.task.evaluation
    flags = [*training_flags(run), *feedback_flags(run), *score_flags(run.shared.get(run.own_scores())), *win_rate_flags(run)]
    drawn = samples.read_samples(run.shared.get(run.samples))  # reading the prompts themselves takes seconds
    prompts = len({sample.prompt_id for sample in drawn})
    notes = {
        "prompts": prompts, "split": config.split, "draws": config.draws,
        "curve": f"{min(config.curve_prompts, prompts)} prompts, {config.curve_draws} draws",
        "scorer": config.scorer, "second_scorer": config.second_scorer,
        "noise": None if run.task.feedback.file else run.task.feedback.noise,  # people's verdicts are not flipped
        "correlation": json.loads((run.shared.get(run.agreement) / "correlation.json").read_text()),
        "tuning": run.tuning if run.trains else None, "caveat": CAVEAT if run.task.objective.is_toxicity else None,
    }  # fmt: skip
    notes |= {"scorer_weights": found} if (found := weights_digest(config)) else {}
    notes |= win_rate_notes(run, run.contests(run.samples))
    notes |= _known_reward(run) | _reward_model(run) | _plugin_packages(run) | _feedback_records(run)
    notes |= {"bases": found} if (found := _bases(run)) else {}
    return notes | ({"flags": list(map(asdict, flags))} if flags else {})


def _bases(run: Run) -> str:
    """All bases of a task of several, with their held-out pairs, as a word by which boards know them; empty for one."""
    task, split = run.task, run.task.evaluation.split
    if task.bases == 1:
        return ""
    first = replace(task, seed=task.seed - run.seed % task.bases)
    every = [StageGraph(first.on_base(number), run.shared.store) for number in range(task.bases)]
    return f"{task.bases} bases {digest([(one.sft.key, one.pairs('annotator', split).key) for one in every])}"


def _reward_model(run: Run) -> dict[str, Any]:
    """A reward model that was trained elsewhere."""
    name = run.task.reward.model.removeprefix("hf:")
    return {"reward_model": reward_classifier.about(name)} if name else {}


def win_rate_notes(run: Run, contests: Stage | None) -> dict[str, Any]:
    """By whom and against whom the win rate is measured, and what the judge was asked; nothing without one."""
    return {"win_rate": protocol(run.shared), "win_rate_judge": record_of(run, contests)} if contests else {}


def _known_reward(run: Run) -> dict[str, str]:
    """What a known reward means for the card; empty without one."""
    task = run.task
    if not task.known_reward:
        return {}
    told = KNOWN.format(task.evaluation.scorer)
    told += f"; verdicts are flipped at rate {task.feedback.noise:g}" if task.feedback.noise else ""
    labels = run.read_record().get("spent", {}).get("labels", {})
    if any(source.startswith("ai") for source in labels):
        told += (
            f"; this method learned from another one, the AI judge ({task.judge.kind} {task.judge.model}), which is a proxy"
        )
    return {"known_reward": told}


def _plugin_packages(run: Run) -> dict[str, Any]:
    """The packages that provide algorithm, task or judge, if not isoalign."""
    names = {"algorithm": run.name, "task": run.task.name} | ({"judge": run.task.judge.kind} if run.judge_check() else {})
    packages = {kind: package for kind, name in names.items() if (package := plugins.package_of(kind, name))}
    for scorer in (run.task.evaluation.second_scorer, run.task.evaluation.scorer):
        packages |= {"scorer": package} if (package := plugins.package_of("scorer", scorer)) else {}
    return {"packages": packages} if packages else {}


def _feedback_records(run: Run) -> dict[str, Any]:
    """Records of a panel of annotators, a feedback file, revisions and a comparing judge, if the run used them."""
    record, kept = verdicts_of(run), ("panel", "file", "dropped", "remarks", "cut")
    records: dict[str, Any] = {name: record[name] for name in kept if name in record}
    records |= {"teacher": {"model": run.task.teacher, "weights": run.teacher}} if run.teacher else {}
    records |= {"annotator": name} if (name := run.task.feedback.annotator) else {}
    if run.uses("revisions"):
        records["revisions"] = record_of(run, run.shared.revisions_stage)
    if check := run.judge_check():
        records["judge"] = json.loads((run.shared.get(check) / "judge.json").read_text())
    return records
