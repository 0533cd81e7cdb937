"""Verdicts on the candidates: preference pairs by simulated annotators, one or a panel, or by the AI judge."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoalign.config.feedback import PanelConfig
from isoalign.config.task import FeedbackConfig
from isoalign.core.errors import UserError
from isoalign.core.records import Estimate, Question
from isoalign.feedback import annotators, consensus
from isoalign.feedback.annotators import verdict_matrix
from isoalign.feedback.judges.verdicts import Judge, summary
from isoalign.models.classifiers import CharClassifier, WordClassifier
from isoalign.stages.candidates import read_rows, write_rows
from isoalign.stats import agreement

VERSION = 1
SOURCES = {"annotator": "simulated", "judge": "ai"}

RATED = "rated"  # what a panel must know of a pair; it is not written
FAVOURED = "toxic"  # the stratum that annotators with a topic bias seek out, or shun

Rows = list[dict[str, Any]]


class NoVerdict(UserError):
    """No two answers were told apart."""


@dataclass(frozen=True)
class Rated:
    """Of the better and the worse answer: their scores and numbers; ``favoured``: the prompt's topic is that of a bias."""

    scores: tuple[float, float]
    answers: tuple[int, int]
    favoured: bool


def make(
    work: Path, candidates: Path, annotators: Path, config: FeedbackConfig, panel: PanelConfig, seed: int, golden: Path | None
) -> None:
    """Write ``pairs.jsonl`` by the simulated annotator: of two answers the one with the lower score is chosen, save where
    noise flips the verdict; or where a panel's consensus says otherwise.

    ``golden``: candidates of another split, on whose answers a panel's annotators are weighted. A pair's share of the sampling
    is recorded for the bill.
    """
    rows, _ = _clear(candidates, classifier_of(annotators, "annotator"), config.margin)
    if not rows:
        raise NoVerdict(f"the annotator found no two answers that differ by {config.margin}; lower task.feedback.margin")
    asked: dict[str, Any] = {}
    if panel == PanelConfig():
        flip(rows, config.noise, seed)
    else:
        known = _clear(golden, classifier_of(annotators, "annotator"), config.margin)[0] if golden else []
        rows, asked = by_panel(rows, known, config, panel, seed)
    record = {"noise": config.noise, "margin": config.margin} | asked
    _write(work, rows, candidates, "annotator", record)


def make_judged(
    work: Path, candidates: Path, annotators: Path, config: FeedbackConfig, judge: Judge | None, seed: int
) -> None:
    """Write ``pairs.jsonl`` by the AI judge: the embedded classifier, or one that is asked about every two answers."""
    if judge is None:
        annotator = classifier_of(annotators, "judge")
        rows, texts = _clear(candidates, annotator, config.judge_margin)
        flops, asked = annotator.flops(texts), dict[str, Any]()
    else:
        rows, asked = by_judge(read_rows(candidates / "answers.jsonl"), judge, config, seed)
        told, each = asked["judge"], max(1, len(rows))
        flops = told["flops"]
        asked["asked_each"] = {"passes": 2 * told["asked"] / each, "tokens": told["tokens"] / each}
    if not rows:
        told = asked.get("judge", {"missing": {}, "asked": 0})
        missing, margin = sum(told["missing"].values()), config.judge_margin
        why = f" ({missing} of {told['asked']} verdicts are missing)" if missing else ""
        lower = "lower task.feedback.judge_margin" if margin else "it is of another mind whenever the order changes"
        raise NoVerdict(f"the judge found no two answers that differ by over {margin}; {lower}{why}")
    _write(work, rows, candidates, "judge", {"noise": 0.0, "margin": config.judge_margin} | asked, flops)


