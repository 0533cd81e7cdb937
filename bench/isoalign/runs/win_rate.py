"""The stage of the win rate: a judge compares a run's samples with the base's, or with given answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoalign.config.evaluation import BASE, SCORER, WIN_RATE
from isoalign.core.store import digest
from isoalign.data import prompts
from isoalign.data.opponents import read_answers
from isoalign.evaluation import samples, win_rate
from isoalign.feedback.judges.identity import judge_model
from isoalign.models import scorers
from isoalign.models.answer_scorers import identity
from isoalign.models.scorers import weights_of
from isoalign.stages.shared import SharedStages
from isoalign.stages.stage import Stage


def contests_of(shared: SharedStages, drawn: Stage, base: Stage) -> Stage | None:
    """Contests of samples with those of the SFT base, ``base``, or with given answers; None if the task measures none.

    Where the task ranks by its win rate all samples are judged, else the first draws of each prompt.
    """
    config, ranks = shared.task.evaluation.win_rate, shared.task.evaluation.scorer == WIN_RATE
    if not config.on:
        return None
    draws = 0 if ranks else config.draws
    recipe: dict[str, Any] = {"version": win_rate.VERSION, "samples": drawn.key, "draws": config.draws, "all": ranks}
    recipe |= shared.win_rate_recipe | ({"base": base.key} if config.opponent == BASE else {})

    def make(work: Path) -> None:
        own = [row for row in samples.read_samples(shared.get(drawn)) if not draws or row.draw < draws]
        if config.opponent == BASE:
            answers = {(row.prompt_id, row.draw): row.completion for row in samples.read_samples(shared.get(base))}
        else:
            given = read_answers(config.opponent, config.columns, {row.prompt_id for row in own})
            answers = {(row.prompt_id, row.draw): given[row.prompt_id] for row in own}
        chosen = prompts.load_split(shared.task.prompts, shared.task.evaluation.split)
        win_rate.make_contests(work, own, answers, shared.win_rate_judge(), config, chosen)

    return Stage(WIN_RATE, recipe, make)


def protocol(shared: SharedStages) -> str:
    """By whom and against whom the win rate is measured, for notes of cards: two that read alike and differ have another
    digest."""
    evaluation = shared.task.evaluation
    return f"{evaluation.win_rate.describe(evaluation.scorer)} ({digest(shared.win_rate_recipe)[:8]})"


def taught(shared: SharedStages, labels: Mapping[str, float], rewarded: bool) -> str:
    """What the win rate's judge also did in training, or nothing; with another template it is the same judge.

    ``labels``: that a run read, by source; ``rewarded``: whether it used a reward model.
    """
    task = shared.task
    judge, by_judge = task.evaluation.win_rate.judge, labels.get("ai") or labels.get("ai_scores")
    if judge.kind == SCORER:
        teachers = [task.scored_by("annotator")] if labels.get("simulated") or rewarded else []
        teachers += [task.scored_by("judge")] if by_judge else []
        own = task.reward.model and scorers.REWARD + task.reward.model.removeprefix("hf:")
        teachers += [task.reward.classifier, own] if rewarded else []
        same = any(
            weights_of(identity(each)) == weights_of(identity(judge.model))
            for each in teachers
            if each not in ("", "annotator")
        )
        return "taught it" if same else ""
    model = judge_model(judge)
    if by_judge and judge_model(task.judge) == model:
        return "labelled its training data"
    if labels.get("ai_revisions") and judge.kind in ("lm", "server") and shared.critic_model == model:
        return "wrote the revisions that it trained on"
    return ""
