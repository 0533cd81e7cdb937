"""Proximal policy optimisation against a reward model, with a KL penalty from the base."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Paper, Rollouts, Scalars, register
from isoalign.baselines.parts.advantages import gae, place_rewards, value_head, whiten
from isoalign.baselines.parts.losses import clipped_loss, row_mean, value_loss
from isoalign.baselines.parts.rounding import drop_rounding
from isoalign.baselines.parts.sampling import PRICED, OnPolicy


@dataclass(frozen=True)
class Experience(Batch):
    """Rollouts with quantities of the policy that sampled them; all but ``rollouts`` are [B, T]."""

    rollouts: Rollouts
    logp: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


PENALISED: Scalars = PRICED | {"kl_price": "the KL coefficient, which target_kl adapts"}
"""What PPO logs."""


@register
class PPO(OnPolicy):
    """Schulman et al. 2017, "Proximal Policy Optimization Algorithms", eq. 9, set up as by Ziegler et al. 2019,
    "Fine-Tuning Language Models from Human Preferences": reward on the last token, per-token KL penalty, whitening.

    ``rollouts``: completions per iteration; ``draws``: samples per prompt; ``kl``: KL coefficient; ``target_kl``: nats per
    completion that an adaptive coefficient targets, 0 for a fixed one; ``gamma``, ``gae_lambda``: Schulman et al. 2016, eq.
    16; ``clip``, ``value_clip``: how far ratios and values may move; ``value_weight``, ``entropy_weight``: of the value loss
    and of a bonus for entropy; ``value_warmup``: iterations at the start that train the values alone, billed for what they
    compute; ``reward_clip``: the most that a reward counts; ``whiten``: standardise advantages over the tokens of all
    rollouts, by the biased deviation with 1e-8 added to it (TRL 1.12 and verl: the unbiased one, 1e-8 added to the variance).
    The loss is a mean over each answer's tokens; in TRL 1.12 and OpenRLHF over the tokens of all answers. An answer without
    an end pays no penalty, which is an option of TRL 1.12. The value head starts at 0.
    """

    paper: ClassVar[Paper] = Paper(
        "Ziegler et al.", "Fine-Tuning Language Models from Human Preferences", 2019, "1909.08593",
        "eq. 2, with eq. 9 of Schulman et al. 2017", family="reward", learns_from="a reward model, on its own answers",
        values={
            "epochs": "4", "kl": "0.01 to 0.15", "gamma": "1", "gae_lambda": "0.95", "clip": "0.2", "value_clip": "0.2",
            "value_weight": "0.1",
        },
        parity="test_ppo.py: numbers worked by hand, and brute force for the advantages", logs=PENALISED,
    )  # fmt: skip

    kl_price: ClassVar[str] = "kl"
    closed_form: ClassVar[bool] = True

    kl: float = 0.05
    target_kl: float = 0.0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    value_warmup: int = 0
    entropy_weight: float = 0.0
    reward_clip: float = 5.0
    whiten: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_warmup < 0:
            raise ValueError(f"value_warmup must be a number of iterations, 0 for none, not {self.value_warmup}")

    @torch.no_grad()
    def experience(self, lab: Lab, rollouts: Rollouts) -> Experience:
        """Rewards and advantages of new rollouts. Old log-probabilities come from a training pass, not from decoding, so that
        the ratios start at 1 in any precision."""
        outputs, mask = lab.policy(rollouts), rollouts.completion_mask
        values = self.values(lab, rollouts, outputs.hidden) * mask
        drift = (outputs.logp - lab.reference(rollouts).logp) * mask
        score = self.score(lab, rollouts).clamp(-self.reward_clip, self.reward_clip)
        rewards = place_rewards(score, drift, lab.state.setdefault("kl", self.kl), mask)
        advantages, returns = gae(rewards, values, mask, self.gamma, self.gae_lambda)
        if self.whiten:
            advantages = whiten(drop_rounding(advantages, mask), mask)
        lab.log(reward=score.mean(), kl_k1=drift.sum(1).mean(), kl_price=lab.state["kl"])
        lab.state["iterations"] = lab.state.get("iterations", 0) + 1
        if lab.state["iterations"] > self.value_warmup:  # before, the policy does not move
            lab.state["kl"] = self.next_price(lab.state["kl"], float(drift.sum(1).mean()))
        return Experience(rollouts, outputs.logp, values, advantages, returns)

    def score(self, lab: Lab, rollouts: Rollouts) -> Tensor:
        """The reward of each completion [B]."""
        return lab.reward(rollouts)

    def values(self, lab: Lab, rollouts: Rollouts, hidden: Tensor) -> Tensor:
        """Expected future reward before each token [B, T]."""
        return value_head(lab, hidden)

    def next_price(self, price: float, kl: float) -> float:
        """Ziegler et al. 2019, section 2.2: a proportional controller in log space."""
        if not self.target_kl:
            return price
        return price * (1 + 0.1 * max(-0.2, min(0.2, kl / self.target_kl - 1)))

    def loss(self, lab: Lab, batch: Experience) -> Tensor:
        """Clipped policy and value losses minus the entropy bonus, averaged over each row's tokens [B]; at first the value
        loss alone, which moves nothing of the policy."""
        values_alone = lab.state.get("iterations", 1) <= self.value_warmup
        with torch.set_grad_enabled(not values_alone):
            outputs, mask = lab.policy(batch.rollouts), batch.rollouts.completion_mask
        values = self.values(lab, batch.rollouts, outputs.hidden)
        loss = self.value_weight * value_loss(values, batch.values, batch.returns, self.value_clip)
        if not values_alone:
            loss = loss + clipped_loss(outputs.logp - batch.logp, batch.advantages, self.clip, self.clip)
        if self.entropy_weight and not values_alone:
            loss = loss - self.entropy_weight * outputs.entropy
        return row_mean(loss, mask)
