"""Passes over the models of a run, whose rows its processes share.

Outside of a loss the processes share the rows of what needs no gradients; within one, rows are a process's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from isoalign.core import sharing, world
from isoalign.core.batches import Prompts, Rollouts, joined
from isoalign.core.memory import by_rows
from isoalign.models.decoding import Beside
from isoalign.models.language import LanguageModel
from isoalign.models.passes import Outputs, Predict
from isoalign.models.samplers.engine import EngineSampler
from isoalign.models.shards import Shards
from isoalign.training.anchor import Anchor
from isoalign.training.feedback_source import FeedbackSource
from isoalign.training.gathered import GatheredOutputs
from isoalign.training.joint_pass import JointPass
from isoalign.training.reference_memory import ReferenceMemory

ROLES = ("policy", "reference", "anchor", "teacher")
"""The language models of a run: the policy, the frozen SFT base, a copy of the policy that moves, the task's teacher."""

P = ParamSpec("P")
T = TypeVar("T")


class Passes:
    """What a session does with its models. Its attributes are a `Session`'s."""

    policy: LanguageModel
    reference: LanguageModel
    modules: dict[str, nn.Module]
    source: FeedbackSource
    anchor: Anchor
    joint: JointPass
    remembered: ReferenceMemory
    engine: EngineSampler | None
    logged: dict[str, list[tuple[float, float]]]
    loss_share: float
    fetch: Callable[..., Any]

    @property
    def device(self) -> torch.device:
        """The device of models and batches."""
        return self.policy.device

    @property
    def pad(self) -> int:
        """The padding token."""
        return int(self.policy.tokenizer.pad_token_id)

    def model(self, role: str) -> LanguageModel:
        """The model of a role; that of the anchor is the policy's, which has the anchor's weights while it is lent them."""
        if role == "teacher":
            teacher = self.fetch(self.source.teacher)  # it may write what the policy may
            teacher.banned, teacher.end_ids, teacher.ends = self.policy.banned, self.policy.end_ids, self.policy.ends
            return teacher
        return self.reference if role == "reference" else self.policy

    def lender(self, role: str) -> Callable[[], AbstractContextManager[None]]:
        """What makes contexts in which the model of a role computes as that role does."""
        return {"reference": lambda: self.reference.adapter_off, "anchor": self.anchor.lender}.get(role, lambda: nullcontext)()

    @property
    def shards(self) -> list[Shards]:
        """Of all models whose weights the processes of the run hold together."""
        found = [getattr(model, "shards", None) for model in (self.policy, self.reference, *self.modules.values())]
        return list(dict.fromkeys(shards for shards in found if isinstance(shards, Shards)))

    def in_step(self, work: Callable[[], T]) -> T:
        """What the work returns, a loss whose gradients come next: layers of those models are gathered as they are read."""
        for shards in self.shards:
            work = functools.partial(shards.step, work)
        return work()

    def read_by_policy(self, rollouts: Rollouts) -> Outputs:
        """The policy on completions."""
        read = functools.partial(self.joint.outputs, "policy", self.policy.read_together)
        return self._read(self.policy, rollouts, read, self.policy.predict_now)

    @torch.no_grad()
    def reference_passes(self, parts: Sequence[Rollouts]) -> list[Outputs]:
        """The reference on completions, without the policy's adapter."""
        with self.reference.adapter_off():
            return self.reference.read_together(parts)

    @torch.no_grad()
    def read_by_reference(self, rollouts: Rollouts) -> Outputs:
        """The reference on completions, without the policy's adapter, or what is known of it."""

        def predict() -> Predict:
            with self.reference.adapter_off():
                return self.reference.predict_now()

        def read(rows: Rollouts) -> Outputs:
            made = functools.partial(self.joint.outputs, "reference", self.reference_passes, rows)
            return self.remembered.outputs(rows, made)

        return self._read(self.reference, rollouts, read, predict)

    @torch.no_grad()
    def read_by(self, role: str, rollouts: Rollouts) -> Outputs:
        """The model of a frozen role on completions; nothing of anchor and teacher is remembered."""
        if role == "reference":
            return self.read_by_reference(rollouts)
        model, lend = self.model(role), self.lender(role)

        def passes(parts: Sequence[Rollouts]) -> list[Outputs]:
            with lend():
                return [outputs.within(lend) for outputs in model.read_together(parts)]

        def predict() -> Predict:
            made = model.predict_now()

            def later(states: Tensor) -> Tensor:
                with lend():
                    return made(states)

            return later

        return self._read(model, rollouts, functools.partial(self.joint.outputs, role, passes), predict, lend)

    def _read(
        self, model: LanguageModel, rollouts: Rollouts, read: Callable[[Rollouts], Outputs], predict: Callable[[], Predict],
        lend: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Outputs:  # fmt: skip
        if world.size() == 1 or self.loss_share or torch.is_grad_enabled():
            with model.whole():
                return read(rollouts)
        mine, all_enter = sharing.own(rollouts), functools.partial(model.whole, lend)
        return GatheredOutputs(
            lambda: read(mine) if len(mine) else None, model, predict, lambda: bool(self.loss_share), all_enter
        )

    def sample(self, prompts: Prompts, uniforms: Tensor, by: str = "policy", mix: float = 0.0) -> Rollouts:
        """Completions by the model of a role; ``uniforms`` [B x draws, T] fix every one of them. ``mix``: share of the
        reference in a geometric mixture with it, at each token, which is own decoding's even where an engine samples."""
        if self.engine and by == "policy" and not mix:
            rollouts = self._sample(self.engine.generate, prompts, uniforms)
            gap = self.engine.settle(sharing.exchange(self.engine.take_gap()))
            self.logged.setdefault("sampler_gap", []).append((gap, 1.0))
            return rollouts
        model, beside = self.model(by), Beside(self.reference, mix) if mix else None
        with self.lender(by)(), model.whole(), self.reference.whole() if mix else nullcontext():
            return self._sample(lambda some, numbers: model.generate(some, numbers, beside), prompts, uniforms)

    def _sample(self, generate: Callable[[Prompts, Tensor], Rollouts], prompts: Prompts, uniforms: Tensor) -> Rollouts:
        if world.size() == 1:
            return generate(prompts, uniforms)
        mine, numbers = sharing.own(prompts), sharing.own(uniforms.view(len(prompts), -1, uniforms.shape[-1])).flatten(0, 1)
        parts = sharing.together(lambda: generate(mine, numbers).to("cpu") if len(mine) else None)
        return joined([part for part in parts if part], self.pad).to(self.device)

    def by_rows(self, model: Callable[[Rollouts], Tensor], rollouts: Rollouts) -> Tensor:
        """What a model makes of the rows [B, ...], without gradients."""
        shards: Shards | None = getattr(model, "shards", None)
        if self.loss_share:
            return model(rollouts) if shards else torch.cat(by_rows(model, rollouts, self.policy.rows))
        mine = sharing.own(rollouts)
        with shards.whole() if shards else nullcontext():
            found = sharing.gather_rows(lambda: torch.cat(by_rows(model, mine, self.policy.rows)) if len(mine) else None)
        return found.to(self.device)
