"""The two BiLSTM toxicity scorers (tox-block 0.1.2, toxic-comment-classifier 0.3.0) in plain torch, without TensorFlow.

Both are the same network, trained independently on the Jigsaw comments: embedding (50) -> bidirectional LSTM (2 x 50) ->
maximum over time -> dense (50, relu) -> dense (6, sigmoid). They differ in weights, vocabulary and the activation of
the gates. As in the packages, text is lower-cased, punctuation becomes blanks, words outside the 20,000 most frequent are
dropped, the last 100 words are kept and padded on the *left* with index 0, an embedding like any other (Keras'
``mask_zero=False``): the network reads the padding, and the maximum includes it. So each text takes 100 steps.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from isoalign.core.memory import by_rows

LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
LENGTH = 100


def _hard_sigmoid(x: Tensor) -> Tensor:
    """The hard sigmoid of Keras 2, with slope 1/5; that of torch has slope 1/6."""
    return (0.2 * x + 0.5).clamp_(0, 1)


GATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "hard_sigmoid": _hard_sigmoid}


class Vocabulary:
    """Keras' word tokenizer: text -> indices of the known words."""

    def __init__(self, words: Sequence[str], filters: str) -> None:
        self.number = {word: i for i, word in enumerate(words, start=1)}
        self.blank = str.maketrans(dict.fromkeys(filters, " "))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Indices of the last LENGTH known words of each text, padded left with 0: [len(texts), LENGTH] int64."""
        rows = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            if numbers := self._numbers(text)[-LENGTH:]:
                row[-len(numbers) :] = torch.tensor(numbers)
        return rows

    def count_longer(self, texts: Sequence[str]) -> int:
        """How many texts have more known words than are read."""
        return sum(len(self._numbers(text)) > LENGTH for text in texts)

    def _numbers(self, text: str) -> list[int]:
        words = text.lower().translate(self.blank).split(" ")
        return [self.number[word] for word in words if word in self.number]


class BiLSTM:
    """A scorer of six labels. ``weights``: as named by isoalign.data.convert; ``gate``: activation of the three gates."""

    def __init__(self, vocabulary: Vocabulary, weights: dict[str, Tensor], gate: str) -> None:
        self.vocabulary = vocabulary
        self.weights = weights
        self.gate = GATES[gate]

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read ``weights.safetensors`` and ``vocabulary.json`` as written by isoalign.data.convert."""
        with safe_open(folder / "weights.safetensors", framework="pt") as file:
            weights = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118, not a dict
            gate = file.metadata()["gate"]
        vocabulary = Vocabulary(**json.loads((folder / "vocabulary.json").read_text(encoding="utf-8")))
        return cls(vocabulary, weights, gate)

    def __call__(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Probabilities of LABELS [len(texts), 6] on the CPU."""
        numbers = self.vocabulary.encode(texts).to(self.weights["embedding"].device)
        return torch.cat(by_rows(lambda part: self._forward(part).cpu(), numbers, batch_size))

    @torch.inference_mode()
    def _forward(self, numbers: Tensor) -> Tensor:
        """Probabilities of LABELS [B, 6] for encoded texts [B, LENGTH]."""
        w = self.weights
        embedded = F.embedding(numbers.T, w["embedding"])  # [time, B, 50]
        peak = self._lstm(torch.stack([embedded, embedded.flip(0)], dim=1))  # [direction, B, 50]
        pooled = torch.cat([peak[0], peak[1]], dim=-1)  # [B, 100]
        hidden = F.linear(pooled, w["hidden.weight"], w["hidden.bias"]).relu()
        return F.linear(hidden, w["output.weight"], w["output.bias"]).sigmoid()

    def _lstm(self, inputs: Tensor) -> Tensor:
        """Maximum over time of both directions' states [2, B, 50]; inputs [time, 2, B, 50]. Gate order i, f, c, o."""
        kernel, recurrent, bias = self.weights["kernel"], self.weights["recurrent"], self.weights["bias"][:, None]
        state = cell = torch.zeros_like(inputs[0, :, :, : recurrent.shape[1]])
        peak = torch.full_like(state, -torch.inf)
        for step in inputs:
            gates = torch.baddbmm(torch.baddbmm(bias, step, kernel), state, recurrent)
            admit, forget, candidate, emit = gates.chunk(4, dim=-1)
            cell = self.gate(forget) * cell + self.gate(admit) * candidate.tanh()
            state = self.gate(emit) * cell.tanh()
            peak = torch.maximum(peak, state)
        return peak
