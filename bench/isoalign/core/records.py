"""Records that stages exchange and cards hold: plain, frozen, without tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Budget:
    """What a run may spend; None is no limit. All methods share ``flops``, counted by formula. ``seconds`` are checked before
    each step and before data is gathered, so a run may end slightly after them."""

    flops: float
    labels: int | None = None
    tokens: int | None = None
    steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Sample:
    """One evaluation completion with everything that needs the policy's weights, so that metrics are functions of samples.

    ``logp`` and ``base_logp``: log-probability of the completion under the policy and under the SFT base (nats, T = 1);
    ``kl``: exact full-vocabulary KL(policy || base) summed over the completion's positions; ``entropy``: the policy's,
    summed over the same positions; ``finished``: whether it ended in EOS. None where unknown: completions that were made
    outside isoalign come without a policy.
    """

    prompt_id: str
    draw: int
    prompt: str
    completion: str
    token_ids: list[int]
    logp: float | None
    base_logp: float | None
    kl: float | None
    finished: bool | None
    source: str = ""
    stratum: str = ""
    entropy: float | None = None


@dataclass(frozen=True)
class ScoredPair:
    """A held-out preference pair with its log-probabilities under the policy and the SFT base.

    ``chosen_*``/``rejected_*`` follow the (noisy) verdict; ``clean`` is false where noise flipped it.
    """

    pair_id: str
    prompt_id: str
    chosen: str
    rejected: str
    clean: bool
    chosen_logp: float
    rejected_logp: float
    chosen_base_logp: float
    rejected_base_logp: float
    chosen_length: int
    rejected_length: int


@dataclass(frozen=True)
class ReverseKL:
    """KL(base || policy) of one completion of the SFT base: full vocabulary, summed over its positions, in nats."""

    prompt_id: str
    draw: int
    kl: float


@dataclass(frozen=True)
class Question:
    """The question which of two answers to ``prompt`` is better. ``turns``: of a conversation, for a judge with a form of its
    own."""

    prompt: str
    first: str
    second: str
    turns: tuple[Any, ...] = ()

    @property
    def swapped(self) -> Question:
        """The same question with the answers in the other order."""
        return Question(self.prompt, self.second, self.first, self.turns)


@dataclass(frozen=True)
class Contest:
    """A completion against the opponent's answer to the same prompt, as a judge saw them.

    ``first``: P(the completion is better) when it is shown first; ``second``: the same when it is shown second; None without
    a verdict, and ``missing`` is then the cause. ``equal``: the two are the same text, a tie (1/2) that no judge is asked
    about. ``length`` and ``other_length``: of completion and opponent's answer, in characters. ``tokens``: that the judge read
    and wrote, None if it can't say.
    """

    prompt_id: str
    draw: int
    first: float | None
    second: float | None
    length: int
    other_length: int
    missing: str = ""
    equal: bool = False
    tokens: int | None = 0

    @property
    def sides(self) -> tuple[float, float] | None:
        """In each order, 1 for a win, 0 for a loss, 1/2 for a tie; None unless both orders have a verdict."""
        if self.first is None or self.second is None:
            return None
        first, second = (0.5 if p == 0.5 else float(p > 0.5) for p in (self.first, self.second))
        return first, second

    @property
    def win(self) -> float:
        """The mean over both orders, so that a verdict that turns with the order is a tie; a tie without a verdict."""
        return 0.5 if self.sides is None else sum(self.sides) / 2

    @property
    def chance(self) -> float:
        """P(the completion is better), the mean over both orders; 1/2 without a verdict."""
        return 0.5 if self.first is None or self.second is None else (self.first + self.second) / 2


@dataclass(frozen=True)
class Rewards:
    """Scores of a reward model: of the evaluation samples, of the held-out pairs (chosen, rejected), and of the validation
    pairs, on which its temperature is fitted. ``by``: whose verdicts it was trained on; ``optimised``: whether the method
    trained on it."""

    by: str
    optimised: bool
    samples: list[float]
    pairs: list[tuple[float, float]] = field(default_factory=list)
    validation: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval. ``n``: number of prompts or pairs it rests on; ``missing``: number of missing values."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    missing: int = 0


PromptValues = dict[str, dict[str, float | None]]
"""Metric to prompt to the mean over its draws (over its pairs, for accuracies), by which methods are paired."""


@dataclass(frozen=True)
class Point:
    """A snapshot along the budget, scored on fewer prompts and draws than the final policy, the same ones at every point.

    ``fraction`` of the budget that was spent, in ``flops`` and optimizer ``steps``. The first point is the SFT base (0), the
    last the trained policy.
    """

    fraction: float
    flops: float
    steps: int
    metrics: dict[str, Estimate]
    values: PromptValues


@dataclass(frozen=True)
class Flag:
    """What a reader must know of a row. A failed ``gate`` keeps the row out of the ranking, a ``warning`` does not."""

    kind: Literal["gate", "warning"]
    text: str

    def __str__(self) -> str:
        return f"gate: {self.text}" if self.kind == "gate" else self.text


@dataclass(frozen=True)
class Card:
    """The record of one run; see docs/card.md. ``digits``: of its values by prompt, if they were rounded for publishing."""

    key: str
    task: str
    algorithm: str
    config: dict[str, Any]
    seed: int
    budget: dict[str, float | None]
    spent: dict[str, Any]
    metrics: dict[str, Estimate]
    parents: dict[str, str]
    versions: dict[str, str]
    command: str
    flags: list[Flag] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    families: dict[str, list[str]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    values: PromptValues = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
    seals: dict[str, str] = field(default_factory=dict)
    digits: int | None = None

    @property
    def base(self) -> int | None:
        """Which of the task's bases the run started from, counted from 0; None where the task has one."""
        task = self.config.get("task")
        count = task.get("bases") if isinstance(task, dict) else None
        return self.seed % count if isinstance(count, int) and count > 1 else None

    @property
    def cluster(self) -> int:
        """What runs of a method may not share to count apart: the base, where the task has several, else the seed."""
        return self.seed if self.base is None else self.base

    @property
    def metered(self) -> bool:
        """Whether the run was held to a budget; completions that were made outside isoalign were not."""
        return self.budget.get("flops") is not None
