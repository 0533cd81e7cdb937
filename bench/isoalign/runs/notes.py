"""What a reader must know of a run before believing its card: on what it was measured, what its feedback was, what is odd."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from isoalign.core import plugins
from isoalign.core.records import Flag
from isoalign.runs.pipeline import Run
from isoalign.stages.stage import Stage

CAVEAT = "Classifier scorers are weak on implicit hate and blind to threats; judge, annotator and scorers share Jigsaw data."
ENOUGH = 0.9  # of the budget: what is left after that is less than a round of most methods
LAST = 0.75  # of what is spent, by when the last step is expected
MANY = 0.2  # of an asked judge's verdicts


def of(run: Run) -> dict[str, Any]:
    """The notes of a run's card."""
    config = run.task.evaluation
    flags, asked = [*training(run), *feedback(run)], getattr(run.task.prompts, config.split)
    return {
        "prompts": asked, "split": config.split, "draws": config.draws,
        "curve": f"{min(config.curve_prompts, asked)} prompts, {config.curve_draws} draws",
        "scorer": config.scorer, "second_scorer": config.second_scorer, "noise": run.task.feedback.noise,
        "correlation": json.loads((run.shared.get(run.agreement) / "correlation.json").read_text()),
        "tuning": run.tuning if run.trains else None, "caveat": CAVEAT,
    } | _brought(run) | _told(run) | ({"flags": list(map(asdict, flags))} if flags else {})  # fmt: skip


def _brought(run: Run) -> dict[str, Any]:
    """What of it is another package's, and whose."""
    asked = {"algorithm": run.name, "task": run.task.name} | ({"judge": run.task.judge.kind} if run.judge_check() else {})
    found = {kind: package for kind, name in asked.items() if (package := plugins.brought(kind, name))}
    return {"packages": found} if found else {}


def _told(run: Run) -> dict[str, Any]:
    """Of a panel of annotators, a file of verdicts, a critic that revised and a judge that was asked."""
    record = _record(run, run.shared.pairs("annotator"))
    found: dict[str, Any] = {name: record[name] for name in ("panel", "file", "dropped") if name in record}
    if run.may("revisions"):
        found["revisions"] = _record(run, run.shared.revisions_stage)
    if check := run.judge_check():
        found["judge"] = json.loads((run.shared.get(check) / "judge.json").read_text())
    return found


def training(run: Run) -> list[Flag]:
    """Flags of a training that did not go as a training should: a budget left over, learning that stopped, models that
    nobody metered, a KL that is no more than a bound."""
    found, record, log = list[Flag](), run.read_record(), run.read_log()
    if "kl_bound" in record:
        bound = "its KL is the bound log n - (n - 1) / n of best-of-n, not exact, and its reverse KL is not known"
        found.append(Flag("warning", bound))
    elif record and record["fraction"] < ENOUGH:
        spent = f"only {record['fraction']:.0%} of the budget was spent: what was to come next costs more than the rest"
        found.append(Flag("warning", spent))
    if smuggled := record.get("unmetered"):
        name, count = max(smuggled.items(), key=lambda item: item[1])
        found.append(Flag("gate", f"it ran a model that the meter does not know: {name} of {count:,} parameters"))
    if log and log[-1]["flops_spent"] < LAST * record["spent"]["flops"]:
        share = log[-1]["flops_spent"] / record["spent"]["flops"]
        stopped = f"its last optimizer step was at {share:.0%} of what it spent: it stopped learning there"
        found.append(Flag("warning", stopped))
    return found


def feedback(run: Run) -> list[Flag]:
    """Flags of feedback that is less than was asked for, or whose cost is not known."""
    texts, task, shared = list[str](), run.task, run.shared
    models = [_record(run, model)["verdicts"] for model in shared.reward_models(run.rewarded_by()).values()]
    if any(verdicts and len(verdicts) < task.reward.pairs for verdicts in models):
        texts.append(
            f"reward model: it learned from all {len(models[0])} verdicts that there are, fewer than "
            f"task.reward.pairs={task.reward.pairs}"
        )
    critic = run.may("revisions") and task.constitution.kind == "server"
    if critic or (run.judge_check() and task.judge.kind == "server"):
        texts.append("a server's FLOPs are unknown: they are in no budget, and what it did is on no bill but in tokens")
    if run.reward_rounds():
        told = _record(run, shared.pairs(run.rewarded_by())).get("judge", {})
        missing, asked = sum(told.get("missing", {}).values()), told.get("asked", 0)
        if missing > MANY * asked:
            texts.append(f"the judge brought no verdict on {missing} of the {asked} questions that it was asked")
    return [Flag("warning", text) for text in texts]


def _record(run: Run, stage: Stage) -> dict[str, Any]:
    """What a stage left on record."""
    found: dict[str, Any] = json.loads((run.shared.get(stage) / "record.json").read_text())
    return found
