"""Whether a task has what a method learns from, settled before anything is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isoalign.core.errors import UserError
from isoalign.stages.shared import SharedStages
from isoalign.stages.teacher import check_teacher
from isoalign.training.needs import needs_of


def check_needs(algorithm: Any, shared: SharedStages) -> None:
    """Raises UserError for the first thing that an algorithm asks for and the task does not have."""
    for need in sorted(needs_of(algorithm)):
        if need not in CHECKS:
            raise UserError(f"its needs name {need!r}; known are {', '.join(CHECKS)}")
        CHECKS[need](shared)


def _pairs(shared: SharedStages) -> None:
    shared.check_pairs("preference pairs")
    shared.check_fits("annotator")


def _labels(shared: SharedStages) -> None:
    if not shared.unpaired_stage:
        shared.check_fits("annotator")


def _reward(shared: SharedStages) -> None:
    shared.check_pairs("a reward model")
    shared.check_reward_fits("annotator")


def _judge(shared: SharedStages) -> None:
    shared.check_fits("judge")


def _judge_score(shared: SharedStages) -> None:
    shared.check_fits("judge")
    shared.check_scoring_judge()


def _judge_reward(shared: SharedStages) -> None:
    shared.check_reward_fits("judge")


def _revisions(shared: SharedStages) -> None:
    _ = shared.revisions_stage  # raises without a constitution


def _all_weights(shared: SharedStages) -> None:
    if shared.task.model.lora:
        raise UserError("it trains all weights, and task.model.lora asks for an adapter; set task.model.lora=0")


CHECKS: dict[str, Callable[[SharedStages], None]] = {
    "pairs": _pairs, "labels": _labels, "reward": _reward, "judge": _judge, "judge_score": _judge_score,
    "judge_reward": _judge_reward, "revisions": _revisions, "teacher": lambda shared: check_teacher(shared.task),
    "all_weights": _all_weights,
}  # fmt: skip
"""The check of each need: of `isoalign.training.needs`."""
