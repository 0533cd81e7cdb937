"""The anchor of a run: a copy of the policy's trained weights that an algorithm moves, as the reference of TR-DPO.

It is read by lending its weights to the policy's model for the time of a pass, so that it takes one copy of what is trained,
an adapter or all weights, and computes as the policy does. What it gives is not kept: each read is a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from isoalign.core.errors import UserError
from isoalign.models.language import LanguageModel
from isoalign.models.shards import as_cut, part_of


class Anchor:
    """A copy of the weights of ``policy`` that are trained; none until it is taken."""

    def __init__(self, policy: LanguageModel) -> None:
        self._policy, self._weights = policy, list[Tensor]()
        self._moves, self._is_lent = 0, False

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._policy.weights() if parameter.requires_grad]

    def take(self) -> None:
        """Copy the policy, unless a copy is there."""
        if not self._weights:
            self._weights = [parameter.detach().clone() for parameter in self._trained]

    @torch.no_grad()
    def move(self, share: float) -> None:
        """Move every weight by ``share`` of the way to the policy's; 1 makes it the policy's to the bit. Raises UserError for
        a share that is not in (0, 1]."""
        if not 0 < share <= 1:
            raise UserError(f"lab.move_anchor moves by a share in (0, 1], not {share}")
        self.take()
        for own, parameter in zip(self._weights, self._trained, strict=True):
            part_of(own).lerp_(part_of(parameter.detach()), share)
        self._moves += 1

    def lender(self) -> Callable[[], AbstractContextManager[None]]:
        """What makes contexts in which the policy's model has the anchor's weights. After a move they raise UserError: states
        of the old weights say nothing to a new head."""
        self.take()
        moves = self._moves

        def lend() -> AbstractContextManager[None]:
            if self._moves != moves:
                raise UserError("logits or entropy of a pass of the anchor are read after it has moved; read them before it")
            return self._lent()

        return lend

    @contextmanager
    def _lent(self) -> Iterator[None]:
        if self._is_lent:
            yield
            return
        self._is_lent = True
        try:
            with self._exchanged():
                yield
        finally:
            self._is_lent = False

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        if shards := self._policy.shards:
            names = (name for name, parameter in shards.weights.items() if parameter.requires_grad)
            with shards.lent(dict(zip(names, self._weights, strict=True))):
                yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        """Let the policy's parameters and the anchor's tensors trade places, without copying a number."""
        for place, parameter in enumerate(self._trained):
            self._weights[place], parameter.data = parameter.data, self._weights[place]

    def state(self) -> list[Tensor]:
        """Its weights, for a checkpoint; empty unless it was taken."""
        return self._weights

    def restore(self, weights: list[Tensor]) -> None:
        """Have what ``state()`` returned."""
        pairs = zip(weights, self._trained, strict=False)  # none before it is taken
        self._weights = [as_cut(weight.to(self._policy.device), like) for weight, like in pairs]
        self._moves += 1
