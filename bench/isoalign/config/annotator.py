"""What a task whose simulated annotator is a scorer of its own cannot have."""

from __future__ import annotations

from typing import Any

from isoalign.config.evaluation import WIN_RATE


def conflict(task: Any) -> str:
    """Why a TaskConfig cannot have its annotator, in a line; empty if it can."""
    name, judge = task.feedback.annotator, task.judge
    what = f"task.feedback.annotator={name}"
    if task.known_reward:
        return f"task.known_reward takes verdicts from task.evaluation.scorer, {what} from another scorer: set one of them"
    if task.feedback.file:
        return f"task.feedback.file replaces simulated annotators, and {what} is one: set one of them"
    if name == WIN_RATE:
        return f"task.feedback.annotator must be a scorer of single answers, which {WIN_RATE} is not"
    if name in (task.evaluation.scorer, task.evaluation.second_scorer):
        return f"{what} is an evaluation scorer; choose another annotator or scorer"
    if judge.kind == "scorer" and judge.model == name:
        return f"task.judge.model {name} is the annotator; choose another scorer as judge"
    if task.reward.classifier == "annotator":
        return (
            f"task.reward.classifier=annotator is the embedded annotator, which {what} replaces; of a classifier name it: "
            "task.reward.classifier=hf:NAME#LABEL, of a reward model task.reward.model=hf:NAME"
        )
    return ""
