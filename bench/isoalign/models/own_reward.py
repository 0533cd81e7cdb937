"""A reward model of one's own as the reward of rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from isoalign.config.task import ModelConfig
from isoalign.core.batches import Rollouts
from isoalign.data.formats import Turns
from isoalign.models import loading, tokens
from isoalign.models.reward import Untrained, normalise_rewards
from isoalign.models.reward_classifier import RewardClassifier


class OwnReward(Untrained):
    """The score of a reward model of one's own, normalised like a head's; it needs no training here.

    ``asked`` gives the turns behind the tokens of a prompt, so that the template of the policy is not read.
    """

    def __init__(
        self, folder: Path, config: ModelConfig, model: RewardClassifier, asked: Callable[[Sequence[int]], Turns],
        normalise: bool = True,
    ) -> None:  # fmt: skip
        self.tokenizer, self.model, self.asked, self.normalise = loading.task_tokenizer(config), model, asked, normalise
        self.record = json.loads((folder / "record.json").read_text())

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B]; if normalised, with mean 0 and deviation 1 on the training answers. In fp32 whatever the policy is in,
        as scores about 25 have steps of .125 in bf16."""
        return normalise_rewards(self.model(self._rows(rollouts)), self.record, self.normalise)

    def flops(self, rollouts: Rollouts) -> int:
        """FLOPs of a pass over the reward model's tokens of the texts."""
        return self.model.price(self._rows(rollouts))

    def _rows(self, rollouts: Rollouts) -> list[list[int]]:
        split = rollouts.prompt_length
        prompts = zip(rollouts.tokens[:, :split].tolist(), rollouts.mask[:, :split].tolist(), strict=True)
        asked = [self.asked([token for token, real in zip(*row, strict=True) if real]) for row in prompts]
        answers = tokens.decode(self.tokenizer, rollouts)
        return [self.model.read(*both) for both in zip(asked, answers, strict=True)]
