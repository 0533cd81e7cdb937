"""Differences that are none."""

import torch
from torch import Tensor


def drop_rounding(values: Tensor, mask: Tensor) -> Tensor:
    """The values [B, T], or 0 if those of real tokens differ by rounding alone: whitening would make advantages of size 1 of
    that."""
    real = values[mask]
    rounding = 16 * torch.finfo(real.dtype).eps * real.abs().mean()
    return torch.where(real.std(correction=0) <= rounding, 0.0, values)
