"""Where a method is from: its paper and equation, what it learns from, the test of its loss, and what it logs.

It is data for pages and boards: no figure depends on it, so it is no part of the keys of runs (`isoalign.core.source`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FAMILIES = {
    "pairs": "pairs of answers, the better one first",
    "unpaired": "single answers, each good or bad",
    "reward": "a reward model, on its own answers",
    "judge": "an AI judge, on its own answers",
    "distillation": "a teacher",
    "none": "no feedback on answers: the base and the control",
}
"""What a method learns from, for boards to group by."""

Scalars = dict[str, str]
"""Name to meaning, with its unit, of what a method logs beside step, loss, gradient norm, learning rate and FLOPs."""

Needs = dict[str, tuple[str, ...]]
"""What a method asks of a task (see `isoalign.training.needs`), by the setting that has it ask, as ``labelled_by=judge``;
under an empty string whatever its settings. Of methods that don't say it, it is what their code names, and the code that they
import of their own package."""

Rows = dict[str, dict[str, Any]]
"""Further algorithms over a class, by the names of their yaml files: the class attributes that differ, ``paper`` at least."""


Conditions = dict[str, tuple[str, tuple[Any, ...]]]
"""Setting to another setting and its values: only with these the first has an effect. Elsewhere it is refused if it is set."""


@dataclass(frozen=True)
class Paper:
    """The provenance of a method.

    ``authors``, ``title``, ``year``: of the paper; ``arxiv``: its identifier there, empty if there is none. ``equation``:
    where in it the loss stands. ``family``: one of `FAMILIES`; ``learns_from``: the same in more words. ``values``: the
    paper's recommended value of each field for which it has one. ``parity``: the file in tests/ that proves the loss, a
    colon, and against what. ``logs``: what each logged scalar means. Raises ValueError for an unknown family.
    """

    authors: str
    title: str
    year: int
    arxiv: str = ""
    equation: str = ""
    family: str = field(kw_only=True)
    learns_from: str = field(kw_only=True)
    values: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    parity: str = field(kw_only=True)
    logs: Scalars = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {self.family!r}")

    def cited(self) -> str:
        """Authors, year and title as Markdown, with a link to arXiv if the paper is there."""
        title = f"[{self.title}](https://arxiv.org/abs/{self.arxiv})" if self.arxiv else self.title
        return f"{self.authors} {self.year}, {title}"
