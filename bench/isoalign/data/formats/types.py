"""Records of feedback, independent of the file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from isoalign.core.store import digest

TIE = "ties"
EQUAL = "pairs of equal answers"
OTHER_PROMPT = "rows whose prompt column is not a turn of their conversation"
EQUAL_SCORES = "pairs whose two answers have the same score"
REVERSED = "pairs whose rejected answer has the higher score"
UNRANKED = "answers without a rank"
SKIPPED = "skipped rows"
UNREAD = "demonstrations beside the unread column"
REASONING = "rows whose messages have reasoning beside their content, which is not read"
TRANSCRIPT = "rows with turns of Human: and Assistant: that are read as one plain text"
KEPT = (OTHER_PROMPT, EQUAL_SCORES, REVERSED, REASONING, TRANSCRIPT)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation. ``role``: system, user or assistant; empty for plain text, which gets no chat template."""

    role: str
    content: str


Turns = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to a prompt, the first preferred.

    ``row``: the row of the chosen answer; ``rater`` and ``source``: empty if the file has none; ``place``: position of the
    chosen answer among two candidates, 0 or 1; None if the file has no positions.
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
        """16 hex digits of the prompt and the two answers, whichever was chosen: the unit of agreement."""
        return digest([_role_content(self.prompt), *sorted([_role_content(self.chosen), _role_content(self.rejected)])])

    @property
    def verdict(self) -> int:
        """Index of the chosen answer, 0 or 1, with the two answers sorted."""
        return int(_role_content(self.chosen) > _role_content(self.rejected))


@dataclass(frozen=True, slots=True)
class UnpairedLabel:
    """One answer labelled good (``desirable``) or bad."""

    prompt: Turns
    completion: Turns
    desirable: bool
    row: int
    rater: str = ""
    source: str = ""

    @property
    def item(self) -> str:
        """16 hex digits of the prompt and the answer: the unit of agreement."""
        return digest([_role_content(self.prompt), _role_content(self.completion)])

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
    """One rater's score of one answer; higher is better. Two scores of one rater for one prompt make a comparison."""

    prompt: Turns
    completion: Turns
    score: float
    row: int
    rater: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A message of a tree. ``identity``: within its ``tree``; ``parent``: that of the message that it answers, empty for the
    first; ``rank``: among the answers to that message, lower is better, None if it has none."""

    identity: str
    parent: str
    turn: Turn
    rank: float | None
    row: int
    source: str = ""
    tree: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to count. ``what``: of those in KEPT, which are suspicious, or the name of something left out."""

    what: str


Record = Comparison | UnpairedLabel | Demonstration | Score | Node | Remark


@dataclass(frozen=True)
class Data:
    """A file of feedback. ``rows``: number of rows; ``remarks``: what was left out or is suspicious, with counts."""

    format: str
    rows: int
    comparisons: tuple[Comparison, ...] = ()
    unpaired: tuple[UnpairedLabel, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()
    remarks: Mapping[str, int] = field(default_factory=dict)

    @property
    def ties(self) -> int:
        """Pairs that a rater scored or ranked equal; they are left out."""
        return self.remarks.get(TIE, 0)


def unless_equal(comparison: Comparison) -> Comparison | Remark:
    """The comparison, or a remark if its two answers are equal: such pairs occur in real files and teach nothing."""
    return Remark(EQUAL) if comparison.chosen == comparison.rejected else comparison


def _role_content(turns: Turns) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in turns]
