"""Losses of tokens or answers, and their mean over an answer."""

import torch
from torch import Tensor


def clipped_loss(log_ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A), elementwise; with low = high eq. 7 of Schulman et al. 2017, "Proximal Policy
    Optimization Algorithms"."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the larger of the squared errors of ``values`` with and without clipping their change from the ``old`` ones."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def k3(logp: Tensor, base_logp: Tensor) -> Tensor:
    """Schulman's third estimator of KL(pi || base), per token: b / p - log(b / p) - 1, never negative. Its mean is that KL,
    but its gradient is that of KL(base || pi), so that base * exp(reward / kl) is not the optimum."""
    log_ratio = base_logp - logp
    return log_ratio.exp() - log_ratio - 1


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over each row's tokens that are not padding [B]."""
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)
