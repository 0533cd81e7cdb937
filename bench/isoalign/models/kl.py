"""Exact divergence between two next-token distributions."""

import torch
from torch import Tensor


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
