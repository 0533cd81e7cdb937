"""The flags of a card: what must be known of training, feedback and scores before its figures are believed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from isoalign.config import known
from isoalign.config.evaluation import WIN_RATE
from isoalign.config.task import TaskConfig
from isoalign.core import devices, plugins
from isoalign.core.records import Flag
from isoalign.data.formats.types import KEPT, SKIPPED
from isoalign.data.prompts import count_skipped, of_one_conversation, turns_of
from isoalign.evaluation.scores import LONGER, SCORES
from isoalign.models.answer_scorers import load_answer_scorer
from isoalign.models.loading import task_tokenizer
from isoalign.models.reward import FARTHEST
from isoalign.runs.pipeline import Run
from isoalign.runs.win_rate import taught
from isoalign.stages import from_file, overlap, pairs
from isoalign.stages.cutting import Cutter
from isoalign.stages.preflight import HIDDEN, own_reward_models
from isoalign.stages.stage import Stage

OFF = (
    "{engine} did not sample from the policy that was trained: its tokens' log-probabilities are up to {gap:.2g} nats from "
    "the policy's own, over the limit of {limit:g}"
)
CUT = "the judge read the end of the prompt alone, as it reads no longer texts"
READ = "its code read {files}, and what is there is in no key: runs of before a change are taken for new ones"
EQUAL = "{times} all answers of a step got one reward, which teaches nothing"
MIN_SPENT_SHARE = 0.9  # of the budget: most methods need more than the rest for an iteration
MIN_LAST_STEP_SHARE = 0.75  # of the spent FLOPs, at the last optimizer step
MAX_FIRST_STEP_SHARE = 2 / 3  # of the spent FLOPs, at the first optimizer step
MAX_SKIPPED_SHARE = 0.1  # of the optimizer steps
MAX_UNSCORED_SHARE = 0.05  # of the completions
MIN_SATURATED_SHARE = 0.01  # of the rewards, mean over steps
MIN_KIN_SHARE = 0.05  # of the evaluation prompts
MAX_MISSING_SHARE = 0.2  # of the verdicts of a comparing judge


def training_flags(run: Run) -> list[Flag]:
    """Flags of the training: an unspent budget, learning that stopped early, unmetered models, a KL that is a bound."""
    flags, record, log = list[Flag](), run.read_record(), run.read_log()
    if "kl_bound" in record:
        bound = "its KL is the bound log n - (n - 1) / n of best-of-n, not exact, and its reverse KL is not known"
        flags.append(Flag("warning", bound))
        flags.append(Flag("warning", f"it trains nothing: each answer takes {run.algorithm.draws} answers and their scores"))
    elif record and record["fraction"] < MIN_SPENT_SHARE:
        spent = f"only {record['fraction']:.0%} of the budget was spent: the next charge exceeds the rest"
        flags.append(Flag("warning", spent))
    if equal := sum(bool(row.get("equal_rewards")) for row in log):
        flags.append(Flag("warning", EQUAL.format(times="once" if equal == 1 else f"{equal} times")))
    if unmetered := record.get("unmetered"):
        name, count = max(unmetered.items(), key=lambda item: item[1])
        flags.append(Flag("gate", f"it ran a model that the meter does not count: {name} of {count:,} parameters"))
    if files := record.get("files"):
        flags.append(Flag("warning", READ.format(files=", ".join(files))))
    sampler = record.get("sampler") or {}
    if (gap := sampler.get("max_gap", 0.0)) > sampler.get("limit", 0.0):
        flags.append(Flag("gate", OFF.format(gap=gap, **sampler)))
    if skipped := record.get("skipped", 0):
        steps = record["steps"]
        text = f"at {skipped} of {steps} steps the loss or the gradient was not finite: they changed nothing"
        flags.append(Flag("gate" if skipped > MAX_SKIPPED_SHARE * steps else "warning", text))
    if (idle := sum(row.get("grad_norm") == 0 for row in log)) > MAX_SKIPPED_SHARE * len(log):
        flags.append(Flag("warning", f"at {idle} of {len(log)} steps the gradient was 0: there was nothing to learn from"))
    if log and log[0]["flops_spent"] > MAX_FIRST_STEP_SHARE * record["spent"]["flops"]:
        share = log[0]["flops_spent"] / record["spent"]["flops"]
        steps = f"{len(log)} step" + "s" * (len(log) > 1)
        gone = f"{share:.0%} of the FLOPs that it spent were gone at its first step, as on its reward model"
        flags.append(Flag("warning", f"{gone}: it learned in {steps}"))
    if log and log[-1]["flops_spent"] < MIN_LAST_STEP_SHARE * record["spent"]["flops"]:
        share = log[-1]["flops_spent"] / record["spent"]["flops"]
        stopped = f"its last optimizer step was at {share:.0%} of the FLOPs that it spent: it stopped learning there"
        flags.append(Flag("warning", stopped))
    return flags


def feedback_flags(run: Run) -> list[Flag]:
    """Flags of feedback that is less than configured or doubtful, or whose cost is unknown."""
    warnings, task, shared = list[str](), run.task, run.shared
    if why := known.misfit(task, "annotator"):
        warnings.append(f"the held-out verdicts are not of the objective: {why}")
    for by in pairs.SOURCES:
        name = task.scored_by(by) if run.trains and (by == "annotator" or run.rewarded_by() == by) else ""
        if name in plugins.entry_points("scorers") and load_answer_scorer(name, devices.device()).price is None:
            warnings.append(f"the scorer {name} of {plugins.package_of('scorer', name)} trained it and is billed at 0 FLOPs")
    function = shared.known_function() if task.known_reward else None
    if function and function.scorer.reads_prompts and function.equal:
        equal = (
            f"{function.equal:,} prompts become equal to another one at task.model.prompt_tokens={task.model.prompt_tokens}"
        )
        warnings.append(f"{equal}: the known reward reads the text of the first")
    log, by = run.read_log(), task.reward.classifier or task.evaluation.scorer
    if steps := sum(row.get("unscored") is not None for row in log):
        warnings.append(f"at {steps} steps answers got no score from {by}: their reward is the mean")
    if sum(ends := [row["saturated"] for row in log if row.get("saturated")]) > MIN_SATURATED_SHARE * len(log):
        where = f"at {len(ends)} of {len(log)} steps rewards lay at an end of {by}"
        warnings.append(f"{where} ({sum(ends) / len(ends):.0%} of them): log-odds beyond {FARTHEST} are not told apart")
    if lost := [row["no_verdict"] for row in log if row.get("no_verdict")]:
        share = f"{sum(lost) / len(lost):.0%} of them on average"
        warnings.append(f"at {len(lost)} steps answers got no verdict from the judge ({share}): each counts as a tie")
    if cuts := [row["cut_prompts"] for row in log if row.get("cut_prompts")]:
        warnings.append(f"at {len(cuts)} steps {CUT} ({sum(cuts) / len(cuts):.0%} of the questions)")
    verdicts = verdicts_of(run)
    models = [record_of(run, model) for model in shared.reward_models(run.rewarded_by()).values()]
    warnings += whose_verdicts(task, models, verdicts["file"] if shared.unpaired_stage else "")
    told = {what: count for what, count in verdicts.get("remarks", {}).items() if what.startswith((*KEPT, SKIPPED))}
    warnings += [f"{verdicts['file']}: {what}: {count:,}" for what, count in told.items()]
    critic = run.uses("revisions") and task.constitution.kind == "server"
    if critic or (run.judge_check() and task.judge.kind == "server"):
        warnings.append("a server's FLOPs are unknown: no budget covers them, and the bill shows the server's tokens only")
    unpriced = any(row.get("unpriced") for row in log)
    if run.reward_rounds():
        judge = record_of(run, shared.pairs(run.rewarded_by())).get("judge", {})
        missing, asked = sum(judge.get("missing", {}).values()), judge.get("asked", 0)
        if missing > MAX_MISSING_SHARE * asked:
            warnings.append(f"the judge gave no verdict on {missing} of {asked} questions")
        if cut := judge.get("cut"):
            warnings.append(f"{CUT} ({cut} of {asked} questions)")
        unpriced = unpriced or judge.get("flops", 0) is None
    if unpriced:
        warnings.append("the judge does not say what its verdicts cost: they are billed at 0 FLOPs, and no budget covers them")
    if run.teacher:
        warnings.append(f"it learned from the teacher {task.teacher}, whose own training is in no bill")
    if unscored := verdicts.get("unscored"):
        name = f"{unscored:,} of {verdicts['answers']:,} answers"
        warnings.append(f"{name} got no score from the annotator: they are in no pair, and as a reward they get the mean")
    if evaluated := verdicts.get("dropped", {}).get(from_file.EVALUATED):
        warnings.append(f"{verdicts['file']}: {evaluated:,} verdicts on evaluated prompts were left out")
    if alike := verdicts.get("dropped", {}).get(from_file.ALIKE):
        warnings.append(f"{verdicts['file']}: {from_file.told_alike(alike, alike + verdicts['pairs'], task.model)}")
    if whole := verdicts.get("whole"):
        warnings.append(
            f"{verdicts['file']}: {whole:,} preferred answers begin with their prompt, which is trained on as theirs"
        )
    if repeats := verdicts.get("repeats"):
        warnings.append(f"{verdicts['file']}: {repeats:,} rows repeat a verdict of the same annotator, and count once")
    if both := verdicts.get("contradicted"):
        warnings.append(f"{verdicts['file']}: {both:,} answers are called good by some and bad by others: each label counts")
    if shared_words := verdicts.get("overlap"):
        still = overlap.told(shared_words["prompts"], shared_words["evaluated"], "verdicts")
        warnings.append(f"{verdicts['file']}: {still}")
    warnings += [f"{verdicts['file']}: {line}" for line in overlap.told_forms(verdicts.get("forms", {}), "verdicts")]
    if unsayable := verdicts.get("dropped", {}).get(from_file.UNSAYABLE):
        warnings.append(f"{verdicts['file']}: {unsayable:,} verdicts {from_file.UNSAYABLE} were left out")
    cut = ", ".join(f"{what}: {number:,}" for what, number in verdicts.get("cut", {}).items())
    warnings += [f"feedback is cut to the task's lengths in tokens ({cut})"] if cut else []
    shown = ", ".join(f"{what}: {number:,}" for what, number in record_of(run, shared.sft).get("losses", {}).items())
    warnings += [f"demonstrations ({shown})"] if shown else []
    own = own_reward_models(task)
    tried = json.loads((shared.get(run.preflight) / "preflight.json").read_text()) if own or task.prompts.source else {}
    hidden = [name for name in own if tried[name][HIDDEN]]
    warnings += [f"the chat template of the reward model {name} leaves out the system's turn" for name in hidden]
    if task.prompts.source:
        fit = tried["prompts"]
        losses = [f"{split}: {each['cut']:,} of {each['prompts']:,}" for split, each in fit.items() if each["cut"]]
        seen = [f"{each['trained']:,} of {each['prompts']:,} {split}" for split, each in fit.items() if each["trained"]]
        warnings += [f"the model reads {' and '.join(seen)} prompts as it reads a training prompt: they are cut"] * bool(seen)
        skipped = count_skipped(task.prompts)
        warnings += [f"prompts: rows that were skipped (task.prompts.skip={task.prompts.skip}): {skipped:,}"] * bool(skipped)
        cutter = Cutter(task_tokenizer(task.model), task.model)
        asked = run.evaluation_prompts()
        if (kin := of_one_conversation(asked)) > MIN_KIN_SHARE * len(asked):
            one = f"{kin:,} of {len(asked):,} evaluation prompts begin as another of them does"
            warnings.append(f"{one}: intervals take them as independent, and are too narrow where they are not")
        talk = [prompt.turns for prompt in asked if prompt.turns]
        if talk and not cutter.templated(talk[0]):
            why = "as task.model.template=off says" if task.model.template == "off" else "as the model has no chat template"
            warnings.append(f"conversations are written out with the names of their roles, {why}")
        if cutter.templated(turns_of(asked[0])):
            if misopened := cutter.misopened:
                warnings.append(f"the chat template does not open an answer as it does one that is given: {misopened}")
            if missing := sorted({name for turns in talk for name in cutter.left_out(turns)}):
                warnings.append(f"the chat template leaves out {' and '.join(missing)} of conversations")
        warnings += [f"prompts are cut to {task.model.prompt_tokens} tokens ({', '.join(losses)})"] if losses else []
    return [Flag("warning", text) for text in warnings]


def whose_verdicts(task: TaskConfig, models: Sequence[Mapping[str, Any]], unpaired: str) -> list[str]:
    """Whose few verdicts a reward model was trained on, and by whose its accuracy is measured where people's compare nothing.

    ``models``: the records of its members; ``unpaired``: the file of people's labels of single answers, if there is one.
    """
    simulated = task.scored_by("annotator") or "the simulated annotator"
    whose = {from_file.SOURCE: "people", pairs.SOURCES["annotator"]: simulated, pairs.SOURCES["judge"]: "the AI judge"}
    warnings = []
    if any(model["verdicts"] and len(model["verdicts"]) < task.reward.pairs for model in models):
        verdicts = f"all {len(models[0]['verdicts'])} verdicts of {whose[models[0]['source']]}"
        warnings.append(f"reward model: it was trained on {verdicts}, fewer than task.reward.pairs={task.reward.pairs}")
    if unpaired:
        of = "" if task.scored_by("annotator") else " of toxicity"
        measured = f"accuracy of reward model and policy is measured on verdicts{of} by {simulated}, not by people"
        warnings.append(f"{unpaired} compares no answers: the {measured}")
    return warnings


def score_flags(scored: Path) -> list[Flag]:
    """A flag for completions without a score, of which no figure by that scorer speaks, and for those that a scorer reads in
    part. ``scored``: a stage of scores."""
    by_scorer = json.loads((scored / SCORES).read_text())
    flags = []
    for name, scores in by_scorer.items():
        if (missing := scores.count(None)) > MAX_UNSCORED_SHARE * len(scores):
            text = f"{missing:,} of {len(scores):,} completions have no score by {name}: its figures are of the others"
            flags.append(Flag("warning", text))
    longer: dict[str, int] = json.loads(file.read_text()) if (file := scored / LONGER).exists() else {}
    for name, count in longer.items():
        if count:
            of = f"{count:,} of {len(by_scorer[name]):,} completions are longer than {name} reads"
            flags.append(Flag("warning", f"{of}: it scored a part of them, and what else they say shows in no figure by it"))
    return flags


def win_rate_flags(run: Run) -> list[Flag]:
    """Flags of a judge of the win rate that is not one of its own: a gate where the task ranks by it."""
    if not run.task.evaluation.win_rate.on or not run.trains:
        return []
    labels = run.read_record().get("spent", {}).get("labels") or {}
    did = taught(run.shared, labels, bool(run.reward_rounds()))
    kind: Literal["gate", "warning"] = "gate" if run.task.evaluation.scorer == WIN_RATE else "warning"
    flags = [Flag(kind, f"the judge of its win rate also {did}: the two are not independent")] if did else []
    contests = run.contests(run.samples)
    if contests and (cut := record_of(run, contests).get("cut")):
        flags.append(Flag("warning", f"win rate: {CUT} ({cut} contests)"))
    return flags


def verdicts_of(run: Run) -> dict[str, Any]:
    """The record of the annotators' verdicts, or of a file's."""
    return record_of(run, run.shared.unpaired_stage or run.shared.pairs("annotator"))


def record_of(run: Run, stage: Stage) -> dict[str, Any]:
    """The record of a stage of the run's store."""
    record: dict[str, Any] = json.loads((run.shared.get(stage) / "record.json").read_text())
    return record
