"""Exact divergence between two next-token distributions."""

import torch
from torch import Tensor


def exact_kl(policy_logits: Tensor, base_logits: Tensor) -> Tensor:
    """KL(policy || base) over the whole vocabulary at every position, in nats: [B, T, V], [B, T, V] -> [B, T].

    In fp32 whatever comes in. A token with logit -inf under the policy adds 0 (0 log 0); one that the policy gives
    and the base rules out makes the KL infinite, as it is. Mask and sum over completion positions outside: that sum,
    averaged over the policy's own samples, is the sequence KL (exact for each token, Monte Carlo over prefixes
    alone).
    """
    if policy_logits.shape != base_logits.shape:
        raise ValueError(f"logits of different shapes: {tuple(policy_logits.shape)}, {tuple(base_logits.shape)}")
    logp, logq = policy_logits.float().log_softmax(-1), base_logits.float().log_softmax(-1)
    gap = (logp - logq).masked_fill(logp == -torch.inf, 0.0)
    return (logp.exp() * gap).sum(-1).clamp_min(0.0)  # a KL below 0 is rounding
