"""Report on a file of feedback: its content, and problems for training."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from isoalign.core.display import count, share
from isoalign.data.formats import (
    Comparison,
    Demonstration,
    FeedbackFile,
    Remark,
    RowRecords,
    Score,
    Turns,
    UnpairedLabel,
    open_file,
    training_problem,
)
from isoalign.data.formats.agreement import Table, add_verdict, judged_by_several, rater_agreement
from isoalign.data.formats.conversation import begins_with_prompt
from isoalign.data.formats.leakage import Leakage
from isoalign.data.formats.report import FIRST_ROWS, Leaks, LengthBias, Lengths, Report
from isoalign.data.formats.types import EQUAL_SCORES, OTHER_PROMPT, REASONING, REVERSED, SKIPPED, TRANSCRIPT, UNREAD, Node

MANY_REPEATING = 0.05  # of the different answers, those that begin with their prompt
ONE_SIDED = 10  # pairs of candidates that one place wins, of all


def check_file(
    source: str | Path,
    format: str | None = None,
    evaluation_prompts: Sequence[str] = (),
    ngram: int = 8,
    *,
    conversations: bool | None = None,
    columns: Mapping[str, str] | None = None,
    skip: str = "",
) -> Report:
    """Read a file row by row and report on it; ``evaluation_prompts`` are searched for in every prompt and answer.

    ``ngram``: consecutive words that make a match, see leakage.py; ``conversations``: whether the prompts that are evaluated
    are all conversations (True) or plain texts (False), to compare with; ``columns``, ``skip``: as in `open_file`. Raises
    UserError for malformed rows, as `read_file` does; what only training rejects is in ``problems``.
    """
    opened = open_file(source, format, columns=columns, skip=skip)
    tally = _Tally(Leakage(evaluation_prompts, ngram), conversations)
    for row in opened.rows:
        tally.add(row)
    tally.remarks.update(remark.what for remark in opened.remarks)
    return tally.report(opened)


@dataclass
class _Tally:
    """Running counts, hashes and lengths; texts are not kept (except by formats that need all scores at once).

    Hashes have 64 bits: the chance of a collision among a million texts is 3e-8.
    """

    leakage: Leakage
    conversations: bool | None = None
    talk: Counter[bool] = field(default_factory=Counter)
    kinds: Counter[type] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    row_keys: set[int] = field(default_factory=set)
    prompts: set[int] = field(default_factory=set)
    answers: set[int] = field(default_factory=set)
    lengths: dict[str, array[int]] = field(default_factory=dict)
    gaps: list[int] = field(default_factory=lambda: [0, 0])
    unequal: int = 0
    longer: int = 0
    up: int = 0
    first: int = 0
    placed: int = 0
    repeating: int = 0
    verdicts: dict[int, int] = field(default_factory=dict)
    duplicates: int = 0
    raters: set[str] = field(default_factory=set)
    table: Table = field(default_factory=dict)
    leaking: dict[int, set[int]] = field(default_factory=dict)
    leaky_rows: dict[int, None] = field(default_factory=dict)

    def add(self, row: RowRecords) -> None:
        """Count the records of a row."""
        if row.number:
            self.rows += 1
            self.row_keys.add(row.key)
            self.sources.update({record.source for record in row.records if not isinstance(record, Remark)} - {""})
        for record in row.records:
            if isinstance(record, Remark):
                self.remarks[record.what] += 1
                continue
            if isinstance(record, Node):
                continue  # its texts count where answers to them are compared
            answers = (record.chosen, record.rejected) if isinstance(record, Comparison) else (record.completion,)
            self._add_texts(record.prompt, answers, record.row)
            self.kinds[type(record)] += 1
            if isinstance(record, Comparison):
                self._add_lengths(record)
            if not isinstance(record, Score):
                self._add_verdict(record)

    def _add_texts(self, prompt: Turns, answers: Sequence[Turns], row: int) -> None:
        key = hash(prompt)
        self.talk[any(turn.role for turn in prompt)] += key not in self.prompts
        leaks = self._add_text("prompt", self.prompts, key, prompt)
        for answer in answers:
            self.repeating += hash((key, answer)) not in self.answers and begins_with_prompt(prompt, answer)
            leaks |= self._add_text("answer", self.answers, hash((key, answer)), answer)
        if leaks:
            self.leaky_rows[row] = None

    def _add_text(self, name: str, seen: set[int], key: int, turns: Turns) -> set[int]:
        """Indices of the evaluation prompts in a text; the length of a new text is counted."""
        if key not in seen:
            seen.add(key)
            for unit, length in zip(("characters", "words"), _size(turns), strict=True):
                self.lengths.setdefault(f"{name} {unit}", array("q")).append(length)
            leaks = set().union(*(self.leakage.matches(turn.content) for turn in turns)) if self.leakage.prompts else None
            if leaks:
                self.leaking[key] = leaks
        return set(self.leaking.get(key, ()))

    def _add_lengths(self, pair: Comparison) -> None:
        chosen, rejected = _size(pair.chosen), _size(pair.rejected)
        for unit in range(2):
            self.gaps[unit] += chosen[unit] - rejected[unit]
        self.unequal += chosen[0] != rejected[0]
        self.longer += chosen[0] > rejected[0]
        if pair.place is not None:
            self.placed += 1
            self.first += pair.place == 0

    def _add_verdict(self, record: Comparison | UnpairedLabel | Demonstration) -> None:
        """Count duplicates and contradictions: an item has one bit for each of its two possible verdicts."""
        if isinstance(record, Comparison):
            item = hash((record.prompt, frozenset((record.chosen, record.rejected)), record.rater))
            bit = 1 if hash(record.chosen) < hash(record.rejected) else 2
        elif isinstance(record, UnpairedLabel):
            item, bit = hash((record.prompt, record.completion, record.rater)), 1 + record.desirable
            self.up += record.desirable
        else:
            item, bit = hash((record.prompt, record.completion)), 1
        before = self.verdicts.get(item, 0)
        self.duplicates += bool(before & bit)
        self.verdicts[item] = before | bit
        if not isinstance(record, Demonstration) and record.rater:
            self.raters.add(record.rater)
            add_verdict(self.table, record)

    def report(self, opened: FeedbackFile) -> Report:
        """The report on all rows added."""
        pairs, demonstrations = self.kinds[Comparison], self.kinds[Demonstration]
        down = self.kinds[UnpairedLabel] - self.up
        contradictions = sum(bits == 3 for bits in self.verdicts.values())
        several, leaks = judged_by_several(self.table), self._leaks()
        problem = training_problem(pairs + demonstrations, self.up, down, self.remarks)
        problems = tuple(line for line in (opened.problem, problem) if line)
        mean = [gap / pairs for gap in self.gaps] if pairs else []
        return Report(
            opened.name, opened.format, self.rows, len(self.prompts), pairs, self.up, down, demonstrations, self.remarks,
            self.rows - len(self.row_keys), self.duplicates, contradictions, {name: Lengths.from_values(values) for name,
            values in self.lengths.items()}, LengthBias(mean[0], mean[1], self.unequal, self.longer) if pairs else None,
            (self.first, self.placed) if self.placed else None, len(self.raters), len(several), rater_agreement(several),
            leaks, self.sources, opened.unread, problems, tuple(self._warnings(contradictions, leaks)),
        )  # fmt: skip

    def _leaks(self) -> Leaks | None:
        if not self.leakage.prompts:
            return None
        leaked = set().union(*self.leaking.values())
        searched = self.leakage.prompts - self.leakage.short
        rows = tuple(islice(self.leaky_rows, FIRST_ROWS))
        return Leaks(len(leaked), searched, self.leakage.short, len(self.leaky_rows), rows)

    def _warnings(self, contradictions: int, leaks: Leaks | None) -> list[str]:
        warnings = []
        if leaks and leaks.prompts:
            rows = ", ".join(map(str, leaks.first)) + (", ..." if leaks.rows > len(leaks.first) else "")
            percent = share(100 * leaks.prompts / leaks.searched)
            warnings.append(
                f"{percent} of the evaluation prompts are in the data: rows {rows}; remove these rows before training"
            )
        if self.conversations is not None and (others := self.talk[not self.conversations]):
            forms = ("plain texts", "conversations")[:: 1 if self.conversations else -1]
            hint = "; task.model.template=always makes a plain prompt a user turn" * self.conversations
            warnings.append(f"{count(others)} prompts are {forms[0]}, and all that the task evaluates are {forms[1]}{hint}")
        if self.placed >= ONE_SIDED and self.first in (0, self.placed):
            which = "first" if self.first else "second"
            warnings.append(
                f"the {which} candidate wins all {count(self.placed)} pairs: does its column mean what the format says?"
            )
        if self.repeating > MANY_REPEATING * len(self.answers):
            begin = "begin with their prompt, which is read as a part of them; give the answers alone"
            warnings.append(f"{count(self.repeating)} of {count(len(self.answers))} different answers {begin}")
        if contradictions:
            warnings.append(f"items with contradictory verdicts of one annotator: {count(contradictions)}")
        if odd := self.remarks[OTHER_PROMPT]:
            warnings.append(f"{OTHER_PROMPT}: {count(odd)}; the prompt is taken from the conversation")
        if talks := self.remarks[TRANSCRIPT]:
            how = "format=transcripts reads those that begin with Human:, and with skip=faulty leaves the others out"
            warnings.append(f"{TRANSCRIPT}: {count(talks)}; {how}")
        for what in (EQUAL_SCORES, REVERSED, REASONING):
            if doubtful := self.remarks[what]:
                warnings.append(f"{what}: {count(doubtful)}; they are kept")
        warnings += [f"{what}: {count(number)}" for what, number in self.remarks.items() if what.startswith(UNREAD)]
        if skipped := sum(number for what, number in self.remarks.items() if what.startswith(SKIPPED)):
            warnings.append(f"rows that are skipped by choice: {count(skipped)} of {count(self.rows)}")
        return warnings


def _size(turns: Turns) -> tuple[int, int]:
    """Number of characters, and of words between white space."""
    return sum(len(turn.content) for turn in turns), sum(len(turn.content.split()) for turn in turns)
