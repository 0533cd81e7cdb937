"""Preference pairs: verdicts on completions by a simulated annotator, a panel of them, or the AI judge."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isoalign.config.feedback import PanelConfig
from isoalign.config.task import FeedbackConfig
from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.core.records import Estimate, Question
from isoalign.data.formats import Turn
from isoalign.feedback import annotators, consensus
from isoalign.feedback.annotators import verdict_matrix
from isoalign.feedback.judges.verdicts import Judge, summary
from isoalign.models.answer_scorers import Asked
from isoalign.models.classifiers import CharClassifier, WordClassifier
from isoalign.stages.opinions import Losses, Scores, Scoring, unscored, why_none
from isoalign.stats import agreement

VERSION = 1
SOURCES = {"annotator": "simulated", "judge": "ai"}

SCORED = "scored"  # a column for the panel, which is not written
BIAS_STRATUM = "toxic"  # the stratum of prompts that annotators with a topic bias favour or avoid

Rows = list[dict[str, Any]]


class NoVerdict(UserError):
    """No pair of answers got a verdict."""


@dataclass(frozen=True)
class ScoredAnswers:
    """Losses and numbers of the better and the worse answer. ``favoured``: the prompt is of the bias stratum; ``utilities``:
    the losses as a panel reads them."""

    losses: tuple[float, float]
    answers: tuple[int, int]
    favoured: bool
    utilities: tuple[float, ...] = ()


def make_annotator_pairs(
    work: Path, completions: Path, opinion: Scoring, config: FeedbackConfig, panel: PanelConfig, seed: int, golden: Path | None
) -> None:
    """Write ``pairs.jsonl`` by the simulated annotator, whose ``opinion`` it is: the answer with the lower loss is chosen,
    unless noise flips the verdict; or by a panel's consensus.

    ``golden``: completions of another split, on which a panel's annotators are weighted. The record holds the sampling cost
    of a pair, for the bill.
    """
    rows, losses, flops = _distinct_pairs(completions, opinion, config.margin)
    if not rows:
        raise NoVerdict(why_none(opinion, losses, config.margin))
    panel_record = unscored(losses)
    if panel == PanelConfig():
        flip_verdicts(rows, config.noise, seed)
    else:
        known = _distinct_pairs(golden, opinion, config.margin)[0] if golden else []
        rows, of_panel = by_panel(rows, known, config, panel, seed)
        panel_record |= of_panel
    record = {"noise": config.noise, "margin": config.margin} | panel_record
    _write_pairs(work, rows, completions, "annotator", record, flops if isinstance(opinion, Scores) and flops else None)


def make_judge_pairs(work: Path, completions: Path, judge: Scoring | Judge, config: FeedbackConfig, seed: int) -> None:
    """Write ``pairs.jsonl`` by the AI judge: one that scores single answers, or one that compares every two of them."""
    if isinstance(judge, Scoring):
        rows, losses, flops = _distinct_pairs(completions, judge, config.judge_margin)
        record: dict[str, Any] = unscored(losses)
    else:
        rows, record = by_judge(read_rows(completions / "answers.jsonl"), judge, config, seed)
        work_done, count = record["judge"], max(1, len(rows))
        flops = work_done["flops"]
        record["asked_each"] = {"passes": 2 * work_done["asked"] / count, "tokens": (work_done["tokens"] or 0) / count}
    if not rows:
        work_done = record.get("judge", {"missing": {}, "asked": 0})
        missing, margin = sum(work_done["missing"].values()), config.judge_margin
        why = f" ({missing} of {work_done['asked']} verdicts are missing)" if missing else ""
        advice = "lower task.feedback.judge_margin" if margin else "its verdicts change with the order of the answers"
        raise NoVerdict(f"the judge prefers no answer over another by more than {margin}; {advice}{why}")
    _write_pairs(work, rows, completions, "judge", {"noise": 0.0, "margin": config.judge_margin} | record, flops)


def _write_pairs(
    work: Path, rows: Rows, completions: Path, by: str, record: dict[str, Any], judging: int | None = None
) -> None:
    for row in rows:
        row.pop(SCORED, None)
    write_rows(work / "pairs.jsonl", rows)
    sampling = json.loads((completions / "record.json").read_text())["flops"]
    flops_each = {"feedback": sampling // len(rows)}
    if judging is not None:
        flops_each["judge"] = judging // len(rows)
    record = {"source": SOURCES[by], "pairs": len(rows)} | record | {"flops_each": flops_each}
    (work / "record.json").write_text(json.dumps(record, indent=1))


def classifier_of(annotators: Path, name: str) -> Any:
    """The fitted classifier: ``annotator`` or ``judge``."""
    return (CharClassifier if name == "judge" else WordClassifier).load(annotators / name)


# -- one annotator ---------------------------------------------------------------------------------------------------------


def _asked(row: dict[str, Any]) -> Asked:
    """The turns of a row's prompt, or its text."""
    return tuple(Turn(**turn) for turn in row.get("turns", ())) or row.get("text", "")


