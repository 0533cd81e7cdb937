"""The contents of a reward model's card, which runs/reward_card.py makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isoalign.core.records import Estimate
from isoalign.evaluation import human


@dataclass(frozen=True)
class Group:
    """An estimate over ``estimate.n`` pairs, and the number of prompts or objectives that they belong to, by which the
    interval is clustered."""

    estimate: Estimate
    clusters: int


@dataclass(frozen=True)
class Human:
    """Accuracy on pairs that people scored; ties count half. ``alike``: pairs whose answers are equal after truncation.
    ``by_objective``: the mean over objectives, each with equal weight."""

    overall: Group
    by_objective: Estimate
    categories: dict[str, Group]
    alike: int
    cut: human.Cut


@dataclass(frozen=True)
class Members:
    """The members of an ensemble on the held-out pairs. ``accuracy``: of each. ``disagreement``: standard deviation (over n)
    of their margins, averaged over pairs. ``unanimous``: share of pairs on which all members prefer the same answer."""

    accuracy: list[Estimate]
    disagreement: Estimate
    unanimous: Estimate


@dataclass(frozen=True)
class RewardCard:
    """The record of one reward model.

    ``ceiling``: 1 - noise, None unless the verdicts have a single known noise rate. ``unflipped``: share of the held-out
    verdicts that noise did not flip, None if unknown. ``groups``: accuracy on noisy and on clean verdicts, over all pairs and
    over those of each stratum and source of prompts. ``bill``: what a method pays at its first call.
    """

    key: str
    task: str
    by: str
    settings: dict[str, Any]
    command: str
    bill: dict[str, Any]
    warnings: list[str]
    ceiling: float | None
    unflipped: Estimate | None
    metrics: dict[str, Estimate]
    groups: dict[str, dict[str, Group]]
    reliability: list[dict[str, Any]]
    members: Members | None
    human: Human
    notes: list[str]
    parents: dict[str, str]
    contents: dict[str, str]
    versions: dict[str, str]
