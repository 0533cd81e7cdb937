"""What an algorithm buys: a reward model, at its first use, its rewards, and scores and comparisons by an AI judge."""

from __future__ import annotations

import torch
from torch import Tensor

from isoalign.core import sharing, world
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.records import Question
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models.reward import Rewarder
from isoalign.models.tokens import prompt_ids
from isoalign.training.feedback_source import ScoringJudge
from isoalign.training.session import Session


def pay_reward_model(session: Session, rewarder: Rewarder, labelled_by: str) -> None:
    """Charge the training of the reward model of this round, and the verdicts that it learned from; nothing at later calls."""
    if (name := session.round_name(labelled_by)) in session.reward_models:
        return
    meter, bill = session.meter, rewarder.training_bill()
    if read := rewarder.verdicts():
        feedback = session.fetch(session.source.feedback, labelled_by)
        own = read.get(feedback.source, [])
        others = {source: verdicts for source, verdicts in read.items() if source != feedback.source}
        unpaid = sum(len(set(read) - meter.labels.get(source, set())) for source, read in others.items())
        if others and not unpaid:  # the golden set was charged with an earlier round's reward model
            bill = [item for item in bill if item[0] == "reward"]
        session.pay_verdicts(feedback, own, sum(flops for _, _, flops in bill), unpaid)
        for source, verdicts in others.items():
            meter.label(source, verdicts)
    else:
        meter.require(sum(flops for _, _, flops in bill))
    meter.add_seconds(rewarder.seconds())
    for role, kind, flops in bill:
        meter.charge(role, kind, flops)
    session.reward_models.add(name)


def rewards_of(session: Session, rewarder: Rewarder, rollouts: Rollouts) -> Tensor:
    """Rewards [B] of rollouts; the shares of those without a score, and at an end of a classifier's scale, are logged."""
    before = _counts(rewarder)
    rewards = session.by_rows(rewarder, rollouts)
    mine = {name: count - before[name] for name, count in _counts(rewarder).items()}
    told = {name: sum(each[name] for each in sharing.exchange(mine)) / len(rollouts) for name in mine}
    for name, share in told.items():
        if share:
            session.logged.setdefault(name, []).append((share, 1.0))
    if len(rewards) > 1:
        session.reward_ends.update((float(rewards.min()), float(rewards.max())))
    return rewards


def _counts(rewarder: Rewarder) -> dict[str, int]:
    return {name: getattr(rewarder, name, 0) for name in ("unscored", "saturated")}


def scores_of(session: Session, judge: ScoringJudge, texts: list[str], rollouts: Rollouts) -> Tensor:
    """P(acceptable) of each text [B], the answers of rollouts, by a judge that scores; the share of those without a score is
    logged."""
    prompts = session.source.prompt_texts(prompt_ids(rollouts))
    before = getattr(judge, "unscored", 0)
    scores = world.of_first(lambda: judge(texts, prompts)).to(session.device)
    if missing := world.of_first(lambda: getattr(judge, "unscored", 0) - before):
        session.logged.setdefault("no_verdict", []).append((missing / len(texts), 1.0))
    return scores


def compare(session: Session, judge: Judge, first: Rollouts, second: Rollouts) -> Tensor:
    """P(first is better) [B] by a judge that compares. Each question counts as an AI label; its cost is known, and charged,
    once it is answered. One without a verdict is a tie, and their share is logged; raises UserError where all are."""
    policy, meter = session.policy, session.meter
    prompts, answers = session.source.prompt_texts(prompt_ids(first)), [policy.decode(each) for each in (first, second)]
    questions = [Question(*texts) for texts in zip(prompts, *answers, strict=True)]
    verdicts = session.fetch(world.of_first, lambda: judge(questions))
    before = len(meter.labels.get("ai_scores", ()))
    meter.label("ai_scores", range(before, before + len(verdicts)))
    meter.charge("judge", "forward", sum(verdict.flops or 0 for verdict in verdicts))
    if any(verdict.flops is None for verdict in verdicts):
        session.logged.setdefault("unpriced", []).append((1.0, 1.0))
    if cut := sum(verdict.cut for verdict in verdicts):
        session.logged.setdefault("cut_prompts", []).append((cut / len(verdicts), 1.0))
    meter.ask({"passes": 2 * len(verdicts), "tokens": sum(verdict.tokens or 0 for verdict in verdicts)})
    if lost := sum(verdict.p is None for verdict in verdicts):
        session.logged.setdefault("no_verdict", []).append((lost / len(verdicts), 1.0))
        if lost == len(verdicts) > 1:
            why = next(filter(None, (verdict.missing for verdict in verdicts)), "no verdict")
            raise UserError(f"the judge gave no verdict on any of {lost} questions ({why}); change its template or model")
    return torch.tensor([0.5 if v.p is None else v.p for v in verdicts], device=session.device)
