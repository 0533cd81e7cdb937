"""What feedback is once it is read, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from isoalign.core.store import digest

TIE = "ties"
SAME = "pairs of equal answers"
ELSEWHERE = "rows whose prompt column is no turn of their conversation"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation. ``role``: system, user or assistant; empty for plain text, which takes no chat template."""

    role: str
    content: str


Turns = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to a prompt, the first preferred.

    ``row``: where the chosen answer is from; ``rater`` and ``source``: empty where the file doesn't tell; ``place``: 0 or 1,
    where of two candidates the chosen one stood, None where the file has no places.
    """

    prompt: Turns
    chosen: Turns
    rejected: Turns
    row: int
    rater: str = ""
    source: str = ""
    place: int | None = None

    @property
    def item(self) -> str:
        """16 hex digits of the prompt and the two answers, whichever was chosen: what raters agree or differ on."""
        return digest([_plain(self.prompt), *sorted([_plain(self.chosen), _plain(self.rejected)])])

    @property
    def verdict(self) -> int:
        """Which answer of the item was chosen, the two in sorted order: 0 or 1."""
        return int(_plain(self.chosen) > _plain(self.rejected))


@dataclass(frozen=True, slots=True)
class UnpairedLabel:
    """One answer that somebody called good (``desirable``) or bad."""

    prompt: Turns
    completion: Turns
    desirable: bool
    row: int
    rater: str = ""
    source: str = ""

    @property
    def item(self) -> str:
        """16 hex digits of the prompt and the answer: what raters agree or differ on."""
        return digest([_plain(self.prompt), _plain(self.completion)])

    @property
    def verdict(self) -> int:
        """1 for a good answer, 0 for a bad one."""
        return int(self.desirable)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One answer to learn from."""

    prompt: Turns
    completion: Turns
    row: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """What one rater gave one answer; higher is better. Two of the same rater and prompt make a comparison."""

    prompt: Turns
    completion: Turns
    score: float
    row: int
    rater: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to count: what was left out, or what looks odd. ``what``: TIE, SAME or ELSEWHERE."""

    what: str


Record = Comparison | UnpairedLabel | Demonstration | Score | Remark


@dataclass(frozen=True)
class Data:
    """A file of feedback. ``rows``: how many it has; ``remarks``: what was left out or looks odd, and how often."""

    format: str
    rows: int
    comparisons: tuple[Comparison, ...] = ()
    unpaired: tuple[UnpairedLabel, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()
    remarks: Mapping[str, int] = field(default_factory=dict)

    @property
    def ties(self) -> int:
        """Pairs of answers that a rater held equal; they are left out."""
        return self.remarks.get(TIE, 0)


def distinct(found: Comparison) -> Comparison | Remark:
    """The comparison, or the remark that its two answers are the same: it teaches nothing, and real files have such."""
    return Remark(SAME) if found.chosen == found.rejected else found


def _plain(turns: Turns) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in turns]
