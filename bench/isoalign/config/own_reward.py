"""What a reward that is trained elsewhere, or that a classifier gives, cannot be."""

from __future__ import annotations

from typing import Any


def conflict(reward: Any) -> str:
    """Why a RewardConfig names no classifier and no reward model of one's own, in a line; empty if it does or has neither."""
    classifier, model = reward.classifier, reward.model
    if sum(map(bool, (reward.base, classifier, model))) > 1:
        return (
            "task.reward.base is for a trained head, task.reward.classifier and task.reward.model have none: set one of them"
        )
    if classifier and classifier != "annotator" and not classifier.startswith("hf:"):
        return f"task.reward.classifier must be annotator or hf:NAME_OR_PATH[#label], not {classifier!r}"
    if (reward.golden or reward.hard) and (classifier or model):
        which = "task.reward.model" if model else "task.reward.classifier"
        return f"task.reward.golden and task.reward.hard are for a head that is trained; {which} is not"
    if not model:
        return ""
    name, _, label = model.partition("#")
    if not name.startswith("hf:") or name == "hf:":
        return f"task.reward.model must be hf:NAME_OR_FOLDER[@REVISION], not {model!r}"
    if label:
        return (
            f"task.reward.model={model}: a reward model has one output and no #label; for a classifier's label set "
            f"task.reward.model='' and task.reward.classifier={model}"
        )
    return ""
