"""What a task with a known reward, or with another objective than toxicity, cannot have."""

from __future__ import annotations

from typing import Any

from isoalign.config.evaluation import WIN_RATE


def conflict(task: Any) -> str:
    """Why a TaskConfig cannot have a known reward, in a line; empty if it can.

    What would be without effect is refused, and so is what would make the reward another function than the objective.
    """
    reward, shaping, scores = task.reward, task.shaping, task.evaluation
    trained = {
        "base": reward.base,
        "classifier": reward.classifier,
        "model": reward.model,
        "hard": reward.hard,
        "golden": reward.golden,
    }
    shaped = {"length_penalty": shaping.length_penalty, "clip": shaping.clip}
    if task.feedback.file:
        return "task.known_reward takes verdicts from task.evaluation.scorer, task.feedback.file from people: set one of them"
    if unused := [name for name, value in trained.items() if value]:
        return f"task.known_reward has no reward model to train, so task.reward.{unused[0]} has no effect: set one of them"
    if shaping.members > 1:
        return "task.known_reward has one reward, not an ensemble: set task.shaping.members=1"
    if other := [name for name, value in shaped.items() if value]:
        return f"task.shaping.{other[0]} makes the reward another function than the objective; set task.known_reward=false"
    if scores.scorer == WIN_RATE:
        return "task.known_reward needs a scorer of single answers, which task.evaluation.scorer=win_rate is not"
    return ""


def unpaired(file: str, wanted: str) -> str:
    """Why ``wanted`` cannot be had of a file of unpaired feedback, in a line."""
    return (
        f"task.feedback.file {file} holds unpaired feedback; {wanted} must come from comparisons. KTO learns from unpaired "
        "feedback"
    )


def misfit(task: Any, labelled_by: str) -> str:
    """Why verdicts by ``annotator`` or ``judge``, or the ``reward`` of the task's classifier, are not of the objective of a
    TaskConfig, in a line; empty if they are.

    The simulated annotator and the classifier judge were fit on labels of toxicity.
    """
    noun = task.objective.noun
    if task.objective.is_toxicity:
        return ""
    if labelled_by == "annotator" and not task.scored_by(labelled_by) and not task.feedback.file:
        return (
            f"the simulated annotator knows toxicity alone, and the objective is {noun}: set task.known_reward=true for "
            "verdicts and rewards by task.evaluation.scorer, or task.feedback.annotator or task.feedback.file"
        )
    if labelled_by == "reward" and task.reward.classifier == "annotator":
        return (
            f"task.reward.classifier=annotator knows toxicity alone, and the objective is {noun}: leave it out to train a "
            "reward model on the verdicts, or name another classifier"
        )
    if labelled_by == "judge" and task.judge.kind == "classifier":
        return (
            f"the classifier judge knows toxicity alone, and the objective is {noun}: set task.judge.kind=scorer, lm or server"
        )
    if labelled_by == "judge" and task.judge.kind in ("lm", "server") and not (task.judge.criterion or task.constitution.file):
        return (
            f"task.judge.criterion must say what is better for the objective {noun}: without it the judge is asked which "
            "answer is less toxic"
        )
    return ""
