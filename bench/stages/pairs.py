"""Verdicts on the candidates: preference pairs by the simulated annotator or by the AI judge."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

from bench.config import FeedbackConfig
from bench.errors import UserError
from bench.models.classifiers import CharClassifier, WordClassifier
from bench.stages.candidates import read_rows, write_rows

VERSION = 1
SOURCES = {"annotator": "simulated", "judge": "ai"}


def make(work: Path, candidates: Path, raters: Path, config: FeedbackConfig, labelled_by: str, seed: int) -> None:
    """Write ``pairs.jsonl``. Of two answers the one with the lower score is chosen, save where noise flips the verdict.

    A pair's share of the sampling, and of the judge's passes, is recorded for the bill.
    """
    rater = rater_of(raters, labelled_by)
    by_judge = labelled_by == "judge"
    noise, margin = (0.0, config.judge_margin) if by_judge else (config.noise, config.margin)
    prompts = read_rows(candidates / "answers.jsonl")
    texts = [text for row in prompts for text in row["answers"]]
    scores = iter(rater(texts).tolist())
    rows = [pair for row in prompts for pair in verdicts(row, [next(scores) for _ in row["answers"]], margin)]
    if not rows:
        raise UserError(f"{labelled_by} found no two answers that differ by {margin}; lower task.feedback.margin")
    flip(rows, noise, seed)
    write_rows(work / "pairs.jsonl", rows)
    sampling = json.loads((candidates / "record.json").read_text())["flops"]
    flops_each = {"feedback": sampling // len(rows)}
    if by_judge:
        flops_each["judge"] = rater.flops(texts) // len(rows)
    record = {"source": SOURCES[labelled_by], "pairs": len(rows), "noise": noise, "margin": margin, "flops_each": flops_each}
    (work / "record.json").write_text(json.dumps(record, indent=1))


def rater_of(raters: Path, name: str) -> Any:
    """The fitted annotator or judge."""
    return (CharClassifier if name == "judge" else WordClassifier).load(raters / name)


def verdicts(row: dict[str, Any], scores: list[float], margin: float) -> list[dict[str, Any]]:
    """A pair for every two answers of a prompt whose scores differ by over ``margin``; the lower score is better."""
    pairs = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        if abs(scores[i] - scores[j]) <= margin or row["answer_ids"][i] == row["answer_ids"][j]:
            continue
        better, worse = (i, j) if scores[i] < scores[j] else (j, i)
        pairs.append(
            {
                "pair_id": f"{row['id']}-{i}{j}",
                "prompt_id": row["id"],
                "prompt_ids": row["prompt_ids"],
                "chosen": row["answers"][better],
                "rejected": row["answers"][worse],
                "chosen_ids": row["answer_ids"][better],
                "rejected_ids": row["answer_ids"][worse],
                "gap": round(abs(scores[i] - scores[j]), 4),
                "clean": True,
            }
        )
    return pairs


def flip(rows: list[dict[str, Any]], noise: float, seed: int) -> None:
    """Turn each verdict round with probability ``noise``, in place."""
    generator = random.Random(seed)
    for row in rows:
        if generator.random() < noise:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
            row["chosen_ids"], row["rejected_ids"] = row["rejected_ids"], row["chosen_ids"]
            row["clean"] = False