def _distinct_pairs(completions: Path, opinion: Scoring, margin: float) -> tuple[Rows, Losses, int]:
    """The pairs whose losses differ by more than the margin, the loss of every answer, and the FLOPs of scoring them."""
    rows = read_rows(completions / "answers.jsonl")
    answers = [text for row in rows for text in row["answers"]]
    prompts = [_asked(row) for row in rows for _ in row["answers"]]
    references = [row.get("reference", "") for row in rows for _ in row["answers"]]
    losses = opinion.losses(prompts, answers, references)
    each = iter(losses)
    pairs = [pair for row in rows for pair in verdicts(row, [next(each) for _ in row["answers"]], margin)]
    scored = [row[SCORED] for row in pairs]
    utilities = opinion.utilities(np.array([one.losses for one in scored]).reshape(-1, 2)).tolist()
    for row, one, both in zip(pairs, scored, utilities, strict=True):
        row[SCORED] = replace(one, utilities=tuple(both))
    return pairs, losses, opinion.flops(prompts, answers)


def verdicts(row: dict[str, Any], losses: Losses, margin: float) -> Rows:
    """A pair for every two answers of a prompt whose losses differ by more than ``margin``; the lower one is better. Answers
    without a loss are in no pair."""
    pairs = []
    for i, j in itertools.combinations(range(len(losses)), 2):
        first, second = losses[i], losses[j]
        if first is None or second is None or row["answer_ids"][i] == row["answer_ids"][j]:
            continue
        if abs(first - second) <= margin:
            continue
        better, worse = (i, j) if first < second else (j, i)
        pairs.append(_pair_row(row, better, worse) | {"gap": round(abs(first - second), 4), "clean": True})
        favoured, both = row.get("stratum") == BIAS_STRATUM, (min(first, second), max(first, second))
        pairs[-1][SCORED] = ScoredAnswers(both, (better, worse), favoured)
    return pairs


def _pair_row(row: dict[str, Any], better: int, worse: int) -> dict[str, Any]:
    i, j = sorted((better, worse))
    return {
        "pair_id": f"{row['id']}-{i}{j}", "prompt_id": row["id"], "prompt_ids": row["prompt_ids"],
        "chosen": row["answers"][better], "rejected": row["answers"][worse],
        "chosen_ids": row["answer_ids"][better], "rejected_ids": row["answer_ids"][worse],
    }  # fmt: skip


def flip_verdicts(rows: Rows, noise: float, seed: int) -> None:
    """Flip each verdict with probability ``noise``, in place."""
    generator = random.Random(seed)
    for row in rows:
        if generator.random() < noise:
            swap_answers(row)


def swap_answers(row: dict[str, Any]) -> None:
    """Swap the chosen and the rejected answer, in place."""
    row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    row["chosen_ids"], row["rejected_ids"] = row["rejected_ids"], row["chosen_ids"]
    row["clean"] = not row["clean"]


# -- a panel -----------------------------------------------------------------------------------------------------------


