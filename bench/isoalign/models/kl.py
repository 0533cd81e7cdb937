"""Exact divergence between two next-token distributions, and between two models on completions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isoalign.core.batches import Rollouts
from isoalign.models.language import LanguageModel
from isoalign.models.passes import entropy, over_positions, token_logp


def exact_kl(policy_logits: Tensor, base_logits: Tensor) -> Tensor:
    """KL(policy || base) over the whole vocabulary at every position, in nats: [B, T, V], [B, T, V] -> [B, T].

    Computed in fp32. A token with logit -inf under the policy adds 0 (0 log 0); a token with logit -inf only under the base
    makes the KL infinite. The caller masks and sums over completion positions: that sum, averaged over samples of the policy,
    is the sequence KL (exact for each token, Monte Carlo over prefixes only).
    """
    if policy_logits.shape != base_logits.shape:
        raise ValueError(f"logits of different shapes: {tuple(policy_logits.shape)}, {tuple(base_logits.shape)}")
    logp, logq = policy_logits.float().log_softmax(-1), base_logits.float().log_softmax(-1)
    gap = (logp - logq).masked_fill(logp == -torch.inf, 0.0)
    return (logp.exp() * gap).sum(-1).clamp_min(0.0)  # a negative KL is a rounding error


@dataclass(frozen=True)
class Comparison:
    """Two models on the same completions: log-probabilities of the tokens under policy and base, KL(policy || base) and the
    policy's entropy at each position, in nats, 0 on padding; each [B, T]."""

    logp: Tensor
    base_logp: Tensor
    kl: Tensor
    entropy: Tensor


@torch.no_grad()
def compare(policy: LanguageModel, base: LanguageModel, rollouts: Rollouts) -> Comparison:
    """One pass of each model over completions, without keeping logits. A base that is the policy is read without adapter."""
    policy_states, policy_logits = policy.states(rollouts), policy.predict_now()
    with base.adapter_off():
        base_states, base_logits = base.states(rollouts), base.predict_now()

    def work(states: Tensor, other: Tensor, tokens: Tensor) -> Tensor:
        logits, base = policy_logits(states), base_logits(other)
        values = token_logp(logits, tokens), token_logp(base, tokens), exact_kl(logits, base), entropy(logits)
        return torch.stack(values, -1)

    tokens = rollouts.completion.to(policy.device)
    values = over_positions(work, policy_states, base_states, tokens, vocabulary=2 * policy.vocabulary)
    return Comparison(*values.masked_fill(~rollouts.completion_mask.to(policy.device).unsqueeze(-1), 0.0).unbind(-1))
