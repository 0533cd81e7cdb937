"""The report on a file of feedback, as text and as Markdown."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isoalign.core.display import clean, count, escape, grid, share
from isoalign.core.records import Estimate
from isoalign.data.formats.types import KEPT, UNREAD

FIRST_ROWS = 5


@dataclass(frozen=True)
class Lengths:
    """Lengths of texts: median, 95% quantile and maximum."""

    median: float
    p95: int
    longest: int

    @classmethod
    def from_values(cls, values: array[int]) -> Lengths:
        """Summary of at least one length."""
        lengths = np.frombuffer(values, dtype=np.int64)
        p95 = np.quantile(lengths, 0.95, method="inverted_cdf")
        return cls(float(np.median(lengths)), int(p95), int(lengths.max()))

    def __str__(self) -> str:
        return f"median {self.median:,.5g}, 95% up to {count(self.p95)}, longest {count(self.longest)}"


@dataclass(frozen=True)
class LengthBias:
    """Chosen minus rejected length, mean over pairs, in characters and words. ``longer``: number of pairs won by the longer
    answer, of the ``unequal`` pairs whose answers differ in characters."""

    characters: float
    words: float
    unequal: int
    longer: int


@dataclass(frozen=True)
class Leaks:
    """Evaluation prompts found in the data by `isoalign.data.formats.leakage.Leakage`.

    ``prompts``: number found, of ``searched``; ``short``: number too short to search for; ``rows``: number of rows with a
    match; ``first``: the first of these rows.
    """

    prompts: int
    searched: int
    short: int
    rows: int
    first: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """The result of `isoalign.data.formats.check.check_file`.

    ``prompts``: number of distinct prompts; ``remarks``: what was left out or is suspicious, with counts; ``duplicate_rows``:
    rows equal to an earlier row in every column; ``duplicates``: repeated verdicts or demonstrations; ``contradictions``:
    items that one rater judged both ways; ``lengths``: of distinct texts, by "prompt characters" and the like;
    ``first_chosen``: how often the first candidate was chosen, and of how many; ``agreement``: by name, over
    ``judged_by_several`` items; ``problems``: why training rejects the file; ``warnings``: what to look at.
    """

    name: str
    format: str
    rows: int
    prompts: int
    pairs: int
    up: int
    down: int
    demonstrations: int
    remarks: Mapping[str, int]
    duplicate_rows: int
    duplicates: int
    contradictions: int
    lengths: Mapping[str, Lengths]
    length_bias: LengthBias | None
    first_chosen: tuple[int, int] | None
    raters: int
    judged_by_several: int
    agreement: Mapping[str, Estimate]
    leaks: Leaks | None
    sources: Mapping[str, int]
    unread: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    def text(self) -> str:
        """The report for a terminal."""
        facts = self._facts()
        width = max(len(name) for name, _ in facts)
        lines = [f"{self.name}: {self.format}", *(f"  {name.ljust(width)}  {value}" for name, value in facts)]
        lines += [f"  warning: {line}" for line in self.warnings] + [f"  problem: {line}" for line in self.problems]
        return "\n".join(map(_printable, lines))

    def markdown(self) -> str:
        """The report as Markdown."""
        lines = [f"### {escape(self.name)}: {self.format}", ""]
        lines.append(grid(["what", "found"], [[name, escape(value)] for name, value in self._facts()], left=(0, 1)))
        lines += [f"\n**Warning**: {escape(line)}" for line in self.warnings]
        lines += [f"\n**Problem**: {escape(line)}" for line in self.problems]
        return "\n".join(lines) + "\n"

    def _facts(self) -> list[tuple[str, str]]:
        labels = self.up + self.down
        facts = [("rows", count(self.rows)), ("different prompts", count(self.prompts))]
        facts += [("pairs", count(self.pairs))] if self.pairs else []
        facts += [("unpaired", f"{count(labels)}, {share(100 * self.up / labels)} good")] if labels else []
        facts += [("demonstrations", count(self.demonstrations))] if self.demonstrations else []
        left_out = [
            f"{what}: {count(number)}" for what, number in self.remarks.items() if not what.startswith((*KEPT, UNREAD))
        ]
        facts += [("left out", ", ".join(left_out))] if left_out else []
        facts.append(("duplicates", f"rows: {count(self.duplicate_rows)}, verdicts or answers: {count(self.duplicates)}"))
        facts.append(("contradictions", f"judged both ways by one annotator: {count(self.contradictions)}"))
        facts += [(name, str(lengths)) for name, lengths in self.lengths.items()]
        facts += self._verdict_facts()
        if self.leaks:
            leaks = f"{count(self.leaks.prompts)} of {count(self.leaks.searched)}, in {count(self.leaks.rows)} rows"
            short = f" ({count(self.leaks.short)} too short to search for)" if self.leaks.short else ""
            facts.append(("evaluation prompts", leaks + short))
        sources = Counter(self.sources).most_common(FIRST_ROWS)
        more = f", {len(self.sources) - len(sources)} more" if len(self.sources) > len(sources) else ""
        facts += [("sources", ", ".join(f"{name} {count(number)}" for name, number in sources) + more)] if sources else []
        return facts + ([("columns not read", ", ".join(self.unread))] if self.unread else [])

    def _verdict_facts(self) -> list[tuple[str, str]]:
        facts = []
        if bias := self.length_bias:
            facts.append(("chosen - rejected", f"{bias.characters:+,.1f} characters, {bias.words:+,.1f} words on average"))
            wins = share(100 * bias.longer / bias.unequal) if bias.unequal else "–"
            facts.append(("longer wins", f"{wins} of {count(bias.unequal)} pairs of unequal length"))
        if self.first_chosen:
            first, several = self.first_chosen
            facts.append(("first wins", f"{share(100 * first / several)} of {count(several)} pairs of candidates"))
        if self.raters:
            facts.append(("annotators", f"{count(self.raters)}; {count(self.judged_by_several)} items judged by two or more"))
        return facts + [(name.replace("_", " "), _format_estimate(figure)) for name, figure in self.agreement.items()]


def _format_estimate(estimate: Estimate) -> str:
    """An estimate with its interval, if it has one."""
    if estimate.value is None:
        return "–"
    interval = f" [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate.low is not None and estimate.high is not None else ""
    return f"{estimate.value:.3f}{interval} on {count(estimate.n)} items"


def _printable(line: str) -> str:
    """The line without control characters, indentation kept."""
    return line[: len(line) - len(line.lstrip())] + clean(line)
