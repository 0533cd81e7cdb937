"""The lab: everything that an algorithm may use. Every use of a model is charged here, before it begins.

The lab gives no access to metrics, evaluation scorers, evaluation prompts or the meter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from isoalign.core.batches import Labels, Pairs, Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.data.preferences import select
from isoalign.models.critic import Critic
from isoalign.models.decoding import GREEDY
from isoalign.models.passes import Outputs
from isoalign.training.critic import make_critic
from isoalign.training.modules import PassCounter, make_module
from isoalign.training.passes import ROLES
from isoalign.training.purchases import compare, pay_reward_model, rewards_of, scores_of
from isoalign.training.session import Session, row_lengths

Service = TypeVar("Service", bound=Callable[..., Any])
HARNESS_SCALARS = {"step", "flops_spent", "lr", "loss", "grad_norm", "sampler_gap", "equal_rewards", "saturated", "unscored"}
RESERVED_NAMES = (*ROLES, "reward", "judge", "feedback", "critic")  # of items on the bill, or of the lab


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
        if session.meter.quoting:
            session.joint.ask("policy", rollouts)
        outputs = session.zero_outputs(rollouts) if session.meter.quoting else session.read_by_policy(rollouts)
        return outputs.within(session.harness_code)

    def reference(self, rollouts: Rollouts) -> Outputs:
        """The frozen SFT base on completions, without gradients."""
        return self._frozen("reference", rollouts)

    def anchor(self, rollouts: Rollouts) -> Outputs:
        """The anchor on completions, without gradients: a copy of the policy, taken at the first call of this or of
        ``move_anchor``. It stays as it is until the algorithm moves it."""
        return self._frozen("anchor", rollouts)

    def teacher(self, rollouts: Rollouts) -> Outputs:
        """The frozen language model ``task.teacher`` on completions, without gradients. It has the policy's vocabulary."""
        return self._frozen("teacher", rollouts)

    @service
    @torch.no_grad()
    def _frozen(self, role: str, rollouts: Rollouts) -> Outputs:
        session = self._session
        if role == "anchor":
            session.anchor.take()  # while a loss is quoted, too: then every process of a run does
        session.pay_pass(role, session.model(role), rollouts, adapter=role != "reference")
        if session.meter.quoting:
            session.joint.ask(role, rollouts)
            return session.zero_outputs(rollouts, role)
        return session.read_by(role, rollouts).within(session.harness_code)

    @service
    def move_anchor(self, share: float = 1.0) -> None:
        """Move the anchor's weights by ``share`` in (0, 1] of the way to the policy's; 1 copies them. Not within a loss."""
        if self._session.meter.quoting:
            raise UserError("a loss cannot move the anchor: do so in iteration()")
        self._session.anchor.move(share)

    def log_ratio(self, rollouts: Rollouts, to: str = "reference") -> Tensor:
        """log pi(y|x) - log pi_base(y|x), summed over the completion [B]; ``to`` the reference, the anchor or the teacher."""
        if to not in ROLES[1:]:
            raise UserError(f"lab.log_ratio is to the {' or the '.join(ROLES[1:])}, not {to!r}")
        return (self.policy(rollouts).logp - self._frozen(to, rollouts).logp).sum(-1)

    @service
    def generate(
        self, prompts: Prompts, draws: int = 1, by: str = "policy", greedy: bool = False, mix: float = 0.0
    ) -> Rollouts:
        """Sample ``draws`` completions per prompt at temperature 1 [B x draws], ``by`` the policy, the frozen ``reference``,
        the ``anchor`` or the ``teacher``; ``greedy`` takes the likeliest tokens instead. ``mix``: the policy's distribution
        of each token is mixed with the reference's, pi^(1 - mix) x base^mix, normalised; both models are charged."""
        session, meter = self._session, self._session.meter
        session.check_read()
        if by not in ROLES:
            raise UserError(f"lab.generate samples by {', '.join(ROLES[:-1])} or {ROLES[-1]}, not {by!r}")
        if not 0 <= mix < 1 or (mix and by != "policy"):
            raise UserError(f"lab.generate mixes a share in [0, 1) of the reference into the policy, not {mix} into the {by}")
        roles, size = [by, "reference"] if mix else [by], (len(prompts) * draws, session.new_tokens)
        most = sum(session.sampling_price(role, prompts, draws) for role in roles)
        meter.require(most, tokens=size[0] * size[1])  # the most that the completions can cost
        uniforms = torch.full(size, GREEDY) if greedy else torch.rand(size, generator=session.generator)
        rollouts = session.sample(prompts, uniforms, by, mix)
        _, used = row_lengths(rollouts)
        for role in roles:
            tokens = sum(used) if role == by else 0
            meter.charge(role, "sample", session.sampling_price(role, prompts, draws, used), tokens)
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
    def critic(self, rollouts: Rollouts, start: str = "policy") -> Tensor:
        """Expected future reward before each token [B, T], by a separate value model: at first a copy of the ``policy`` with a
        scalar head at 0, or of the ``reward`` model. It is trained by the harness's optimizer and charged to ``value``."""
        session, meter = self._session, self._session.meter
        if "critic" not in session.modules:
            session.modules["critic"] = make_critic(session, start)
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
            session.verdicts[unpaired.source] = len(unpaired)
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
        pay_reward_model(session, rewarder, labelled_by)
        meter.charge("reward", "forward", rewarder.flops(rollouts))
        return rewards_of(session, rewarder, rollouts)

    @service
    def judge(self, first: Rollouts, second: Rollouts) -> Tensor:
        """P(first is better) [B] by the AI judge: for the classifier, Bradley-Terry with the log-odds of acceptability as
        strengths; for a judge that compares answers, the mean over both orders, and 1/2 without a verdict."""
        session = self._session
        session.check_read()
        if (judge := session.fetch(session.source.comparing_judge)) is not None:
            return compare(session, judge, first, second)
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
        return scores_of(session, judge, texts, rollouts)

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
