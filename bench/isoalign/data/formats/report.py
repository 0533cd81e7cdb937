"""What a check of a file of feedback found, as text and as Markdown."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isoalign.core.display import clean, count, escape, grid, share
from isoalign.core.records import Estimate
from isoalign.data.formats.types import ELSEWHERE

FIRST_ROWS = 5


@dataclass(frozen=True)
class Lengths:
    """Of texts: the median, the length that 95% do not exceed, and the longest."""

    median: float
    p95: int
    longest: int

    @classmethod
    def of(cls, values: array[int]) -> Lengths:
        """Those of at least one length."""
        lengths = np.frombuffer(values, dtype=np.int64)
        p95 = np.quantile(lengths, 0.95, method="inverted_cdf")
        return cls(float(np.median(lengths)), int(p95), int(lengths.max()))

    def __str__(self) -> str:
        return f"median {self.median:,.5g}, 95% up to {count(self.p95)}, longest {count(self.longest)}"


@dataclass(frozen=True)
class LengthBias:
    """Chosen less rejected, mean over pairs, in characters and words. ``longer``: of the ``unequal`` pairs (in characters)
    how many the longer answer wins."""

    characters: float
    words: float
    unequal: int
    longer: int


@dataclass(frozen=True)
class Leaks:
    """Evaluation prompts that are in the data, as `isoalign.data.formats.leakage.Leakage` finds them.

    ``prompts``: how many are, of ``looked_for``; ``short``: how many were too short to be looked for; ``rows``: how many hold
    any; ``first``: the first of these.
    """

    prompts: int
    looked_for: int
    short: int
    rows: int
    first: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """What `isoalign.data.formats.check.check` found.

    ``prompts``: how many different ones; ``remarks``: what was left out or looks odd, and how often; ``duplicate_rows``: rows
    that equal an earlier one in every column; ``duplicates``: the same verdict, or demonstration, again; ``contradictions``:
    items that one rater judged both ways; ``lengths``: of different texts, by "prompt characters" and the like;
    ``first_chosen``: how often the first candidate was, and of how many; ``agreement``: by name, over ``judged_by_several``
    items; ``problems``: why training would refuse the file; ``warnings``: what to look at.
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
        """For a terminal."""
        facts = self._facts()
        width = max(len(name) for name, _ in facts)
        lines = [f"{self.name}: {self.format}", *(f"  {name.ljust(width)}  {value}" for name, value in facts)]
        lines += [f"  warning: {line}" for line in self.warnings] + [f"  problem: {line}" for line in self.problems]
        return "\n".join(map(_printable, lines))

    def markdown(self) -> str:
        """For a page."""
        lines = [f"### {escape(self.name)}: {self.format}", ""]
        lines.append(grid(["what", "found"], [[name, escape(value)] for name, value in self._facts()], left=(0, 1)))
        lines += [f"\n**Warning**: {escape(line)}" for line in self.warnings]
        lines += [f"\n**Problem**: {escape(line)}" for line in self.problems]
        return "\n".join(lines) + "\n"

    def _facts(self) -> list[tuple[str, str]]:
        labels = self.up + self.down
        found = [("rows", count(self.rows)), ("different prompts", count(self.prompts))]
        found += [("pairs", count(self.pairs))] if self.pairs else []
        found += [("unpaired", f"{count(labels)}, {share(100 * self.up / labels)} good")] if labels else []
        found += [("demonstrations", count(self.demonstrations))] if self.demonstrations else []
        left_out = [f"{what}: {count(number)}" for what, number in self.remarks.items() if what != ELSEWHERE]
        found += [("left out", ", ".join(left_out))] if left_out else []
        found.append(("duplicates", f"rows: {count(self.duplicate_rows)}, verdicts or answers: {count(self.duplicates)}"))
        found.append(("contradictions", f"judged both ways by one rater: {count(self.contradictions)}"))
        found += [(name, str(lengths)) for name, lengths in self.lengths.items()]
        found += self._verdict_facts()
        if self.leaks:
            leaks = f"{count(self.leaks.prompts)} of {count(self.leaks.looked_for)}, in {count(self.leaks.rows)} rows"
            short = f" ({count(self.leaks.short)} too short to tell)" if self.leaks.short else ""
            found.append(("evaluation prompts", leaks + short))
        sources = Counter(self.sources).most_common(FIRST_ROWS)
        more = f", {len(self.sources) - len(sources)} more" if len(self.sources) > len(sources) else ""
        found += [("sources", ", ".join(f"{name} {count(number)}" for name, number in sources) + more)] if sources else []
        return found + ([("columns not read", ", ".join(self.unread))] if self.unread else [])

    def _verdict_facts(self) -> list[tuple[str, str]]:
        found = []
        if bias := self.length_bias:
            found.append(("chosen - rejected", f"{bias.characters:+,.1f} characters, {bias.words:+,.1f} words in the mean"))
            wins = share(100 * bias.longer / bias.unequal) if bias.unequal else "–"
            found.append(("longer wins", f"{wins} of {count(bias.unequal)} pairs of unequal length"))
        if self.first_chosen:
            first, several = self.first_chosen
            found.append(("first wins", f"{share(100 * first / several)} of {count(several)} pairs of candidates"))
        if self.raters:
            found.append(("raters", f"{count(self.raters)}; {count(self.judged_by_several)} items judged by two or more"))
        return found + [(name.replace("_", " "), _told(figure)) for name, figure in self.agreement.items()]


def _told(figure: Estimate) -> str:
    """A figure with its interval, as far as there is one."""
    if figure.value is None:
        return "–"
    interval = f" [{figure.low:.3f}, {figure.high:.3f}]" if figure.low is not None and figure.high is not None else ""
    return f"{figure.value:.3f}{interval} on {count(figure.n)} items"


def _printable(line: str) -> str:
    """The line as `clean` makes it, its indentation kept."""
    return line[: len(line) - len(line.lstrip())] + clean(line)
