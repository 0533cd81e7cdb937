"""Reward models and judges of a plan: they have a price, and no opinion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isoalign.core.batches import Rollouts
from isoalign.core.records import Question
from isoalign.feedback.judges.verdicts import Verdict
from isoalign.models.reward import Bill


@dataclass
class PlannedReward:
    """A reward model that is billed and gives noise. ``price``: FLOPs of reading rollouts; ``bill``: of its training."""

    price: Callable[[Rollouts], int]
    bill: Bill
    read: dict[str, list[int]]

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """A number for each row [B], so that there are a best and a worst one."""
        return torch.linspace(-1, 1, len(rollouts))

    def flops(self, rollouts: Rollouts) -> int:
        """FLOPs of a pass over the rollouts."""
        return self.price(rollouts)

    def training_bill(self) -> Bill:
        """Role, kind and FLOPs of its training."""
        return self.bill

    def seconds(self) -> float:
        """Not known before."""
        return 0.0

    def verdicts(self) -> dict[str, list[int]]:
        """Training verdicts by source."""
        return self.read


@dataclass(frozen=True)
class PlannedScores:
    """A judge that scores single answers, as far as its price goes. ``of``: FLOPs of reading a number of texts."""

    of: Callable[[int], int]

    def __call__(self, texts: list[str], prompts: list[str]) -> Tensor:
        """1/2 for each text."""
        return torch.full((len(texts),), 0.5)

    def flops(self, texts: list[str]) -> int:
        """Cost of reading the texts."""
        return self.of(len(texts))


class PlannedServer:
    """A judge behind a server, whose FLOPs nobody knows."""

    name = "a server"
    identity: dict[str, Any] = {}  # noqa: RUF012

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """No verdict, at no price."""
        return [Verdict(0.5, (0.5, 0.5), None, None) for _ in questions]
