"""What is in a file of feedback, and what speaks against learning from it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isoalign.core.display import count, share
from isoalign.data.formats import (
    Comparison,
    Demonstration,
    Found,
    Reading,
    Remark,
    Score,
    Turns,
    UnpairedLabel,
    reading,
    useless,
)
from isoalign.data.formats.agreement import Table, enter, figures, shared
from isoalign.data.formats.leakage import Leakage
from isoalign.data.formats.report import FIRST_ROWS, Leaks, LengthBias, Lengths, Report
from isoalign.data.formats.types import ELSEWHERE


def check(source: str | Path, format: str | None = None, evaluation_prompts: Sequence[str] = (), ngram: int = 8) -> Report:
    """Read a file row by row and report on it; ``evaluation_prompts`` are looked for in every prompt and answer.

    ``ngram``: words in a row that make a match, see leakage.py. Raises UserError for malformed rows, as `read` does;
    what training alone refuses is in ``problems``.
    """
    opened = reading(source, format)
    tally = _Tally(Leakage(evaluation_prompts, ngram))
    for found in opened.found:
        tally.add(found)
    return tally.report(opened)


@dataclass
class _Tally:
    """Counts of what was read so far: hashes and lengths, no text (a format that needs all its scores at once holds those).

    Hashes have 64 bits: among a million texts two are taken for the same with a chance of 3e-8.
    """

    leakage: Leakage
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
    verdicts: dict[int, int] = field(default_factory=dict)
    duplicates: int = 0
    raters: set[str] = field(default_factory=set)
    table: Table = field(default_factory=dict)
    leaking: dict[int, set[int]] = field(default_factory=dict)
    leaky_rows: list[int] = field(default_factory=list)

    def add(self, found: Found) -> None:
        """Count what one row told."""
        if found.row:
            self.rows += 1
            self.row_keys.add(found.key)
            self.sources.update({record.source for record in found.records if not isinstance(record, Remark)} - {""})
        for record in found.records:
            if isinstance(record, Remark):
                self.remarks[record.what] += 1
                continue
            if found.row:
                answers = (record.chosen, record.rejected) if isinstance(record, Comparison) else (record.completion,)
                self._texts(record.prompt, answers, found.row)
            self.kinds[type(record)] += 1
            if isinstance(record, Comparison):
                self._compare(record)
            if not isinstance(record, Score):
                self._judge(record)

    def _texts(self, prompt: Turns, answers: Sequence[Turns], row: int) -> None:
        key = hash(prompt)
        leaks = self._text("prompt", self.prompts, key, prompt)
        for answer in answers:
            leaks |= self._text("answer", self.answers, hash((key, answer)), answer)
        if leaks and self.leaky_rows[-1:] != [row]:
            self.leaky_rows.append(row)

    def _text(self, name: str, seen: set[int], key: int, turns: Turns) -> set[int]:
        """The evaluation prompts in a text; its length is counted where it is new."""
        if key not in seen:
            seen.add(key)
            for unit, length in zip(("characters", "words"), _size(turns), strict=True):
                self.lengths.setdefault(f"{name} {unit}", array("q")).append(length)
            leaks = set().union(*(self.leakage.found(turn.content) for turn in turns)) if self.leakage.prompts else None
            if leaks:
                self.leaking[key] = leaks
        return set(self.leaking.get(key, ()))

    def _compare(self, pair: Comparison) -> None:
        chosen, rejected = _size(pair.chosen), _size(pair.rejected)
        for unit in range(2):
            self.gaps[unit] += chosen[unit] - rejected[unit]
        self.unequal += chosen[0] != rejected[0]
        self.longer += chosen[0] > rejected[0]
        if pair.place is not None:
            self.placed += 1
            self.first += pair.place == 0

    def _judge(self, record: Comparison | UnpairedLabel | Demonstration) -> None:
        """Whether the same was said before, or the contrary: a bit for each of the two things that can be said of an item."""
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
            enter(self.table, record)

    def report(self, opened: Reading) -> Report:
        """What came of it."""
        pairs, demonstrations = self.kinds[Comparison], self.kinds[Demonstration]
        down = self.kinds[UnpairedLabel] - self.up
        contradictions = sum(bits == 3 for bits in self.verdicts.values())
        several, leaks = shared(self.table), self._leaks()
        trouble = useless(pairs + demonstrations, self.up, down, self.remarks)
        mean = [gap / pairs for gap in self.gaps] if pairs else []
        return Report(
            opened.name, opened.format, self.rows, len(self.prompts), pairs, self.up, down, demonstrations, self.remarks,
            self.rows - len(self.row_keys), self.duplicates, contradictions,
            {name: Lengths.of(values) for name, values in self.lengths.items()},
            LengthBias(mean[0], mean[1], self.unequal, self.longer) if pairs else None,
            (self.first, self.placed) if self.placed else None, len(self.raters), len(several), figures(several), leaks,
            self.sources, opened.unread, (trouble,) if trouble else (), tuple(self._warnings(contradictions, leaks)),
        )  # fmt: skip

    def _leaks(self) -> Leaks | None:
        if not self.leakage.prompts:
            return None
        found = set().union(*self.leaking.values())
        looked_for = self.leakage.prompts - self.leakage.short
        rows = tuple(self.leaky_rows[:FIRST_ROWS])
        return Leaks(len(found), looked_for, self.leakage.short, len(self.leaky_rows), rows)

    def _warnings(self, contradictions: int, leaks: Leaks | None) -> list[str]:
        found = []
        if leaks and leaks.prompts:
            rows = ", ".join(map(str, leaks.first)) + (", ..." if leaks.rows > len(leaks.first) else "")
            which = share(100 * leaks.prompts / leaks.looked_for)
            found.append(f"{which} of the evaluation prompts are in the data: rows {rows}; take these out before training")
        if contradictions:
            found.append(f"items with contrary verdicts of one rater: {count(contradictions)}")
        if odd := self.remarks[ELSEWHERE]:
            found.append(f"{ELSEWHERE}: {count(odd)}; the conversation was believed")
        return found


def _size(turns: Turns) -> tuple[int, int]:
    """Characters, and words between white space."""
    return sum(len(turn.content) for turn in turns), sum(len(turn.content.split()) for turn in turns)
