"""REINFORCE++: PPO without a critic, advantages scaled over the whole batch."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Paper, Rollouts, Step, register
from isoalign.baselines.parts.advantages import gae, place_rewards, whiten
from isoalign.baselines.parts.groups import Grouped, by_tokens
from isoalign.baselines.parts.losses import clipped_loss, row_mean
from isoalign.baselines.parts.rounding import drop_rounding
from isoalign.baselines.parts.sampling import PRICED, OnPolicy


@register
class ReinforcePP(OnPolicy):
    """Hu et al. 2025, "REINFORCE++": the reward of an answer less the KL penalty of its tokens from here to its end,
    standardised over all tokens of the batch, in PPO's clipped loss.

    ``rollouts``: completions per iteration; ``draws``: samples per prompt; ``kl``: KL coefficient, on k1 of each token.
    ``scale_length``: the loss is a mean over each answer's tokens; without, over all tokens of a step, as in the authors'
    OpenRLHF. The deviation is the biased one, as there (verl has the unbiased one), with 1e-8 added to it. The variant with a
    baseline of the group is not this one.
    """

    paper: ClassVar[Paper] = Paper(
        "Hu et al.", "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage Normalization", 2025,
        "2501.03262", "section 3.2", family="reward", learns_from="a reward model, on its own answers",
        parity="test_grpo_relatives.py: numbers worked by hand, and PPO without a critic", logs=PRICED,
    )  # fmt: skip

    kl_price: ClassVar[str] = "kl"

    kl: float = 0.05
    clip: float = 0.2
    scale_length: bool = True

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample, score and standardise; then epochs of minibatches over all."""
        rollouts = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        yield from by_tokens(lab, self.experience(lab, rollouts), self.loss, self.epochs, self.minibatch)

    @torch.no_grad()
    def experience(self, lab: Lab, rollouts: Rollouts) -> Grouped:
        """Rollouts with the advantage of each token."""
        score, logp, mask = lab.reward(rollouts), lab.policy(rollouts).logp, rollouts.completion_mask
        drift = (logp - lab.reference(rollouts).logp) * mask
        lab.log(reward=score.mean(), kl_k1=drift.sum(1).mean())
        rewards = place_rewards(score, drift, self.kl, mask)
        zero = torch.zeros_like(rewards)  # in place of values, so that an advantage is all that is still to come
        returns, _ = gae(rewards, zero, mask, gamma=1.0, lam=1.0)
        return Grouped(rollouts, logp, whiten(drop_rounding(returns, mask), mask), torch.ones_like(score))

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """Clipped policy loss, averaged over each row's tokens, or divided by the mean length of the step's rows [B]."""
        logp, mask = lab.policy(batch.rollouts).logp, batch.rollouts.completion_mask
        loss = clipped_loss(logp - batch.logp, batch.advantages, self.clip, self.clip)
        return row_mean(loss, mask) if self.scale_length else (loss * mask).sum(1) / batch.mean_length
