"""From rewards of answers to advantages of tokens or of answers."""

import torch
from torch import Tensor, nn

from isoalign import Lab


def value_head(lab: Lab, hidden: Tensor) -> Tensor:
    """Expected future reward before each token [B, T], from a linear head on the policy's hidden states [B, T, D]. It values
    everything at 0 until it is trained: the first advantages are those of the rewards alone."""
    return lab.module("value", _zero_head)(hidden).squeeze(-1)


def _zero_head(width: int) -> nn.Linear:
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def place_rewards(score: Tensor, drift: Tensor, price: float, mask: Tensor) -> Tensor:
    """Per-token rewards [B, T]: minus ``price``, the KL coefficient, times the log-ratio ``drift`` of each token, plus the
    score [B] on the last token of the completion."""
    rewards = -price * drift
    last = mask.sum(1, keepdim=True).clamp(min=1) - 1
    return rewards.scatter_add(1, last, score.unsqueeze(1).to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16): advantages and returns [B, T], 0 on padding."""
    advantages = torch.zeros_like(rewards)
    ahead = value_ahead = torch.zeros(len(rewards), device=rewards.device)
    for t in reversed(range(rewards.shape[1])):
        error = rewards[:, t] + gamma * value_ahead - values[:, t]
        ahead = (error + gamma * lam * ahead) * mask[:, t]
        value_ahead = values[:, t] * mask[:, t]
        advantages[:, t] = ahead
    return advantages, (advantages + values) * mask


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 over tokens that are not padding."""
    real = advantages[mask]
    return (advantages - real.mean()) / (real.std(correction=0) + 1e-8) * mask


def group_advantages(score: Tensor, draws: int, scale: bool) -> Tensor:
    """Scores minus their group's mean [B x draws], over its standard deviation if ``scale``; 0 if all scores are equal."""
    groups = score.view(-1, draws)
    advantages = groups - groups.mean(1, keepdim=True)
    if scale:
        advantages = advantages / (groups.std(1, keepdim=True) + 1e-4)
    return advantages.flatten()


def leave_one_out(returns: Tensor, draws: int) -> Tensor:
    """Each return minus the mean of the other ``draws`` - 1 returns of its prompt [B x draws]."""
    groups = returns.view(-1, draws)
    return (groups - (groups.sum(1, keepdim=True) - groups) / (draws - 1)).flatten()
