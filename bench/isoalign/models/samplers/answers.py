"""How an engine is asked for completions, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """The tokens of a completion, an end token included, and the log-probability that the engine gives each, in nats."""

    ids: list[int]
    logp: list[float]


class Engine(Protocol):
    """An engine that is ready to sample from one model."""

    def answer(self, prompts: list[list[int]], uniforms: Tensor) -> list[Answer]:
        """An answer to each prompt, by the model's weights as they are now.

        Tokens are sampled at temperature 1 from all that the model does not ban, until the model ends an answer or it has T
        tokens. ``prompts``: token ids; ``uniforms`` [B, T]: the random numbers of each answer, or what its seed is made of;
        `GREEDY` in place of all of them takes the likeliest tokens.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