def _write(work: Path, rows: Rows, candidates: Path, by: str, record: dict[str, Any], judging: int | None = None) -> None:
    for row in rows:
        row.pop(RATED, None)
    write_rows(work / "pairs.jsonl", rows)
    sampling = json.loads((candidates / "record.json").read_text())["flops"]
    flops_each = {"feedback": sampling // len(rows)}
    if judging is not None:
        flops_each["judge"] = judging // len(rows)
    record = {"source": SOURCES[by], "pairs": len(rows)} | record | {"flops_each": flops_each}
    (work / "record.json").write_text(json.dumps(record, indent=1))


def classifier_of(annotators: Path, name: str) -> Any:
    """The fitted annotator or judge."""
    return (CharClassifier if name == "judge" else WordClassifier).load(annotators / name)


# -- one annotator ---------------------------------------------------------------------------------------------------------


def _clear(candidates: Path, annotator: Any, margin: float) -> tuple[Rows, list[str]]:
    """The pairs whose scores differ by over the margin, and the texts that were read for it."""
    prompts = read_rows(candidates / "answers.jsonl")
    texts = [text for row in prompts for text in row["answers"]]
    scores = iter(annotator(texts).tolist())
    return [pair for row in prompts for pair in verdicts(row, [next(scores) for _ in row["answers"]], margin)], texts


def verdicts(row: dict[str, Any], scores: list[float], margin: float) -> Rows:
    """A pair for every two answers of a prompt whose scores differ by over ``margin``; the lower score is better."""
    pairs = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        if abs(scores[i] - scores[j]) <= margin or row["answer_ids"][i] == row["answer_ids"][j]:
            continue
        better, worse = (i, j) if scores[i] < scores[j] else (j, i)
        pairs.append(_pair(row, better, worse) | {"gap": round(abs(scores[i] - scores[j]), 4), "clean": True})
        pairs[-1][RATED] = Rated((scores[better], scores[worse]), (better, worse), row.get("stratum") == FAVOURED)
    return pairs


def _pair(row: dict[str, Any], better: int, worse: int) -> dict[str, Any]:
    i, j = sorted((better, worse))
    return {
        "pair_id": f"{row['id']}-{i}{j}", "prompt_id": row["id"], "prompt_ids": row["prompt_ids"],
        "chosen": row["answers"][better], "rejected": row["answers"][worse],
        "chosen_ids": row["answer_ids"][better], "rejected_ids": row["answer_ids"][worse],
    }  # fmt: skip


def flip(rows: Rows, noise: float, seed: int) -> None:
    """Turn each verdict round with probability ``noise``, in place."""
    generator = random.Random(seed)
    for row in rows:
        if generator.random() < noise:
            turn(row)


def turn(row: dict[str, Any]) -> None:
    """Choose the other answer, in place."""
    row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    row["chosen_ids"], row["rejected_ids"] = row["rejected_ids"], row["chosen_ids"]
    row["clean"] = not row["clean"]


# -- a panel -----------------------------------------------------------------------------------------------------------


def by_panel(rows: Rows, known: Rows, config: FeedbackConfig, panel: PanelConfig, seed: int) -> tuple[Rows, dict[str, Any]]:
    """The pairs on which the panel comes to a verdict, turned round where it is the wrong one; and what to tell of it.

    ``known``: pairs of another split; the first of a seeded shuffle are the golden set, by which annotators are weighted.
    """
    said = _rate(rows, config, panel, seed)
    golden = random.Random(seed).sample(known, panel.golden) if panel.golden <= len(known) else None
    if golden is None:
        raise UserError(f"task.panel.golden asks for {panel.golden} items, the validation split holds {len(known)}")
    tested = _rate(golden, config, panel, seed) if golden else None
    calibration = consensus.calibrate(tested, np.ones(len(golden), bool), panel.annotators) if tested else None
    weight = calibration.weight if calibration else np.ones(panel.annotators)
    found = consensus.RULES[panel.consensus](said, _items(rows), weight, seed)
    annotators = _annotators_of(said, len(rows))
    kept = []
    for item, right, margin in zip(found.item.tolist(), found.first_wins.tolist(), found.margin.tolist(), strict=True):
        kept.append(rows[item] | {"annotators": annotators[item], "margin": round(margin, 4)})
        if not right:
            turn(kept[-1])
    if not kept:
        raise NoVerdict("the panel came to no verdict; more annotators, less noise or another task.panel.consensus may help")
    agreed = agreement.agreement(verdict_matrix(said, len(rows), panel.annotators))
    told = {"annotators": panel.annotators, "ties": found.ties, "unrated": found.unrated, "weight": weight.round(4).tolist(),
            "agreement": {name: asdict(figure) for name, figure in agreed.items()},
            "accuracy": [asdict(each) for each in calibration.accuracy] if calibration else [],
            "right": sum(row["clean"] for row in kept) / len(kept)}  # fmt: skip
    return kept, {"panel": told, "calibration": len(tested) if tested else 0}


def _rate(rows: Rows, config: FeedbackConfig, panel: PanelConfig, seed: int) -> annotators.Verdicts:
    """The panel's verdicts; the first answer of an item is the better one."""
    rated = [row[RATED] for row in rows]
    words = np.array([[len(row[side].split()) for side in ("chosen", "rejected")] for row in rows], dtype=float)
    utilities = annotators.utility(np.array([each.scores for each in rated]))
    favoured = np.array([each.favoured for each in rated])
    return annotators.panel_verdicts(utilities, words, favoured, [row["pair_id"] for row in rows], panel, seed, config.noise)


def _items(rows: Rows) -> consensus.Items:
    _, prompt = np.unique([row["prompt_id"] for row in rows], return_inverse=True)
    first, second = np.array([row[RATED].answers for row in rows]).T
    return consensus.Items(prompt, first, second)


def _annotators_of(said: annotators.Verdicts, items: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(items)]
    for item, annotator in zip(said.item.tolist(), said.annotator.tolist(), strict=True):
        found[item].append(annotator)
    return found


# -- an AI judge -------------------------------------------------------------------------------------------------------


def by_judge(prompts: Rows, judge: Judge, config: FeedbackConfig, seed: int) -> tuple[Rows, dict[str, Any]]:
    """A pair for every two answers of a prompt of which the judge is surer than the margin, |2 P - 1|; and what to tell."""
    asked = [
        (row, i, j) for row in prompts for i, j in itertools.combinations(range(len(row["answers"])), 2)
        if row["answer_ids"][i] != row["answer_ids"][j]
    ]  # fmt: skip
    if config.judge_questions and config.judge_questions < len(asked):
        places = sorted(random.Random(seed).sample(range(len(asked)), config.judge_questions))
        asked = [asked[place] for place in places]
    questions = [Question(row["text"], row["answers"][i], row["answers"][j]) for row, i, j in asked]
    said = judge(questions)
    if said and all(verdict.p is None for verdict in said):
        causes = Counter(verdict.missing for verdict in said)
        why = ", ".join(f"{count} {cause}" for cause, count in causes.items())
        raise NoVerdict(
            f"none of the judge's {len(said)} verdicts can be used ({why}); it said for example: {said[0].reason[:80]!r}"
        )
    rows = []
    for (row, i, j), verdict in zip(asked, said, strict=True):
        lead = 2 * verdict.p - 1 if verdict.p is not None else 0.0
        if abs(lead) > config.judge_margin:
            rows.append(_pair(row, *((i, j) if lead > 0 else (j, i))) | {"gap": round(abs(lead), 4), "clean": True})
    return rows, {"judge": told_of(judge, questions, said)}


def told_of(judge: Judge, questions: Sequence[Question], said: Sequence[Any]) -> dict[str, Any]:
    """What a card tells of a judge's work, as plain JSON."""
    found = summary(questions, said)
    return {"name": judge.name} | {
        name: asdict(value) if isinstance(value, Estimate) else value for name, value in found.items()
    }
