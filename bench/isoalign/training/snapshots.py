"""When the policy is saved along the budget: at shares of what was left at its first step, and at values of its KL."""

from __future__ import annotations

import math

import torch

from isoalign.core import world
from isoalign.data.preferences import select
from isoalign.models import kl
from isoalign.training.session import Session

ANSWERS = 16  # of a look at the KL, one to each of the first training prompts
LOOKS = 32  # at most, evenly along what is left of the budget


class SnapshotPlan:
    """Says after which steps the policy is saved.

    The KL that decides is exact for each token, on a few answers that the policy samples now: to the same prompts with the
    same random numbers at every look, in every run. It decides where a snapshot lies, not what it is worth: each is scored
    later like the trained policy. Like evaluation it costs the run nothing, neither FLOPs nor seconds, and draws from no
    generator of the run. It depends on the weights alone, so a resumed run looks alike, and of several processes the first one
    looks for all.

    ``shares`` of what was left of the budget at the first step, after its start-up cost; ``kls``: in nats, the same for all
    methods. ``passed``: the largest of them that the policy has passed; ``progress``: of the last step.
    """

    def __init__(self, session: Session, shares: tuple[float, ...], kls: tuple[float, ...]) -> None:
        self.session, self.shares, self.kls = session, shares, kls if shares else ()
        self.passed = self.progress = 0.0

    def due(self) -> bool:
        """Whether the policy is to be saved after this step: it is the first to reach some share, or seen beyond some KL."""
        before, self.progress = self.progress, self.session.progress
        shared = any(before < share <= self.progress for share in self.shares)
        if any(self.passed < value for value in self.kls) and int(LOOKS * before) < int(LOOKS * self.progress):
            with self.session.policy.whole(), self.session.reference.whole():
                drift = world.of_first(self._drift)
            beyond = [value for value in self.kls if self.passed < value <= drift]
            self.passed = max(beyond, default=self.passed)
            return shared or bool(beyond)
        return shared

    @torch.no_grad()
    def _drift(self) -> float:
        """The KL of the policy from its reference, in nats a completion; 0 where it is not finite."""
        session, module = self.session, self.session.policy.inner
        prompts = session.fetch(session.source.prompts)
        asked = select(prompts, torch.arange(min(ANSWERS, len(prompts)))).to(session.device)
        uniforms = torch.rand(len(asked), session.new_tokens, generator=torch.Generator().manual_seed(0))
        training = module.training
        with session.harness_code(), session.meter.paused():
            module.eval()
            drawn = session.policy.generate(asked, uniforms)
            drift = float(kl.compare(session.policy, session.reference, drawn).kl.sum(1).mean())
            module.train(training)
        return drift if math.isfinite(drift) else 0.0
