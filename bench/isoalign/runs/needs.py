"""Whether a task has what a method learns from, settled before anything is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isoalign.config.task import OWN, TaskConfig
from isoalign.core import world
from isoalign.core.errors import UserError
from isoalign.models.shards import layers_of
from isoalign.stages.footprint import policy_without_data
from isoalign.stages.shared import SharedStages
from isoalign.stages.teacher import check_teacher
from isoalign.training.needs import needs_of
from isoalign.training.session import Session


def check_needs(algorithm: Any, shared: SharedStages) -> None:
    """Raises UserError for the first thing that an algorithm asks for and the task does not have."""
    for need in sorted(needs_of(algorithm)):
        if need not in CHECKS:
            raise UserError(f"its needs name {need!r}; known are {', '.join(CHECKS)}")
        CHECKS[need](shared)


def check_shards(name: str, algorithm: Any, task: TaskConfig) -> None:
    """Raises UserError where the processes of a run can't hold weights together, which ``task.model.shard`` asks for."""
    if hasattr(algorithm, "train"):
        why = f"{name} has a training loop of its own, whose weights are whole; leave it out"
    elif not hasattr(algorithm, "iteration"):
        why = f"{name} trains nothing; leave it out"
    elif world.launched() == 1:
        why = "a single process has nobody to hold weights with; start it by torchrun or accelerate launch, or leave it out"
    elif task.model.sampler != OWN:
        why = f"task.model.sampler={task.model.sampler} reads weights that are whole; set task.model.sampler=own"
    else:
        layers_of(policy_without_data(task, 0)[0])
        return
    raise UserError(f"task.model.shard=true: {why}")


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


def check_reads(name: str, session: Session, uses: Callable[[str], bool], rewarded: bool, taught: bool) -> None:
    """Raises UserError for what an algorithm got by code that its key does not follow: a run with other settings of it would
    take this policy for its own. ``uses``, ``rewarded``, ``taught``: what the key follows."""
    after_reads(lambda log: None, name, session, uses, rewarded, taught)([])


def after_reads(
    follow: Callable[[Any], None], name: str, session: Session, uses: Callable[[str], bool], rewarded: bool, taught: bool
) -> Callable[[Any], None]:
    """``follow`` behind the check of `check_reads`, at each step: what would end a run ends it at its first."""
    follows = {"reward": rewarded, "unpaired": uses("labels"), "revisions": uses("revisions"), "teacher": taught}

    def checked(log: Any) -> None:
        got = {*session.cursors, *(["reward"] if session.reward_models else [])}
        got |= {role for role, _ in session.meter.items if role == "teacher"}
        for what in (what for what, followed in follows.items() if what in got and not followed):
            raise UserError(
                f"{name} got {what} of the lab by code that keys do not follow, such as getattr or another package: call the "
                "lab by its name in the algorithm's own package"
            )
        follow(log)

    return checked
