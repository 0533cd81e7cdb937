"""Settings of a task that exclude one another."""

from __future__ import annotations

from typing import Any

from isoalign.config import annotator, evaluation, known
from isoalign.config.feedback import PanelConfig


def conflict(task: Any) -> str:
    """Why the settings of a TaskConfig exclude one another, in a line; empty if they don't."""
    scorers = (task.evaluation.scorer, task.evaluation.second_scorer)
    if scorers[0] == scorers[1]:
        return f"task.evaluation.second_scorer must be another scorer than {scorers[0]}: it is the second opinion"
    if task.known_reward and (why := known.conflict(task)):
        return why
    if task.feedback.annotator and (why := annotator.conflict(task)):
        return why
    if task.judge.kind == "scorer" and task.judge.model in scorers:
        return f"task.judge.model {task.judge.model} is an evaluation scorer; choose another scorer as judge"
    if task.judge.criterion and task.constitution.file:
        said = "task.judge.criterion has no effect with task.constitution.file, whose principles judge"
        return f"{said}; task.judge.criterion= leaves it out"
    if task.constitution.kind != "server":  # which takes the address from there
        unread = {"classifier": ("model", "base_url", "thought", "template"), "lm": ("base_url",), "scorer": ("base_url",)}
        if given := [name for name in unread.get(task.judge.kind, ()) if getattr(task.judge, name)]:
            return f"task.judge.{given[0]} has no effect on a judge of kind {task.judge.kind}; set task.judge.kind"
    if task.feedback.file and task.rounds.count > 1:
        return "task.rounds.count above 1 needs simulated annotators; with task.feedback.file set it to 1"
    if task.feedback.file and task.panel != PanelConfig():
        return "task.panel configures simulated annotators and task.feedback.file replaces them: set one of them"
    if task.evaluation.split == "validation" and (task.reward.golden or task.panel.golden):
        return "golden verdicts use the validation split, which can't also be the evaluation split; set golden=0"
    if why := evaluation.conflict(task.evaluation, task.objective):
        return why
    for name in ("model", "classifier"):
        if getattr(task.reward, name) and task.shaping.members > 1:
            return f"task.shaping.members are trained with one seed each; task.reward.{name} is not trained: set it to 1"
    if task.rounds.prompts > task.prompts.train:
        return f"task.rounds.prompts must be at most task.prompts.train={task.prompts.train}, not {task.rounds.prompts}"
    return ""
