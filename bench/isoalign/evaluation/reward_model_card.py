"""What the card of a task's reward model holds; runs/reward_card.py makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isoalign.core.records import Estimate
from isoalign.evaluation import human


@dataclass(frozen=True)
class Group:
    """A figure over some pairs, whose number is ``estimate.n``, and how many prompts or objectives they belong to: the
    interval keeps the pairs of one together."""

    estimate: Estimate
    clusters: int


@dataclass(frozen=True)
class Human:
    """Accuracy on pairs that people scored; ties count half. ``alike``: pairs whose answers are the same where they are cut;
    ``by_objective``: the mean in which each objective counts once, however many pairs it has."""

    overall: Group
    by_objective: Estimate
    categories: dict[str, Group]
    alike: int
    cut: human.Cut


@dataclass(frozen=True)
class Members:
    """An ensemble's members on the held-out pairs. ``accuracy`` of each; ``disagreement``: standard deviation (over n) of
    their margins, mean over pairs; ``unanimous``: share of pairs on which all prefer the same answer."""

    accuracy: list[Estimate]
    disagreement: Estimate
    unanimous: Estimate


@dataclass(frozen=True)
class RewardCard:
    """The record of one reward model.

    ``ceiling``: 1 - noise, None where the verdicts' noise is not one known rate; ``unflipped``: share of the held-out
    verdicts that noise left as they were, None where nobody knows. ``groups``: of all pairs and of those of each stratum and
    source of prompts, accuracy on the noisy and the clean verdicts. ``bill``: what a method pays at its first call.
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
