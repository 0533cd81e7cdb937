"""The lab: all that an algorithm may touch. Every use of a model is paid here, before it begins.

No metric, evaluation scorer, evaluation prompt or meter can be reached from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from isoalign.core.batches import Labels, Pairs, Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.core.records import Question
from isoalign.data.preferences import select
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models.language import Critic, Outputs, completion_lengths
from isoalign.training.modules import PassCounter, make_module
from isoalign.training.session import Session, row_lengths

Service = TypeVar("Service", bound=Callable[..., Any])
OURS = {"step", "flops_spent", "lr", "loss", "grad_norm"}  # of a training log
TAKEN = ("policy", "reference", "reward", "judge", "feedback", "critic")  # on the bill, or the lab's own


def service(method: Service) -> Service:
    """A method of the lab: inside it the harness is at work, and the guard watches nothing."""

    @functools.wraps(method)
    def inside(lab: Lab, *arguments: Any, **named: Any) -> Any:
        guard = session_of(lab).guard
        if guard is None:
            return method(lab, *arguments, **named)
        with guard.harness_code():
            return method(lab, *arguments, **named)

    return inside  # type: ignore[return-value]


class Lab:
    """What an algorithm works with: models, data, feedback. ``state`` holds what must survive a resume: numbers, strings,
    lists, and dicts by string. ``generator``, of all chance, is on the CPU; ``device`` is where models and rows are."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._passes = PassCounter(session.meter)

    @property
    def new_tokens(self) -> int:
        """The most tokens of an answer."""
        return self._session.new_tokens

    @property
    def generator(self) -> torch.Generator:
        """The generator of all chance, on the CPU."""
        return self._session.generator

    @property
    def device(self) -> torch.device:
        """Where models and rows are."""
        return self._session.device

    @property
    def state(self) -> dict[str, Any]:
        """What survives a resume."""
        return self._session.state

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        self._session.state = value

    # -- models ---------------------------------------------------------------------------------------------------

    @service
    def policy(self, rollouts: Rollouts) -> Outputs:
        """The policy on completions: ``logp`` [B, T], ``hidden`` [B, T, D], ``logits`` [B, T, V], ``entropy`` [B, T].
        Gradients flow, and are paid, unless torch.no_grad() is on."""
        session = self._session
        session.pay_pass("policy", session.policy, rollouts, backward=torch.is_grad_enabled())
        return session.blank(rollouts) if session.meter.quoting else session.policy(rollouts)

    @service
    @torch.no_grad()
    def reference(self, rollouts: Rollouts) -> Outputs:
        """The frozen SFT base on completions."""
        session = self._session
        session.pay_pass("reference", session.reference, rollouts, adapter=False)
        if session.meter.quoting:
            return session.blank(rollouts)
        with session.reference.adapter_off():
            return session.reference(rollouts)

    def log_ratio(self, rollouts: Rollouts) -> Tensor:
        """log pi(y|x) - log pi_base(y|x), summed over the completion [B]."""
        return (self.policy(rollouts).logp - self.reference(rollouts).logp).sum(-1)

    @service
    def generate(self, prompts: Prompts, draws: int = 1) -> Rollouts:
        """Sample ``draws`` completions of each prompt from the policy at T = 1 [B x draws]."""
        session, meter = self._session, self._session.meter
        session.gathering()
        lengths = prompts.mask.sum(1).tolist()
        rows = len(prompts) * draws
        contexts = [length for length in lengths for _ in range(draws)]
        shape = session.policy.shape
        price = shape.prefill(lengths) + shape.decode(contexts, [session.new_tokens] * rows)
        meter.require(price, tokens=rows * session.new_tokens)  # an answer may take all its tokens
        uniforms = torch.rand(rows, session.new_tokens, generator=session.generator)
        rollouts = session.policy.generate(prompts, uniforms)
        used = completion_lengths(rollouts)
        meter.charge("policy", "sample", shape.prefill(lengths) + shape.decode(contexts, used), sum(used))
        return rollouts

    @service
    def module(self, name: str, factory: Callable[[int], nn.Module]) -> nn.Module:
        """A module of the algorithm's own, made once by ``factory(hidden size)``, trained by the harness's optimizer,
        saved in checkpoints. Its passes, and those of its parts, are counted as PyTorch counts and paid under ``name``.

        Raises UserError for a name that the bill or the lab has already, and for a module that can't be counted."""
        session = self._session
        if name in TAKEN:
            raise UserError(f"lab.module can't be called {name!r}: the bill has an item of that name; choose another")
        if name not in session.modules:
            session.modules[name] = make_module(session, self._passes, name, factory)
            session.adopt_module(name, session.modules[name])
        return session.modules[name]

    @service
    def critic(self, rollouts: Rollouts) -> Tensor:
        """Expected reward to come before each token [B, T], by a value model of its own: a copy of the policy as it is at the
        first call, under a scalar head, trained by the harness's optimizer, its passes paid as ``value``."""
        session, meter = self._session, self._session.meter
        if "critic" not in session.modules:
            with torch.random.fork_rng(devices=[]):
                session.modules["critic"] = Critic(session.policy)
            session.adopt_module("critic", session.modules["critic"])
        critic = session.modules["critic"]
        assert isinstance(critic, Critic)
        lengths, positions = row_lengths(rollouts)
        none, shape, head = [0] * len(lengths), session.policy.shape, 2 * session.policy.width * sum(positions)
        meter.charge("value", "forward", shape.forward(lengths, none) + head)
        if torch.is_grad_enabled():
            meter.charge("value", "backward", shape.backward(lengths, none) + 2 * head)
        return session.blank(rollouts).logp if meter.quoting else critic(rollouts)

    # -- data and feedback ----------------------------------------------------------------------------------------

    @service
    def prompts(self, count: int) -> Prompts:
        """The next ``count`` training prompts."""
        session = self._session
        session.gathering(count, "prompts")
        prompts = session.fetch(session.source.prompts)
        return select(prompts, session.cursor("prompts", len(prompts)).take(count)).to(self.device)

    @service
    def pairs(self, count: int, labelled_by: str = "annotator") -> Pairs:
        """The next ``count`` preference pairs; a verdict and its samples are paid when they are first read."""
        session = self._session
        session.gathering(count, "pairs")
        if labelled_by == "annotator":
            session.require_pairs("preference pairs")
        feedback = session.fetch(session.source.feedback, labelled_by)
        cursor = session.cursor(session.in_round(f"pairs-{labelled_by}"), len(feedback))
        batch = feedback.pairs(cursor.take(count), session.pad)
        session.pay_verdicts(feedback, batch.index.tolist())
        return batch.to(self.device)

    @service
    def labels(self, count: int, labelled_by: str = "annotator") -> Labels:
        """The next ``count`` single answers with binary feedback: people's own, or cut from the verdicts on pairs."""
        session = self._session
        session.gathering(count, "labels")
        if labelled_by == "annotator" and (unpaired := session.fetch(session.source.unpaired)) is not None:
            given = unpaired.labels(session.cursor("unpaired", len(unpaired)).take(count), session.pad)
            session.meter.label(unpaired.source, given.index.tolist())
            return given.to(self.device)
        feedback = session.fetch(session.source.feedback, labelled_by)
        cursor = session.cursor(session.in_round(f"labels-{labelled_by}"), 2 * len(feedback))
        batch = feedback.labels(cursor.take(count), session.pad)
        session.pay_verdicts(feedback, batch.index.tolist())
        return batch.to(self.device)

    @service
    def revisions(self, count: int) -> Pairs:
        """The next ``count`` answers of the base to red-team prompts, ``rejected``, and what a critic made of them by the
        task's principles, ``chosen``. Answer, critique and revision are paid when they are first read."""
        session = self._session
        session.gathering(count, "revisions")
        revised = session.fetch(session.source.revisions)
        batch = revised.pairs(session.cursor("revisions", len(revised)).take(count), session.pad)
        session.pay_verdicts(revised, batch.index.tolist())
        return batch.to(self.device)

    @service
    def reward(self, rollouts: Rollouts, labelled_by: str = "annotator") -> Tensor:
        """Rewards [B] of the reward model trained on verdicts by ``annotator`` or ``judge``: mean 0 and deviation 1 on
        the answers that it was trained on. Its training is paid at the first call, with the verdicts it learned from."""
        session, meter = self._session, self._session.meter
        session.gathering()
        if labelled_by == "annotator":
            session.require_pairs("a reward model")
        rewarder = session.fetch(session.source.reward, labelled_by)
        if session.in_round(labelled_by) not in session.reward_models:
            feedback = session.fetch(session.source.feedback, labelled_by)
            bill, read = rewarder.training_bill(), rewarder.verdicts()
            own = read.get(feedback.source, [])
            others = {source: verdicts for source, verdicts in read.items() if source != feedback.source}
            unpaid = sum(len(set(read) - meter.labels.get(source, set())) for source, read in others.items())
            if others and not unpaid:  # an earlier round's reward model paid for the golden set
                bill = [item for item in bill if item[0] == "reward"]
            session.pay_verdicts(feedback, own, sum(flops for _, _, flops in bill), unpaid)
            for source, verdicts in others.items():
                meter.label(source, verdicts)
            meter.add_seconds(rewarder.seconds())
            for role, kind, flops in bill:
                meter.charge(role, kind, flops)
            session.reward_models.add(session.in_round(labelled_by))
        meter.charge("reward", "forward", rewarder.flops(rollouts))
        rewards: Tensor = rewarder(rollouts)
        return rewards.to(self.device)

    @service
    def judge(self, first: Rollouts, second: Rollouts) -> Tensor:
        """P(first is better) [B] by the AI judge. Of the classifier this is Bradley-Terry with the log-odds of acceptability
        as strengths; of a judge that compares, the mean over both orders, 1/2 where it gave no verdict."""
        session = self._session
        session.gathering()
        if (judge := session.fetch(session.source.comparing_judge)) is not None:
            return self._compare(judge, first, second)
        odds = [torch.logit(self.judge_score(rollouts), eps=1e-3) for rollouts in (first, second)]
        return torch.sigmoid(odds[0] - odds[1])

    @service
    def judge_score(self, rollouts: Rollouts) -> Tensor:
        """The AI judge's P(acceptable) of each completion [B]; each is a label by AI."""
        session, meter = self._session, self._session.meter
        session.gathering()
        judge = session.fetch(session.source.scoring_judge)
        texts = session.policy.decode(rollouts)
        price, asked = judge.flops(texts), len(meter.labels.get("ai_scores", ()))
        meter.require(price, labels=len(texts))
        meter.label("ai_scores", range(asked, asked + len(texts)))
        meter.charge("judge", "forward", price)
        return judge(texts).to(self.device)

    def _compare(self, judge: Judge, first: Rollouts, second: Rollouts) -> Tensor:
        """Each question is a label by AI. What it costs is known, and paid, when it has been answered."""
        policy, meter = self._session.policy, self._session.meter
        prompts, answers = policy.decode_prompts(first), [policy.decode(each) for each in (first, second)]
        questions = [Question(*texts) for texts in zip(prompts, *answers, strict=True)]
        verdicts = self._session.fetch(judge, questions)
        before = len(meter.labels.get("ai_scores", ()))
        meter.label("ai_scores", range(before, before + len(verdicts)))
        meter.charge("judge", "forward", sum(verdict.flops for verdict in verdicts))
        meter.ask({"passes": 2 * len(verdicts), "tokens": sum(verdict.tokens for verdict in verdicts)})
        return torch.tensor([0.5 if v.p is None else v.p for v in verdicts], device=self.device)

    # -- the run --------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, from 0 at the first optimizer step to 1."""
        return self._session.progress

    def log(self, **scalars: float | Tensor) -> None:
        """Note scalars of the current step; several of one name within a step are averaged."""
        if taken := sorted(OURS & scalars.keys()):
            raise UserError(f"lab.log can't take {', '.join(taken)}: the harness logs that itself; use another name")
        if not self._session.meter.quoting:
            for name, value in scalars.items():
                number = float(value.detach() if isinstance(value, Tensor) else value)
                self._session.logged.setdefault(name, []).append(number)


def session_of(lab: Lab) -> Session:
    """The session behind a lab, for the harness: algorithms have no use for it."""
    return lab._session
