"""Configuration of the win rate: who judges, and against whose answers."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from isoalign.config.feedback import KINDS, JudgeConfig

WIN_RATE = "win_rate"  # the scorer by whose verdicts a task ranks
SCORER = "scorer"
NONE = "none"
BASE = "base"


@dataclass(frozen=True)
class WinRateJudge(JudgeConfig):
    """The judge of the win rate, with the settings of ``task.judge`` and kinds of its own: ``scorer``, by which the answer
    with the better score wins, ``model`` being its name; empty for no win rate, and ``none``, whatever else is set."""

    kind: str = ""

    PLACE: ClassVar[str] = "task.evaluation.win_rate.judge"
    KINDS: ClassVar[tuple[str, ...]] = ("", *KINDS, SCORER, NONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == SCORER and not self.model:
            raise ValueError(f"{self.PLACE}.model must name the scorer, as in task.evaluation.scorer")
        if self.kind == SCORER and self.model == WIN_RATE:
            raise ValueError(f"{self.PLACE}.model must be a scorer of single answers, which win_rate is not")
        if not self.kind and (given := _changed(self)):
            raise ValueError(f"{self.PLACE}.kind is empty, so {self.PLACE}.{given[0]} has no effect; set the kind")


@dataclass(frozen=True)
class WinRateConfig:
    """How often a judge prefers the policy's answer to another one; off unless ``judge`` has a kind.

    ``opponent``: ``base`` for the SFT base's completions of the same prompts and draws, or a file, folder or ``hf:NAME`` with
    one answer to each evaluation prompt, in the columns ``prompt`` and ``completion``, or in those that ``columns`` maps them
    to. ``draws``: completions of each prompt that are judged, 0 for all. ``criterion``: what is better, as a sentence, for a
    judge that reads; empty for its own question, which is about toxicity. ``missing``: the greatest share of questions without
    a verdict that is accepted; they count as ties.
    """

    judge: WinRateJudge = field(default_factory=WinRateJudge)
    opponent: str = BASE
    columns: dict[str, str] | None = None
    draws: int = 1
    criterion: str = ""
    missing: float = 0.2

    def __post_init__(self) -> None:
        if self.draws < 0:
            raise ValueError(f"task.evaluation.win_rate.draws must be 0 for all, or more, not {self.draws}")
        if not 0 <= self.missing < 1:
            raise ValueError(f"task.evaluation.win_rate.missing must be a share in [0, 1), not {self.missing}")
        if not self.opponent.strip():
            raise ValueError("task.evaluation.win_rate.opponent must be base or a file with answers")
        if self.columns and (odd := sorted(self.columns.keys() - {"prompt", "completion"})):
            raise ValueError(f"task.evaluation.win_rate.columns maps prompt and completion, not {', '.join(odd)}")
        if self.criterion and self.judge.kind in ("classifier", SCORER):
            raise ValueError(f"task.evaluation.win_rate.criterion is for a judge that reads, and a {self.judge.kind} does not")
        if not self.judge.kind and (given := _changed(self)):
            raise ValueError(
                f"task.evaluation.win_rate.{given[0]} has no effect without a judge; set task.evaluation.win_rate.judge.kind"
            )

    @property
    def on(self) -> bool:
        """Whether a win rate is measured."""
        return self.judge.kind not in ("", NONE)

    def describe(self, scorer: str) -> str:
        """By whom and against whom it is measured, in a line; models and files without their folders, which are others on
        another machine. ``scorer``: by which the task ranks."""
        kind, model = self.judge.kind, _file_name(self.judge.model)
        judge = "the toxicity classifier" if kind == "classifier" else ":".join(filter(None, [kind, model]))
        opponent = "the SFT base" if self.opponent == BASE else _file_name(self.opponent)
        asked = f', asked for "{self.criterion}"' if self.criterion else ""
        every = not self.draws or scorer == WIN_RATE
        draws = "all draws" if every else f"{self.draws} draw{'s' * (self.draws > 1)}"
        return f"{judge} against {opponent}{asked}, {draws} of a prompt"


def _file_name(name: str) -> str:
    return Path(name).name if Path(name).exists() else name


def _changed(config: Any) -> list[str]:
    """Settings that are not at their default."""
    return [f.name for f in fields(config) if f.default is not MISSING and getattr(config, f.name) != f.default]


OFF = WinRateConfig()
