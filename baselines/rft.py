"""Rejection-sampling fine-tuning: imitate the best of one's own answers, and again."""

from collections.abc import Iterator

import torch
from torch import Tensor

from isoalign import Lab, Step, register
from isoalign.baselines.ppo import minibatches
from isoalign.baselines.sft_chosen import SFTChosen


@register
class RFT(SFTChosen):
    """Touvron et al. 2023, "Llama 2", section 3.2.3; RAFT of Dong et al. 2023, "Reward rAnked FineTuning"; with the reward
    model for a search it is the expert iteration of Anthony et al. 2017. No price holds it to the base.

    ``prompts``: an iteration; ``draws``: answers to each, of which the best is kept; ``epochs`` over what was kept, by
    negative log-likelihood; ``batch_size``: answers a step.
    """

    prompts: int = 64
    draws: int = 4
    epochs: int = 1

    def __post_init__(self) -> None:
        if min(self.prompts, self.epochs, self.batch_size) < 1 or self.draws < 2:
            raise ValueError("prompts, epochs and batch_size must be 1 or more, and draws 2 or more: the best is kept")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample, keep the best of each prompt; then epochs of imitating them."""
        answers = lab.generate(lab.prompts(self.prompts), self.draws)
        score = lab.reward(answers)
        kept = best(score, self.draws)
        lab.log(reward=score.mean(), kept_reward=score[kept].mean())
        yield from minibatches(lab, answers[kept], self.loss, self.epochs, self.batch_size)


def best(score: Tensor, draws: int) -> Tensor:
    """The row of the highest score among each prompt's ``draws`` [B], of scores [B x draws]; the first where several are."""
    return score.view(-1, draws).argmax(1) + torch.arange(0, len(score), draws, device=score.device)
