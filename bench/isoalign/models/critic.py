"""The value model of PPO with a critic of its own."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from isoalign.core.batches import Rollouts
from isoalign.models.language import LanguageModel
from isoalign.models.passes import Body
from isoalign.models.shards import Shards


class Critic(nn.Module):
    """A value model: a copy of a language model's body with a scalar head, initialised to 0."""

    def __init__(self, policy: LanguageModel) -> None:
        super().__init__()
        body = policy.body.module
        self.body = policy.shards.copy_of(body) if policy.shards else copy.deepcopy(body)
        self.head = nn.Linear(policy.width, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._body, self._precision = Body(self.body), policy.in_precision
        self.shards = Shards(self) if policy.shards else None

    def forward(self, rollouts: Rollouts) -> Tensor:
        """A value for each token of the completions, from the state that predicts it [B, T]."""
        with self._precision():
            states = self._body.read(rollouts.to(self.head.weight.device))
        values: Tensor = self.head(states.float())
        return values.squeeze(-1)