def by_panel(rows: Rows, known: Rows, config: FeedbackConfig, panel: PanelConfig, seed: int) -> tuple[Rows, dict[str, Any]]:
    """The pairs on which the panel reaches a verdict, with the answers swapped if it is wrong, and the panel's record.

    ``known``: pairs of another split. A seeded sample of them is the golden set, by which annotators are weighted.
    """
    verdicts = _panel_verdicts(rows, config, panel, seed)
    if panel.golden > len(known):
        raise UserError(f"task.panel.golden is {panel.golden}, but the validation split has only {len(known)} items")
    golden = random.Random(seed).sample(known, panel.golden)
    golden_verdicts = _panel_verdicts(golden, config, panel, seed) if golden else None
    calibration = (
        consensus.calibrate(golden_verdicts, np.ones(len(golden), bool), panel.annotators) if golden_verdicts else None
    )
    weight = calibration.weight if calibration else np.ones(panel.annotators)
    decided = consensus.RULES[panel.consensus](verdicts, _items(rows), weight, seed)
    annotators = _annotators_by_item(verdicts, len(rows))
    pairs = []
    for item, right, margin in zip(decided.item.tolist(), decided.first_wins.tolist(), decided.margin.tolist(), strict=True):
        pairs.append(rows[item] | {"annotators": annotators[item], "margin": round(margin, 4)})
        if not right:
            swap_answers(pairs[-1])
    if not pairs:
        raise NoVerdict("the panel reached no verdict; try more annotators, less noise or another task.panel.consensus")
    agreed = agreement.agreement(verdict_matrix(verdicts, len(rows), panel.annotators))
    record = {
        "annotators": panel.annotators, "ties": decided.ties, "unrated": decided.unrated, "weight": weight.round(4).tolist(),
        "agreement": {name: asdict(figure) for name, figure in agreed.items()},
        "accuracy": [asdict(each) for each in calibration.accuracy] if calibration else [],
        "right": sum(row["clean"] for row in pairs) / len(pairs),
    }  # fmt: skip
    return pairs, {"panel": record, "calibration": len(golden_verdicts) if golden_verdicts else 0}


def _panel_verdicts(rows: Rows, config: FeedbackConfig, panel: PanelConfig, seed: int) -> annotators.Verdicts:
    """The panel's verdicts; the first answer of an item is the better one."""
    answers = [row[SCORED] for row in rows]
    words = np.array([[len(row[side].split()) for side in ("chosen", "rejected")] for row in rows], dtype=float)
    utilities = np.array([each.utilities for each in answers])
    favoured = np.array([each.favoured for each in answers])
    if panel.topic and not favoured.any():
        raise UserError(f"task.panel.topic favours prompts of the stratum {BIAS_STRATUM}, and there are none; set it to 0")
    return annotators.panel_verdicts(utilities, words, favoured, [row["pair_id"] for row in rows], panel, seed, config.noise)


def _items(rows: Rows) -> consensus.Items:
    _, prompt = np.unique([row["prompt_id"] for row in rows], return_inverse=True)
    first, second = np.array([row[SCORED].answers for row in rows]).T
    return consensus.Items(prompt, first, second)


def _annotators_by_item(verdicts: annotators.Verdicts, items: int) -> list[list[int]]:
    by_item: list[list[int]] = [[] for _ in range(items)]
    for item, annotator in zip(verdicts.item.tolist(), verdicts.annotator.tolist(), strict=True):
        by_item[item].append(annotator)
    return by_item


# -- an AI judge -------------------------------------------------------------------------------------------------------


def by_judge(prompts: Rows, judge: Judge, config: FeedbackConfig, seed: int) -> tuple[Rows, dict[str, Any]]:
    """A pair for every two answers of a prompt with |2 P - 1| above the margin, and a summary of the judge's work."""
    compared = [
        (row, i, j) for row in prompts for i, j in itertools.combinations(range(len(row["answers"])), 2)
        if row["answer_ids"][i] != row["answer_ids"][j]
    ]  # fmt: skip
    if config.judge_questions and config.judge_questions < len(compared):
        sampled = sorted(random.Random(seed).sample(range(len(compared)), config.judge_questions))
        compared = [compared[index] for index in sampled]
    questions = [Question(row["text"], row["answers"][i], row["answers"][j]) for row, i, j in compared]
    verdicts = judge(questions)
    if verdicts and all(verdict.p is None for verdict in verdicts):
        causes = Counter(verdict.missing for verdict in verdicts)
        why = ", ".join(f"{count} {cause}" for cause, count in causes.items())
        raise NoVerdict(
            f"none of the judge's {len(verdicts)} verdicts is usable ({why}); "
            f"for example, it answered: {verdicts[0].reason[:80]!r}"
        )
    rows = []
    for (row, i, j), verdict in zip(compared, verdicts, strict=True):
        lead = 2 * verdict.p - 1 if verdict.p is not None else 0.0
        if abs(lead) > config.judge_margin:
            rows.append(_pair_row(row, *((i, j) if lead > 0 else (j, i))) | {"gap": round(abs(lead), 4), "clean": True})
    return rows, {"judge": judge_summary(judge, questions, verdicts)}


def judge_summary(judge: Judge, questions: Sequence[Question], verdicts: Sequence[Any]) -> dict[str, Any]:
    """The judge's name and the summary of its work, as JSON for a card."""
    return {"name": judge.name} | {
        name: asdict(value) if isinstance(value, Estimate) else value for name, value in summary(questions, verdicts).items()
    }
