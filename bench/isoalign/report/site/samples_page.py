"""Samples side by side: what several runs answered to one prompt at one draw.

The texts of a task are one file, bounded whatever the number of runs: the prompts that fit, in the order of their identifiers,
which are digests, so that nobody has chosen them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoalign.core.display import clean, visible
from isoalign.core.records import Card
from isoalign.evaluation.kept import Kept
from isoalign.report.board.rows import INFERENCE, REFERENCE, UNMETERED, Row
from isoalign.report.leaderboard import Board
from isoalign.report.pages.phrases import budget_phrase
from isoalign.report.site.document import assigned_data, document, render, run_path, script
from isoalign.report.site.names import run_id, samples_path

MOST = 4_000_000  # characters of a task's texts
LONGEST = 4_000  # characters of a text, behind which it is cut
DRAWS = 4
BESIDE = 40  # characters of a text's figures
FIRST = 4  # runs that are shown before the reader chooses
Text = list[Any]  # the text, its score and KL, and where it was cut the number of its characters


class SamplesPage:
    """The samples of a board's runs, which are added one by one so that no more than what is shown is held."""

    def __init__(self, board: Board) -> None:
        self.board, self.objective = board, board.sections[0].objective
        cards = {run_path(card): card for section in board.sections for row in section.rows for card in row.cards}
        self.count = len(cards)
        self.numbers = {_evaluation_seed(card) for card in cards.values() if card.metered}
        self.runs: list[dict[str, Any]] = []
        self.prompts: dict[str, dict[str, Any]] = {}  # in the order in which they are shown
        self.draws, self.of = 0, (0, 0)  # of how many prompts and draws those that are shown are

    def add(self, number: int, row: Row, card: Card, kept: Kept) -> None:
        """Add a run of a section, counted from 1, with those of its samples that are shown."""
        if kept.samples and not self.prompts:
            self._choose(kept)
        texts = self._texts(kept, str(card.notes.get("scorer")))
        self.runs.append(
            {
                "id": run_id(card), "row": clean(row.name), "seed": card.seed, "section": number - 1,
                "place": row.place, "page": f"../{run_path(card)}", "notes": self._notes(row, card, kept, texts),
                "texts": texts,
            }
        )  # fmt: skip

    def pages(self) -> Iterator[tuple[str, str]]:
        """The page and its data, by path."""
        path = samples_path(self.board.task)
        self._trim()
        yield path.replace(".html", ".js"), assigned_data("isoalignSamples", self._data())
        scripts = [script(Path(path).name.replace(".html", ".js")), script("assets/samples.js", 1)]
        held = sum(any(map(any, run["texts"])) for run in self.runs)
        values = {
            "task": self.board.task, "held": held, "count": self.count, "prompts": len(self.prompts), "draws": self.draws,
            "of": self.of, "numbers": len(self.numbers), "toxic": self.objective.is_toxicity, "longest": LONGEST,
        }  # fmt: skip
        body = render("samples.html", **values)
        yield path, document(f"Samples of {self.board.task}, side by side", body, depth=1, scripts=scripts)

    def _choose(self, kept: Kept) -> None:
        """The prompts and draws that fit, by the lengths of the first run's texts."""
        rows = {row["prompt_id"]: row for row in kept.samples}
        draws = 1 + max(row["draw"] for row in kept.samples)
        mean = sum(min(LONGEST, len(row["completion"])) for row in kept.samples) / len(kept.samples)
        places = max(1, int(MOST / self.count / (mean + BESIDE)))
        self.draws = min(draws, DRAWS, max(1, places // 8))
        self.of = (len(rows), draws)
        for name in sorted(rows)[: max(1, places // self.draws)]:
            about = " · ".join(filter(None, [clean(str(rows[name].get(key) or "")) for key in ("stratum", "source")]))
            self.prompts[name] = {"id": name, "text": _cut(str(rows[name]["prompt"])), "about": about}

    def _texts(self, kept: Kept, scorer: str) -> list[list[Text | None]]:
        """By prompt and draw; None where the run has no such sample."""
        scores = kept.scores.get(scorer) or [None] * len(kept.samples)
        found: dict[tuple[str, int], Text] = {}
        for sample, score in zip(kept.samples, scores, strict=True):
            if sample["prompt_id"] in self.prompts and sample["draw"] < self.draws:
                text, *length = _cut(str(sample["completion"]))
                figures = [_rounded(score, 3), _rounded(sample.get("kl"), 2)]
                found[sample["prompt_id"], sample["draw"]] = [text, *figures, *length]
        return [[found.get((prompt, draw)) for draw in range(self.draws)] for prompt in self.prompts] if found else []

    def _notes(self, row: Row, card: Card, kept: Kept, texts: list[list[Text | None]]) -> list[str]:
        """What must be known before its texts are read beside others."""
        if not kept.samples:
            return [f"Its samples are not here ({kept.lacking.get('samples', 'it has none')})."]
        if not texts:
            return ["It was asked other prompts."]
        notes = [f"It failed a gate: {clean(flag.text)}." for flag in card.flags if flag.kind == "gate"]
        if row.part == UNMETERED:
            notes.append("Made outside isoalign: its draws share no random numbers with the others.")
        elif row.part == INFERENCE:
            notes.append("Chosen among several answers: its draws share no random numbers with the others.")
        elif len(self.numbers) > 1:
            notes.append(f"Its random numbers are those of task.evaluation.seed={_evaluation_seed(card)}.")
        if card.base is not None:
            notes.append(f"From base {card.base} of the task's.")
        return notes

    def _trim(self) -> None:
        """Drop the last prompts until all texts fit: those of later runs may be longer than the first one's."""
        sizes = [
            sum(len(text[0]) + BESIDE for run in self.runs if run["texts"] for text in run["texts"][place] if text)
            for place in range(len(self.prompts))
        ]
        kept = len(sizes)
        while kept > 1 and sum(sizes[:kept]) > MOST:
            kept -= 1
        self.prompts = dict(list(self.prompts.items())[:kept])
        for run in self.runs:
            run["texts"] = run["texts"][:kept]

    def _data(self) -> dict[str, Any]:
        scorers = {str(card.notes.get("scorer")) for one in self.board.sections for row in one.rows for card in row.cards}
        first: dict[str, dict[str, Any]] = {}
        for run in sorted(self.runs, key=lambda run: bool(run["texts"]), reverse=True):
            first.setdefault(run["row"], run)
        shown = [run["id"] for run in first.values() if run["texts"]]
        references = [run["id"] for run in first.values() if run["place"] == REFERENCE and run["texts"]]
        return {
            "prompts": list(self.prompts.values()),
            "draws": self.draws,
            "runs": self.runs,
            "sections": [budget_phrase(section) for section in self.board.sections],
            "first": list(dict.fromkeys([*references[:1], *shown]))[:FIRST],
            "noun": self.objective.noun,
            "score": f"{self.objective.title} by {', '.join(sorted(map(clean, scorers)))}",
            "threshold": self.objective.threshold if self.objective.is_toxicity else None,
        }


def _cut(text: str) -> list[Any]:
    """The text that is shown, and where that is not all of it, the number of characters of the whole."""
    return [visible(text)] if len(text) <= LONGEST else [visible(text[:LONGEST]), len(text)]


def _rounded(value: Any, digits: int) -> float | None:
    return round(float(value), digits) if isinstance(value, int | float) else None


def _evaluation_seed(card: Card) -> str:
    task = card.config.get("task")
    evaluation = task.get("evaluation") if isinstance(task, dict) else None
    return clean(str(evaluation.get("seed"))) if isinstance(evaluation, dict) else "unknown"
