"""Log-probabilities of the frozen reference on feedback, computed in the first epoch and the same in all others.

They are kept by the tokens of a row, so changed tokens are another row. Rows that are no feedback, such as samples, are not
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cached_property
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from isoalign.core import sharing, world
from isoalign.core.batches import Rollouts
from isoalign.models.language import LanguageModel
from isoalign.models.passes import Outputs
from isoalign.models.shards import part_of

MOST = 2**24  # numbers that are kept
DIGEST = 16


class ReferenceMemory:
    """What is known of a reference. It forgets everything once a frozen weight, or what is banned, has changed."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._feedback, self._known = set[bytes](), dict[bytes, Tensor]()
        self._numbers, self._weights = 0, self._fingerprint()
        self._news: dict[bytes, Tensor] = {}

    def expect(self, *feedback: Rollouts) -> None:
        """Keep what will be computed on these rows."""
        for rollouts in feedback:
            self._feedback.update(_digests(rollouts) or ())

    def outputs(self, rollouts: Rollouts, compute: Callable[[], Outputs]) -> Outputs:
        """``compute()``, or what is known of it: a pass is made for what is more than log-probabilities."""
        digests = _digests(rollouts) if self._feedback and self._is_frozen() else None
        if digests is not None and (weights := self._fingerprint()) != self._weights:
            self._known.clear()
            self._numbers, self._weights = 0, weights
        known = digests is not None and all(digest in self._known for digest in digests)
        if self._model.shards and self._model.shards.stepping:  # a pass is made by all processes, or by none
            known = all(sharing.exchange(known))
        if digests is None:
            return compute()
        if known:
            logp = torch.zeros(rollouts.completion.shape)
            for row, digest in zip(logp, digests, strict=True):
                numbers = self._known[digest]
                row[: len(numbers)] = numbers
            return RecalledOutputs(logp.to(self._model.device), self._model.vocabulary, compute)
        outputs = compute()
        self._keep(digests, outputs.logp.detach().cpu(), rollouts.completion_mask.sum(1).tolist())
        return outputs

    def _keep(self, digests: list[bytes], logp: Tensor, lengths: list[int]) -> None:
        for digest, row, length in zip(digests, logp, lengths, strict=True):
            if digest in self._feedback and digest not in self._known and self._numbers + length <= MOST:
                self._known[digest] = row[:length].clone()
                self._numbers += length
                if world.size() > 1:
                    self._news[digest] = self._known[digest]

    def news(self) -> dict[bytes, Tensor]:
        """What became known since the last time, for the other processes of a run."""
        news, self._news = self._news, {}
        return news

    def learn(self, news: dict[bytes, Tensor]) -> None:
        """Know what another process has told."""
        for digest, row in news.items():
            if digest not in self._known and self._numbers + len(row) <= MOST:
                self._known[digest] = row
                self._numbers += len(row)

    def state(self) -> dict[str, Tensor]:
        """What is known, as tensors for a checkpoint: a resumed run goes on with the same numbers."""
        values = list(self._known.values())
        return {
            "digests": torch.frombuffer(bytearray(b"".join(self._known)), dtype=torch.uint8) if values else torch.empty(0),
            "lengths": torch.tensor([len(value) for value in values], dtype=torch.long),
            "values": torch.cat(values) if values else torch.empty(0),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Know what ``state()`` returned."""
        lengths: list[int] = state["lengths"].tolist()
        digests = bytes(state["digests"].to(torch.uint8).tolist())
        values = state["values"].split(lengths) if lengths else ()
        self._known = {digests[DIGEST * i :][:DIGEST]: value.clone() for i, value in enumerate(values)}
        self._feedback |= self._known.keys()
        self._numbers, self._weights = sum(lengths), self._fingerprint()

    def _is_frozen(self) -> bool:
        """Whether the weights that the reference computes with are not those that are trained."""
        model = self._model
        return model.model is not model.inner or not any(p.requires_grad for p in model.inner.parameters())

    def _fingerprint(self) -> list[Any]:
        """What changes with every change of the reference."""
        frozen: Iterable[Tensor] = (p for p in self._model.weights() if not p.requires_grad)
        return [self._model.banned.tolist(), *((part_of(p).data_ptr(), p._version) for p in frozen)]


def _digests(rollouts: Rollouts) -> list[bytes] | None:
    """A name for the tokens of each row; None unless padding is on the left of prompts and on the right of completions."""
    mask, split = rollouts.mask.cpu(), rollouts.prompt_length
    prompts, completions = mask[:, :split], mask[:, split:]
    if (prompts[:, 1:] < prompts[:, :-1]).any() or (completions[:, 1:] > completions[:, :-1]).any():
        return None
    tokens, real, lengths = rollouts.tokens.cpu().long().numpy(), mask.numpy(), prompts.sum(1).tolist()
    return [
        blake2b(row[kept].tobytes(), digest_size=DIGEST, salt=length.to_bytes(8, "little")).digest()
        for row, kept, length in zip(tokens, real, lengths, strict=True)
    ]


class RecalledOutputs(Outputs):
    """Outputs whose log-probabilities are known; ``compute`` makes the pass when anything else is asked for."""

    def __init__(self, logp: Tensor, vocabulary: int, compute: Callable[[], Outputs]) -> None:
        vars(self).update(logp=logp, vocabulary=vocabulary, compute=compute)

    @cached_property
    def _whole(self) -> Outputs:
        whole: Outputs = vars(self)["compute"]()
        return whole

    hidden = property(lambda self: self._whole.hidden)  # type: ignore[assignment]
    predict = property(lambda self: self._whole.predict)  # type: ignore[assignment]
    logits = property(lambda self: self._whole.logits)  # type: ignore[assignment]
    entropy = property(lambda self: self._whole.entropy)  # type: ignore[assignment]

    def within(self, context: Callable[[], AbstractContextManager[Any]]) -> Outputs:
        """The same outputs, whose pass is made within a context."""

        def compute() -> Outputs:
            with context():
                return self._whole.within(context)

        return RecalledOutputs(self.logp, self.vocabulary, compute)
