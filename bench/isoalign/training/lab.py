"""The lab: everything that an algorithm may use. Every use of a model is charged here, before it begins.

The lab gives no access to metrics, evaluation scorers, evaluation prompts or the meter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from isoalign.core import sharing, world
from isoalign.core.batches import Labels, Pairs, Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.core.randomness import own_random_state
from isoalign.core.records import Question
from isoalign.data.preferences import select
from isoalign.feedback.judges.verdicts import Judge
from isoalign.models.decoding import GREEDY
from isoalign.models.language import Critic, completion_lengths
from isoalign.models.passes import Outputs
from isoalign.training.modules import PassCounter, make_module
from isoalign.training.session import Session, row_lengths

Service = TypeVar("Service", bound=Callable[..., Any])
HARNESS_SCALARS = {"step", "flops_spent", "lr", "loss", "grad_norm"}  # of a training log
RESERVED_NAMES = ("policy", "reference", "reward", "judge", "feedback", "critic")  # of items on the bill, or of the lab


def service(method: Service) -> Service:
    """Mark a method of the lab as harness code, which the guard does not watch."""

    @functools.wraps(method)
    def inside(lab: Lab, *arguments: Any, **named: Any) -> Any:
        with session_of(lab).harness_code():
            return method(lab, *arguments, **named)

    return inside  # type: ignore[return-value]


class Lab:
    """What an algorithm works with: models, data and feedback.

    ``state`` survives a resume: it holds numbers, strings, lists and dicts with string keys. All randomness comes from
    ``generator``, on the CPU. Models and batches are on ``device``.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._passes = PassCounter(session.meter)

    @property
    def new_tokens(self) -> int:
        """The maximum number of tokens of a completion."""
        return self._session.new_tokens

    @property
    def generator(self) -> torch.Generator:
        """The source of all randomness, on the CPU."""
        return self._session.generator

    @property
    def device(self) -> torch.device:
        """The device of models and batches."""
        return self._session.device

    @property
    def state(self) -> dict[str, Any]:
        """The algorithm's state, which survives a resume."""
        return self._session.state

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        self._session.state = value

    # -- models ---------------------------------------------------------------------------------------------------

    @service
    def policy(self, rollouts: Rollouts) -> Outputs:
        """The policy on completions: ``logp`` [B, T], ``hidden`` [B, T, D], ``logits`` [B, T, V], ``entropy`` [B, T].
        The backward pass is charged too, except under torch.no_grad()."""
        session = self._session
        session.pay_pass("policy", session.policy, rollouts, backward=torch.is_grad_enabled())
        outputs = session.zero_outputs(rollouts) if session.meter.quoting else session.read_by_policy(rollouts)
        return outputs.within(session.harness_code)

    @service
    @torch.no_grad()
    def reference(self, rollouts: Rollouts) -> Outputs:
        """The frozen SFT base on completions."""
        session = self._session
        session.pay_pass("reference", session.reference, rollouts, adapter=False)
        if session.meter.quoting:
            return session.zero_outputs(rollouts)
        return session.read_by_reference(rollouts).within(session.harness_code)

    def log_ratio(self, rollouts: Rollouts) -> Tensor:
        """log pi(y|x) - log pi_base(y|x), summed over the completion [B]."""
        return (self.policy(rollouts).logp - self.reference(rollouts).logp).sum(-1)

    @service
    def generate(self, prompts: Prompts, draws: int = 1, by: str = "policy", greedy: bool = False) -> Rollouts:
        """Sample ``draws`` completions per prompt at temperature 1 [B x draws], ``by`` the policy or the frozen ``reference``;
        ``greedy`` takes the likeliest tokens instead."""
        session, meter, own = self._session, self._session.meter, by == "policy"
        session.check_read()
        if by not in ("policy", "reference"):
            raise UserError(f"lab.generate samples by policy or reference, not {by!r}")
        lengths, shape = prompts.mask.sum(1).tolist(), (session.policy if own else session.reference).shape
        size, contexts = (len(prompts) * draws, session.new_tokens), [length for length in lengths for _ in range(draws)]
        price = shape.prefill(lengths, own) + shape.decode(contexts, [session.new_tokens] * len(contexts), own)
        meter.require(price, tokens=size[0] * size[1])  # the most that the completions can cost
        uniforms = torch.full(size, GREEDY) if greedy else torch.rand(size, generator=session.generator)
        rollouts = session.sample(prompts, uniforms, own)
        used = completion_lengths(rollouts)
        meter.charge(by, "sample", shape.prefill(lengths, own) + shape.decode(contexts, used, own), sum(used))
        return rollouts

    @service
    def module(self, name: str, factory: Callable[[int], nn.Module]) -> nn.Module:
        """A module of the algorithm, made once by ``factory(hidden size)``, trained by the harness's optimizer and saved in
        checkpoints. Its passes, and those of its parts, are counted by PyTorch's FLOP counter and charged to ``name``.

        Raises UserError for a reserved name, and for a module whose FLOPs cannot be counted."""
        session = self._session
        if name in RESERVED_NAMES:
            raise UserError(f"lab.module cannot take the name {name!r}: the bill has an item of that name; choose another")
        if name not in session.modules:
            session.modules[name] = make_module(session, self._passes, name, factory)
            session.adopt_module(name, session.modules[name])
        return session.modules[name]

    @service
    def critic(self, rollouts: Rollouts) -> Tensor:
        """Expected future reward before each token [B, T], by a separate value model: a copy of the policy at the first call,
        with a scalar head, trained by the harness's optimizer and charged to ``value``."""
        session, meter = self._session, self._session.meter
        if "critic" not in session.modules:
            with own_random_state():
                session.modules["critic"] = Critic(session.policy)
            session.adopt_module("critic", session.modules["critic"])
        critic = session.modules["critic"]
        assert isinstance(critic, Critic)
        lengths, positions = row_lengths(rollouts)
        none, shape, head = [0] * len(lengths), session.policy.shape, 2 * session.policy.width * sum(positions)
        meter.charge("value", "forward", shape.forward(lengths, none) + head)
        if torch.is_grad_enabled():
            meter.charge("value", "backward", shape.backward(lengths, none) + 2 * head)
        if meter.quoting:
            return session.zero_outputs(rollouts).logp
        return critic(rollouts) if torch.is_grad_enabled() else session.by_rows(critic, rollouts)

    # -- data and feedback ----------------------------------------------------------------------------------------

    @service
    def prompts(self, count: int) -> Prompts:
        """The next ``count`` training prompts."""
        session = self._session
        session.check_read(count, "prompts")
        prompts = session.fetch(session.source.prompts)
        return select(prompts, session.cursor("prompts", len(prompts)).take(count)).to(self.device)

    @service
    def pairs(self, count: int, labelled_by: str = "annotator") -> Pairs:
        """The next ``count`` preference pairs. A verdict and its samples are charged when first read."""
        session = self._session
        session.check_read(count, "pairs")
        if labelled_by == "annotator":
            session.require_pairs("preference pairs")
        feedback = session.fetch(session.source.feedback, labelled_by)
        cursor = session.cursor(session.round_name(f"pairs-{labelled_by}"), len(feedback))
        batch = feedback.pairs(cursor.take(count), session.pad)
        session.pay_verdicts(feedback, batch.index.tolist())
        session.remembered.expect(batch.chosen, batch.rejected)
        return batch.to(self.device)

    @service
    def labels(self, count: int, labelled_by: str = "annotator") -> Labels:
        """The next ``count`` single answers with binary feedback: human labels, or the two sides of preference pairs."""
        session = self._session
        session.check_read(count, "labels")
        if labelled_by == "annotator" and (unpaired := session.fetch(session.source.unpaired)) is not None:
            batch = unpaired.labels(session.cursor("unpaired", len(unpaired)).take(count), session.pad)
            session.meter.label(unpaired.source, batch.index.tolist())
            session.remembered.expect(batch.rollouts)
            return batch.to(self.device)
        feedback = session.fetch(session.source.feedback, labelled_by)
        cursor = session.cursor(session.round_name(f"labels-{labelled_by}"), 2 * len(feedback))
        batch = feedback.labels(cursor.take(count), session.pad)
        session.pay_verdicts(feedback, batch.index.tolist())
        session.remembered.expect(batch.rollouts)
        return batch.to(self.device)

    @service
    def revisions(self, count: int) -> Pairs:
        """The next ``count`` answers of the SFT base to red-team prompts, as ``rejected``, and their revisions by the task's
        constitution, as ``chosen``. Answer, critique and revision are charged when first read."""
        session = self._session
        session.check_read(count, "revisions")
        revised = session.fetch(session.source.revisions)
        batch = revised.pairs(session.cursor("revisions", len(revised)).take(count), session.pad)
        session.pay_verdicts(revised, batch.index.tolist())
        session.remembered.expect(batch.chosen, batch.rejected)
        return batch.to(self.device)

    @service
    def reward(self, rollouts: Rollouts, labelled_by: str = "annotator") -> Tensor:
        """Rewards [B] of the reward model trained on verdicts by ``annotator`` or ``judge``, with mean 0 and standard
        deviation 1 on the answers that it was trained on. Its training, and the verdicts it learned from, are charged at the
        first call."""
        session, meter = self._session, self._session.meter
        session.check_read()
        if labelled_by == "annotator":
            session.require_pairs("a reward model")
        rewarder = session.fetch(session.source.reward, labelled_by)
        if session.round_name(labelled_by) not in session.reward_models:
            feedback = session.fetch(session.source.feedback, labelled_by)
            bill, read = rewarder.training_bill(), rewarder.verdicts()
            own = read.get(feedback.source, [])
            others = {source: verdicts for source, verdicts in read.items() if source != feedback.source}
            unpaid = sum(len(set(read) - meter.labels.get(source, set())) for source, read in others.items())
            if others and not unpaid:  # the golden set was charged with an earlier round's reward model
                bill = [item for item in bill if item[0] == "reward"]
            session.pay_verdicts(feedback, own, sum(flops for _, _, flops in bill), unpaid)
            for source, verdicts in others.items():
                meter.label(source, verdicts)
            meter.add_seconds(rewarder.seconds())
            for role, kind, flops in bill:
                meter.charge(role, kind, flops)
            session.reward_models.add(session.round_name(labelled_by))
        meter.charge("reward", "forward", rewarder.flops(rollouts))
        before = getattr(rewarder, "unscored", 0)
        rewards = session.by_rows(rewarder, rollouts)
        if missing := sum(sharing.exchange(getattr(rewarder, "unscored", 0) - before)):
            self.log(unscored=missing / len(rollouts))
        return rewards

    @service
    def judge(self, first: Rollouts, second: Rollouts) -> Tensor:
        """P(first is better) [B] by the AI judge: for the classifier, Bradley-Terry with the log-odds of acceptability as
        strengths; for a judge that compares answers, the mean over both orders, and 1/2 without a verdict."""
        session = self._session
        session.check_read()
        if (judge := session.fetch(session.source.comparing_judge)) is not None:
            return self._compare(judge, first, second)
        odds = [torch.logit(self.judge_score(rollouts), eps=1e-3) for rollouts in (first, second)]
        return torch.sigmoid(odds[0] - odds[1])

    @service
    def judge_score(self, rollouts: Rollouts) -> Tensor:
        """The AI judge's P(acceptable) of each completion [B]; each counts as an AI label."""
        session, meter = self._session, self._session.meter
        session.check_read()
        judge = session.fetch(session.source.scoring_judge)
        texts = session.policy.decode(rollouts)
        price, asked = judge.flops(texts), len(meter.labels.get("ai_scores", ()))
        meter.require(price, labels=len(texts))
        meter.label("ai_scores", range(asked, asked + len(texts)))
        meter.charge("judge", "forward", price)
        prompts = session.policy.decode_prompts(rollouts)
        return world.of_first(lambda: judge(texts, prompts)).to(self.device)

    def _compare(self, judge: Judge, first: Rollouts, second: Rollouts) -> Tensor:
        """P(first is better) [B] by a judge that compares. Each question counts as an AI label; its cost is known, and
        charged, once it is answered."""
        policy, meter = self._session.policy, self._session.meter
        prompts, answers = policy.decode_prompts(first), [policy.decode(each) for each in (first, second)]
        questions = [Question(*texts) for texts in zip(prompts, *answers, strict=True)]
        verdicts = self._session.fetch(world.of_first, lambda: judge(questions))
        before = len(meter.labels.get("ai_scores", ()))
        meter.label("ai_scores", range(before, before + len(verdicts)))
        meter.charge("judge", "forward", sum(verdict.flops or 0 for verdict in verdicts))
        meter.ask({"passes": 2 * len(verdicts), "tokens": sum(verdict.tokens or 0 for verdict in verdicts)})
        return torch.tensor([0.5 if v.p is None else v.p for v in verdicts], device=self.device)

    # -- the run --------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Spent fraction of the budget, from 0 at the first optimizer step to 1."""
        return self._session.progress

    def log(self, **scalars: float | Tensor) -> None:
        """Log scalars of the current step; values of one name within a step are averaged, in a loss by rows."""
        if reserved := sorted(HARNESS_SCALARS & scalars.keys()):
            raise UserError(f"lab.log cannot take {', '.join(reserved)}: the harness logs it already; use another name")
        if not self._session.meter.quoting:
            for name, value in scalars.items():
                number = float(value.detach() if isinstance(value, Tensor) else value)
                self._session.logged.setdefault(name, []).append((number, self._session.loss_share or 1.0))


def session_of(lab: Lab) -> Session:
    """The session behind a lab; for the harness only."""
    return lab._session
