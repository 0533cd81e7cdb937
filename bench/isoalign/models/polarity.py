"""A second sentiment of a text, independent of VADER's: the mean polarity of its words in the lexicon of pattern.en.

De Smedt and Daelemans 2012, "Pattern for Python". The lexicon was tagged by others, on product reviews and senses of WordNet,
with values that share no rater with VADER's; the only rule is that a negation before a word turns it, as in pattern.en.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FILE = "polarity.json"
NEGATED = -0.5
_WORD = re.compile(r"[a-z]+(?:['’-][a-z]+)*")
_NEGATIONS = frozenset(("no", "not", "never", "cannot", "without"))
_REACH = 2  # words before that may negate


@dataclass(frozen=True)
class Polarity:
    """``words``: mean polarity of each in [-1, 1]."""

    words: dict[str, float]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The lexicon of the asset's folder."""
        return cls(json.loads((folder / FILE).read_text(encoding="utf-8")))

    def __call__(self, text: str) -> float:
        """Mean polarity of the text's words that have one, in [-1, 1]; 0 without any."""
        words = _WORD.findall(text.lower())
        found = [
            self.words[word] * (NEGATED if any(map(_negates, words[max(0, i - _REACH) : i])) else 1.0)
            for i, word in enumerate(words)
            if self.words.get(word)
        ]
        return sum(found) / len(found) if found else 0.0


def _negates(word: str) -> bool:
    return word in _NEGATIONS or word.replace("’", "'").endswith("n't")
