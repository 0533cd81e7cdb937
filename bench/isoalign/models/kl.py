"""Exact divergence between two next-token distributions, and between two models on completions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isoalign.core.batches import Rollouts
from isoalign.models import passes
from isoalign.models.language import LanguageModel
from isoalign.models.shared_prompts import read_states

TOGETHER = 2**19  # logits of each model that are worked on at a time: few enough to stay in a processor's cache
LEAST = 64  # positions at a time: the weights of the head are read anew for each part


def exact_kl(policy_logits: Tensor, base_logits: Tensor) -> Tensor:
    """KL(policy || base) over the whole vocabulary at every position, in nats: [B, T, V], [B, T, V] -> [B, T].

    Computed in fp32. A token with logit -inf under the policy adds 0 (0 log 0); a token with logit -inf only under the base
    makes the KL infinite. The caller masks and sums over completion positions: that sum, averaged over samples of the policy,
    is the sequence KL (exact for each token, Monte Carlo over prefixes only).
    """
    if policy_logits.shape != base_logits.shape:
        raise ValueError(f"logits of different shapes: {tuple(policy_logits.shape)}, {tuple(base_logits.shape)}")
    return _kl_and_entropy(policy_logits.float().log_softmax(-1), base_logits.float().log_softmax(-1))[0]


@dataclass(frozen=True)
class Comparison:
    """Two models on the same completions: log-probabilities of the tokens under policy and base, KL(policy || base) and the
    policy's entropy at each position, in nats, 0 on padding; each [B, T]."""

    logp: Tensor
    base_logp: Tensor
    kl: Tensor
    entropy: Tensor


@torch.no_grad()
def compare(policy: LanguageModel, base: LanguageModel, rollouts: Rollouts, sampled: Tensor | None = None) -> Comparison:
    """One pass of each model over completions, without keeping logits. A base that is the policy is read without adapter.

    A prompt is read once for all its completions. ``sampled``: the policy's states that predict each token [B, T, D], where
    they are known; it is not read then.
    """
    rollouts = rollouts.to(policy.device)
    real = rollouts.completion_mask
    policy_states = _states(policy, rollouts) if sampled is None else sampled[real].float()
    policy_logits = policy.predict_now()
    with base.adapter_off():
        base_states, base_logits = _states(base, rollouts), base.predict_now()

    def work(states: Tensor, other: Tensor, tokens: Tensor) -> Tensor:
        logp = policy_logits(states.unsqueeze(0))[0].log_softmax(-1)
        base_logp = base_logits(other.unsqueeze(0))[0].log_softmax(-1)
        chosen = [each.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) for each in (logp, base_logp)]
        return torch.stack([*chosen, *_kl_and_entropy(logp, base_logp)], -1)

    values = torch.zeros(*real.shape, 4, device=policy.device)
    rows = max(1, min(max(LEAST, TOGETHER // policy.vocabulary), passes.LOGITS // (2 * policy.vocabulary)))
    parts = zip(*(part.split(rows) for part in (policy_states, base_states, rollouts.completion[real])), strict=True)
    values[real] = torch.cat([work(*part) for part in parts])
    return Comparison(*values.unbind(-1))


def _states(model: LanguageModel, rollouts: Rollouts) -> Tensor:
    """The states that predict the tokens of the completions, without padding [N, D]."""
    with model.in_precision():
        return read_states(model.body, rollouts.to(model.device))[rollouts.completion_mask.to(model.device)]


def _kl_and_entropy(logp: Tensor, base_logp: Tensor) -> tuple[Tensor, Tensor]:
    """KL(policy || base) and the policy's entropy of log-probabilities [..., V]."""
    p = logp.exp()
    gap = (logp - base_logp).masked_fill_(logp == -torch.inf, 0.0)
    return (p * gap).sum(-1).clamp_min(0.0), -(p * logp).sum(-1)  # a negative KL is a rounding error
