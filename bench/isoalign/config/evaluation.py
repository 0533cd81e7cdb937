"""Configuration of the evaluation: samples, scorers, and the win rate: who judges, and against whose answers."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from isoalign.config.feedback import KINDS, JudgeConfig
from isoalign.core.objective import Objective
from isoalign.core.store import added_later

PRECISIONS = ("float32", "tf32", "bfloat16")
WIN_RATE = "win_rate"  # the scorer by whose verdicts a task ranks
SCORER = "scorer"
NONE = "none"
BASE = "base"
HUB, REWARD = (
    "hf:",
    "reward:",
)  # beginnings of names of scorers: classifiers, reward models


def scorer_source(name: str) -> str:
    """The folder or name of a scorer's weights, without its label; empty for what is embedded, a rule or of a package."""
    return name.removeprefix(REWARD).removeprefix(HUB).partition("#")[0] if name.startswith((HUB, REWARD)) else ""


@dataclass(frozen=True)
class WinRateJudge(JudgeConfig):
    """The judge of the win rate, with the settings of ``task.judge``; by a ``scorer`` the answer with the better score wins.
    The kind is empty for no win rate, and ``none`` for none whatever else is set."""

    kind: str = ""

    PLACE: ClassVar[str] = "task.evaluation.win_rate.judge"
    KINDS: ClassVar[tuple[str, ...]] = ("", *KINDS, NONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criterion:
            raise ValueError(f"{self.PLACE}.criterion has no effect; set task.evaluation.win_rate.criterion")
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


@dataclass(frozen=True)
class EvaluationConfig:
    """``draws`` completions of each prompt of ``split``, scored by two scorers that never train anything. Tuning uses the
    validation split, reports the test split. Snapshots along the budget are scored on ``curve_prompts`` of the prompts and
    their first ``curve_draws`` samples. ``precision`` of the policy's and the base's passes: float32, or tf32 (on an
    accelerator) or bfloat16, which are faster and change every figure a little. ``scorer`` may be ``win_rate``: the score of
    a completion is then the verdict of the judge of ``win_rate``, 1 for a win and a half for a tie."""

    split: str = "test"
    draws: int = 8
    seed: int = 1234
    scorer: str = "tox_block"
    second_scorer: str = "toxic_classifier"
    curve_prompts: int = 128
    curve_draws: int = 2
    precision: str = added_later("float32")
    win_rate: WinRateConfig = added_later(OFF)

    def __post_init__(self) -> None:
        if self.second_scorer == WIN_RATE or (self.scorer == WIN_RATE and not self.win_rate.on):
            raise ValueError(
                "win_rate is a task.evaluation.scorer, not a second one, and needs the judge task.evaluation.win_rate.judge"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"task.evaluation.precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.curve_prompts < 1:
            raise ValueError(f"task.evaluation.curve_prompts must be 1 or more, not {self.curve_prompts}")
        if not 1 <= self.curve_draws <= self.draws:
            raise ValueError(f"task.evaluation.curve_draws must lie in [1, {self.draws}], not {self.curve_draws}")
        if self.split not in ("validation", "test"):
            raise ValueError(f"task.evaluation.split must be validation or test, not {self.split!r}")


def conflict(evaluation: EvaluationConfig, objective: Objective) -> str:
    """Why a win rate does not fit an objective, in a line; empty if it does."""
    config, noun = evaluation.win_rate, objective.noun
    if config.judge.kind in ("lm", "server") and not (config.criterion or objective.is_toxicity):
        return (
            f"task.evaluation.win_rate.criterion must say what is better for the objective {noun}: without it the judge is "
            "asked which answer is less toxic"
        )
    if config.judge.kind == "classifier" and not objective.is_toxicity:
        return (
            f"the classifier judge knows toxicity alone, and the objective is {noun}: set task.evaluation.win_rate.judge.kind "
            "to scorer, lm or server"
        )
    if evaluation.scorer == WIN_RATE and (objective.is_toxicity or not objective.higher_is_better):
        return "task.evaluation.scorer=win_rate needs a task.objective of another name, of which more is better"
    return ""
