"""The best and the worst of several answers to a prompt."""

import torch
from torch import Tensor

from isoalign import Pairs, Rollouts


def best(score: Tensor, draws: int) -> Tensor:
    """The row with the highest of each prompt's ``draws`` scores [B], from scores [B x draws]; the first of equal ones."""
    return score.view(-1, draws).argmax(1) + torch.arange(0, len(score), draws, device=score.device)


def best_against_worst(answers: Rollouts, score: Tensor, draws: int) -> Pairs:
    """The best and the worst of each prompt's ``draws`` answers [B], by their scores [B x draws]. With equal scores, an answer
    is paired with itself, which gives DPO no gradient."""
    chosen, rejected = best(score, draws), best(-score, draws)
    return Pairs(answers[chosen], answers[rejected], torch.arange(len(chosen), device=score.device))
