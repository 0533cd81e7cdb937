"""The lab: all that an algorithm may touch. Every use of a model is paid here, before it begins.

No metric, evaluation scorer, evaluation prompt or meter can be reached from it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from isoalign.core.batches import Labels, Pairs, Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.core.records import Question
from isoalign.data.preferences import Cursor, Feedback, select
from isoalign.models.flops import UNSEEN, Counter
from isoalign.models.language import Critic, LanguageModel, Outputs, completion_lengths, prompt_lengths
from isoalign.training.guard import PAYS, Guard, service
from isoalign.training.meter import Meter

if TYPE_CHECKING:
    from isoalign.feedback.judges.verdicts import Judge
    from isoalign.stages.rounds import Rounds


Result = TypeVar("Result")
OURS = {"step", "flops_spent", "lr", "loss", "grad_norm"}  # of a training log
TAKEN = ("policy", "reference", "reward", "judge", "feedback", "critic")  # on the bill, or the lab's own


class Lab:
    """What an algorithm works with: models, data, feedback. ``state`` holds what must survive a resume: numbers, strings,
    lists, and dicts by string. ``generator``, of all chance, is on the CPU; ``device`` is where models and rows are."""

    def __init__(
        self, policy: LanguageModel, reference: LanguageModel, shelf: Rounds, meter: Meter, new_tokens: int, seed: int
    ) -> None:
        self._policy, self._reference, self._shelf, self._meter = policy, reference, shelf, meter
        self._seed = seed
        self._cursors: dict[str, Cursor] = {}
        self._modules: dict[str, nn.Module] = {}
        self._new_module: Callable[[str, nn.Module], None] = lambda name, module: None
        self._trainer: Any = None  # what a training loop of an algorithm's own is held to
        self._paid: set[str] = set()
        self._inside, self._counter, self._fast = 0, Counter(), True  # passes of its own modules, one within the other
        self._logged: dict[str, list[float]] = {}
        self._start = 0.0
        self._guard: Guard | None = None
        self.new_tokens = new_tokens
        self.generator = torch.Generator().manual_seed(seed)
        self.state: dict[str, Any] = {}
        self.device = policy.device

    # -- models ---------------------------------------------------------------------------------------------------

    @service
    def policy(self, rollouts: Rollouts) -> Outputs:
        """The policy on completions: ``logp`` [B, T], ``hidden`` [B, T, D], ``logits`` [B, T, V], ``entropy`` [B, T].
        Gradients flow, and are paid, unless torch.no_grad() is on."""
        self._pay_forward("policy", self._policy, rollouts, backward=torch.is_grad_enabled())
        return self._blank(rollouts) if self._meter.quoting else self._policy(rollouts)

    @service
    @torch.no_grad()
    def reference(self, rollouts: Rollouts) -> Outputs:
        """The frozen SFT base on completions."""
        self._pay_forward("reference", self._reference, rollouts, adapter=False)
        if self._meter.quoting:
            return self._blank(rollouts)
        with self._reference.adapter_off():
            return self._reference(rollouts)

    def log_ratio(self, rollouts: Rollouts) -> Tensor:
        """log pi(y|x) - log pi_base(y|x), summed over the completion [B]."""
        return (self.policy(rollouts).logp - self.reference(rollouts).logp).sum(-1)

    @service
    def generate(self, prompts: Prompts, draws: int = 1) -> Rollouts:
        """Sample ``draws`` completions of each prompt from the policy at T = 1 [B x draws]."""
        self._gathering()
        lengths = prompts.mask.sum(1).tolist()
        rows = len(prompts) * draws
        contexts = [length for length in lengths for _ in range(draws)]
        shape = self._policy.shape
        price = shape.prefill(lengths) + shape.decode(contexts, [self.new_tokens] * rows)
        self._meter.require(price, tokens=rows * self.new_tokens)  # an answer may take all its tokens
        uniforms = torch.rand(rows, self.new_tokens, generator=self.generator)
        rollouts = self._policy.generate(prompts, uniforms)
        used = completion_lengths(rollouts)
        self._meter.charge("policy", "sample", shape.prefill(lengths) + shape.decode(contexts, used), sum(used))
        return rollouts

    @service
    def module(self, name: str, factory: Callable[[int], nn.Module]) -> nn.Module:
        """A module of the algorithm's own, made once by ``factory(hidden size)``, trained by the harness's optimizer,
        saved in checkpoints. Its passes, and those of its parts, are counted as PyTorch counts and paid under ``name``.

        Raises UserError for a name that the bill or the lab has already, and for a module that can't be counted."""
        if name in TAKEN:
            raise UserError(f"lab.module can't be called {name!r}: the bill has it; call it something else")
        if name not in self._modules:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                module = self._made(factory)
            if not isinstance(module, nn.Module):
                raise UserError(f"lab.module {name!r}: its factory gave {module!r}, no torch module")
            module = module.to(self._policy.device)
            for part in module.modules():
                if isinstance(part, UNSEEN):
                    kind = type(part).__name__
                    raise UserError(f"lab.module {name!r}: a pass of {kind} can't be counted; build it of linear layers")
                self._count(name, part)
            self._modules[name] = module
            self._new_module(name, module)
        return self._modules[name]

    def _made(self, factory: Callable[[int], nn.Module]) -> nn.Module:
        """What a factory makes; it may try its parts while it makes them."""
        models = dict(self._guard.models) if self._guard else {}
        module = self._watched(factory, self._policy.width)
        if self._guard and isinstance(module, nn.Module):
            own = {type(part).__name__ for part in module.modules()}
            found = self._guard.models.items()
            self._guard.models = {name: count for name, count in found if name in models or name not in own}
        return module

    def _count(self, name: str, part: nn.Module) -> None:
        """Have a part's passes paid, those within the pass of a larger part as part of that. By hooks, which a copy keeps."""

        def before(*_: Any) -> None:
            self._inside += 1
            if self._inside == 1:
                self._counter = Counter()
                self._counter.__enter__()
                self._fast = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)  # it has no formula

        def after(*_: Any) -> None:
            self._inside -= 1
            if self._inside == 0:
                torch.backends.mha.set_fastpath_enabled(self._fast)
                self._counter.__exit__(None, None, None)
                self._meter.charge(name, "forward", self._counter.flops)
                if torch.is_grad_enabled():
                    self._meter.charge(name, "backward", 2 * self._counter.flops)

        setattr(part, PAYS, name)
        part.register_forward_pre_hook(before)
        part.register_forward_hook(after, always_call=True)

    @service
    def critic(self, rollouts: Rollouts) -> Tensor:
        """Expected reward to come before each token [B, T], by a value model of its own: a copy of the policy as it is at the
        first call, under a scalar head, trained by the harness's optimizer, its passes paid as ``value``."""
        if "critic" not in self._modules:
            with torch.random.fork_rng(devices=[]):
                self._modules["critic"] = Critic(self._policy)
            self._new_module("critic", self._modules["critic"])
        critic = self._modules["critic"]
        assert isinstance(critic, Critic)
        lengths, positions = self._lengths(rollouts)
        head = 2 * self._policy.width * sum(positions)
        self._meter.charge("value", "forward", self._policy.shape.forward(lengths, [0] * len(lengths)) + head)
        if torch.is_grad_enabled():
            self._meter.charge("value", "backward", self._policy.shape.backward(lengths, [0] * len(lengths)) + 2 * head)
        return self._blank(rollouts).logp if self._meter.quoting else critic(rollouts)

    # -- data and feedback ----------------------------------------------------------------------------------------

    @service
    def prompts(self, count: int) -> Prompts:
        """The next ``count`` training prompts."""
        self._gathering(count, "prompts")
        prompts = self._given("prompts")
        return select(prompts, self._cursor("prompts", len(prompts)).take(count)).to(self.device)

    @service
    def pairs(self, count: int, labelled_by: str = "annotator") -> Pairs:
        """The next ``count`` preference pairs; a verdict and its samples are paid when they are first read."""
        self._gathering(count, "pairs")
        if labelled_by == "annotator":
            self._refuse_thumbs("preference pairs")
        feedback = self._given("feedback", labelled_by)
        batch = feedback.pairs(self._cursor(self._named(f"pairs-{labelled_by}"), len(feedback)).take(count), self._pad)
        self._pay_verdicts(feedback, batch.index.tolist())
        return batch.to(self._policy.device)

    @service
    def labels(self, count: int, labelled_by: str = "annotator") -> Labels:
        """The next ``count`` single answers with a thumb up or down: people's own, or cut from the verdicts on pairs."""
        self._gathering(count, "labels")
        if labelled_by == "annotator" and (thumbs := self._given("thumbs")) is not None:
            given = thumbs.labels(self._cursor("thumbs", len(thumbs)).take(count), self._pad)
            self._meter.label(thumbs.source, given.index.tolist())
            return given.to(self._policy.device)
        feedback = self._given("feedback", labelled_by)
        batch = feedback.labels(self._cursor(self._named(f"labels-{labelled_by}"), 2 * len(feedback)).take(count), self._pad)
        self._pay_verdicts(feedback, batch.index.tolist())
        return batch.to(self._policy.device)

    @service
    def revisions(self, count: int) -> Pairs:
        """The next ``count`` answers of the base to red-team prompts, ``rejected``, and what a critic made of them by the
        task's principles, ``chosen``. Answer, critique and revision are paid when they are first read."""
        self._gathering(count, "revisions")
        revised = self._given("revisions")
        batch = revised.pairs(self._cursor("revisions", len(revised)).take(count), self._pad)
        self._pay_verdicts(revised, batch.index.tolist())
        return batch.to(self._policy.device)

    @service
    def reward(self, rollouts: Rollouts, labelled_by: str = "annotator") -> Tensor:
        """Rewards [B] of the reward model trained on verdicts by ``annotator`` or ``judge``: mean 0 and deviation 1 on
        the answers that it was trained on. Its training is paid at the first call, with the verdicts it learned from."""
        self._gathering()
        if labelled_by == "annotator":
            self._refuse_thumbs("a reward model")
        rewarder = self._given("reward", labelled_by)
        if self._named(labelled_by) not in self._paid:
            feedback = self._given("feedback", labelled_by)
            bill, read = rewarder.training_bill(), rewarder.verdicts()
            own = read.get(feedback.source, [])
            others = {source: verdicts for source, verdicts in read.items() if source != feedback.source}
            unpaid = sum(len(set(read) - self._meter.labels.get(source, set())) for source, read in others.items())
            if others and not unpaid:  # an earlier round's reward model paid for the golden set
                bill = [item for item in bill if item[0] == "reward"]
            self._pay_verdicts(feedback, own, sum(flops for _, _, flops in bill), unpaid)
            for source, verdicts in others.items():
                self._meter.label(source, verdicts)
            self._meter.add_seconds(rewarder.seconds())
            for role, kind, flops in bill:
                self._meter.charge(role, kind, flops)
            self._paid.add(self._named(labelled_by))
        self._meter.charge("reward", "forward", rewarder.flops(rollouts))
        rewards: Tensor = rewarder(rollouts)
        return rewards.to(self._policy.device)

    @service
    def judge(self, first: Rollouts, second: Rollouts) -> Tensor:
        """P(first is better) [B] by the AI judge: of the classifier Bradley-Terry, with the log-odds of acceptability as
        strengths; of a judge that is asked, the mean over both orders, 1/2 where it brought no verdict."""
        self._gathering()
        if (asked := self._given("asked_judge")) is not None:
            return self._ask(asked, first, second)
        odds = [torch.logit(self.judge_score(rollouts), eps=1e-3) for rollouts in (first, second)]
        return torch.sigmoid(odds[0] - odds[1])

    @service
    def judge_score(self, rollouts: Rollouts) -> Tensor:
        """The AI judge's P(acceptable) of each completion [B]; each is a label by AI."""
        self._gathering()
        judge = self._given("judge")
        texts = self._policy.decode(rollouts)
        price, asked = judge.flops(texts), len(self._meter.labels.get("ai_scores", ()))
        self._meter.require(price, labels=len(texts))
        self._meter.label("ai_scores", range(asked, asked + len(texts)))
        self._meter.charge("judge", "forward", price)
        return judge(texts).to(self._policy.device)

    def _ask(self, judge: Judge, first: Rollouts, second: Rollouts) -> Tensor:
        """Each question is a label by AI. What it costs is known, and paid, when it has been answered."""
        prompts, answers = self._policy.decode_prompts(first), [self._policy.decode(each) for each in (first, second)]
        with self._meter.paused():
            verdicts = judge([Question(*texts) for texts in zip(prompts, *answers, strict=True)])
        before = len(self._meter.labels.get("ai_scores", ()))
        self._meter.label("ai_scores", range(before, before + len(verdicts)))
        self._meter.charge("judge", "forward", sum(verdict.flops for verdict in verdicts))
        self._meter.ask({"passes": 2 * len(verdicts), "tokens": sum(verdict.tokens for verdict in verdicts)})
        return torch.tensor([0.5 if v.p is None else v.p for v in verdicts], device=self._policy.device)

    # -- the run --------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, from 0 at the first optimizer step to 1."""
        return min(1.0, max(0.0, (self._meter.fraction - self._start) / max(1e-12, 1 - self._start)))

    def log(self, **scalars: float | Tensor) -> None:
        """Note scalars of the current step; several of one name within a step are averaged."""
        if taken := sorted(OURS & scalars.keys()):
            raise UserError(f"lab.log can't take {', '.join(taken)}: the harness logs that itself; call it something else")
        if not self._meter.quoting:
            for name, value in scalars.items():
                self._logged.setdefault(name, []).append(float(value.detach() if isinstance(value, Tensor) else value))

    # -- not for algorithms ---------------------------------------------------------------------------------------

    def _watched(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """What an algorithm's own code gives, watched where there is a guard."""
        with self._guard.watching() if self._guard else nullcontext():
            return work(*arguments)

    @property
    def _pad(self) -> int:
        return int(self._policy.tokenizer.pad_token_id)

    def _gathering(self, count: int = 1, of: str = "") -> None:
        """Data and feedback are gathered before a step: what a loss read would be paid at its quote, not when it is used."""
        if self._meter.quoting:
            raise UserError("a loss can't sample or read data or feedback: gather in iteration() and yield it in the batch")
        if count < 1:
            raise UserError(f"asked for {count} {of}; the least is 1, so check the algorithm's batch size")

    def _given(self, service: str, *of: str) -> Any:
        """What the shelf gives, off the clock: making a shared stage must not cost what finding it made does not."""
        with self._meter.paused():
            return getattr(self._shelf, service)(*of)

    def _refuse_thumbs(self, wanted: str) -> None:
        """Pairs and rewards would be the simulated annotator's where a file of thumbs was to teach."""
        if (thumbs := self._given("thumbs")) is not None:
            raise UserError(
                f"task.feedback.file {thumbs.file} holds thumbs; {wanted} must come from comparisons. KTO learns of thumbs"
            )

    def _cursor(self, name: str, size: int) -> Cursor:
        return self._cursors.setdefault(name, Cursor(size, self._seed))

    def _named(self, name: str) -> str:
        """A name of this round's own, since each round walks over, and pays for, more than the one before."""
        with self._meter.paused():
            number = self._shelf.number
        return f"{name}@{number}" if number else name

    def _pay_forward(
        self, role: str, model: LanguageModel, rollouts: Rollouts, backward: bool = False, adapter: bool = True
    ) -> None:
        lengths, completions = self._lengths(rollouts)
        self._meter.charge(role, "forward", model.shape.forward(lengths, completions, adapter))
        if backward:
            self._meter.charge(role, "backward", model.shape.backward(lengths, completions))

    @staticmethod
    def _lengths(rollouts: Rollouts) -> tuple[list[int], list[int]]:
        """Tokens that a pass over each row reads, and positions at which a head is applied; the last is only predicted."""
        completions = completion_lengths(rollouts)
        return [p + t - 1 for p, t in zip(prompt_lengths(rollouts), completions, strict=True)], completions

    def _pay_verdicts(self, feedback: Feedback, index: list[int], flops_beside: int = 0, labels_beside: int = 0) -> None:
        """Pay for the verdicts that were not read before, if the budget covers them and what is to be paid beside them."""
        paid = self._meter.labels.get(feedback.source, set())
        new = [number for number in sorted(set(index)) if not paid.issuperset(feedback.labels_of([number]))]
        price, labels = feedback.price(new), feedback.labels_of(new)
        calibration = range(feedback.calibration if index else 0)
        labels_beside += len(set(calibration) - self._meter.labels.get("calibration", set()))
        self._meter.require(sum(price.values()) + flops_beside, labels=len(labels) + labels_beside)
        self._meter.label(feedback.source, labels)
        if calibration:
            self._meter.label("calibration", calibration)
        self._meter.ask(feedback.asked(new))
        for role, flops in price.items():
            self._meter.charge(role, "sample" if role in ("feedback", "critic") else "forward", flops)

    def _blank(self, rollouts: Rollouts) -> Outputs:
        """Zeros of the shapes that a pass would give, for quoting the price of a loss: views of one number."""
        shape = rollouts.completion.shape
        nothing = torch.zeros((), device=self._policy.device, requires_grad=torch.is_grad_enabled())
        return Outputs(
            nothing.expand(shape),
            nothing.expand(*shape, self._policy.width),
            nothing.expand(*shape, self._policy.vocabulary),
        )
