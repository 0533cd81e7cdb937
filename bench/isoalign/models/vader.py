"""VADER's sentiment of a text, by the lexicon and the rules of vaderSentiment 3.3.2.

Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text". The rules, their
order and their oddities are the package's, so that the score is what others report; the words come with the asset `vader`.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FILE = "vader.json"
ALPHA = 15.0  # of the normalisation, near the largest sum that is expected
CAPITALS = 0.733  # added for a word in capitals among others
NEGATED = -0.74
FADING = (1.0, 0.95, 0.9)  # of a modifier one, two and three words before
EXCLAMATION, QUESTION, QUESTIONS = 0.292, 0.18, 0.96


@dataclass(frozen=True)
class Vader:
    """``valence`` of words, ``emojis`` as words, ``boosters`` and dampeners, ``negations``, and ``idioms`` with a valence."""

    valence: dict[str, float]
    emojis: dict[str, str]
    boosters: dict[str, float]
    negations: frozenset[str]
    idioms: dict[str, float]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The lexicon of the asset's folder."""
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(**told | {"negations": frozenset(told["negations"])})

    def half(self) -> Vader:
        """A coarser judge of the same: every second word of the lexicon, and no boosters, negations and idioms."""
        words = {word: value for place, (word, value) in enumerate(sorted(self.valence.items())) if place % 2}
        return Vader(words, self.emojis, {}, frozenset(), {})

    def __call__(self, text: str) -> float:
        """The compound score in [-1, 1]; 0 for a text without words of the lexicon."""
        text = self._spelled(text).strip()
        words = [_stripped(token) for token in text.split()]
        lower = [word.lower() for word in words]
        shouts = 0 < len(words) - sum(word.isupper() for word in words) < len(words)
        valences = [self._valence(words, lower, i, shouts) for i in range(len(words))]
        total = float(sum(_weighed_around_but(lower, valences)))
        emphasis = _emphasis(text)
        total += emphasis if total > 0 else -emphasis if total < 0 else 0.0
        return round(max(-1.0, min(1.0, total / math.sqrt(total * total + ALPHA))), 4)

    def _spelled(self, text: str) -> str:
        """The text with emojis as words."""
        spelled, spaced = "", True
        for character in text:
            if character in self.emojis:
                spelled += " " * (not spaced) + self.emojis[character]
                spaced = False
            else:
                spelled += character
                spaced = character == " "
        return spelled

    def _valence(self, words: Sequence[str], lower: Sequence[str], i: int, shouts: bool) -> float:
        """What the word adds, modified by the three words before it."""
        word, after = lower[i], lower[i + 1] if i + 1 < len(lower) else None
        if word in self.boosters or (word == "kind" and after == "of") or word not in self.valence:
            return 0.0
        value = self.valence[word]
        if word == "no" and after in self.valence:
            value = 0.0
        if "no" in lower[max(0, i - 2) : i] or (i > 2 and lower[i - 3] == "no" and lower[i - 1] in ("or", "nor")):
            value = self.valence[word] * NEGATED
        if words[i].isupper() and shouts:
            value += CAPITALS if value > 0 else -CAPITALS
        for back in (1, 2, 3):
            if i >= back and lower[i - back] not in self.valence:
                value += FADING[back - 1] * self._boost(words[i - back], value, shouts)
                value = self._negated(value, lower, i, back)
                if back == 3:
                    value = self._idiom(value, lower, i)
        least = i > 0 and lower[i - 1] == "least" and "least" not in self.valence
        if least and not (i > 1 and lower[i - 2] in ("at", "very")):
            value *= NEGATED
        return value

    def _boost(self, word: str, value: float, shouts: bool) -> float:
        """What an intensifier or dampener adds to a valence."""
        boost = self.boosters.get(word.lower(), 0.0)
        if not boost:
            return 0.0
        boost = -boost if value < 0 else boost
        if word.isupper() and shouts:
            boost += CAPITALS if value > 0 else -CAPITALS
        return boost

    def _negated(self, value: float, lower: Sequence[str], i: int, back: int) -> float:
        """The valence after a word that may negate it; "never so" and "never this" strengthen it."""
        first, near = lower[i - back], lower[i - back + 1 : i]
        if back == 2 and first == "never" and near[0] in ("so", "this"):
            return value * 1.25
        if back == 3 and ((first == "never" and near[0] in ("so", "this")) or near[1] in ("so", "this")):
            return value * 1.25
        if back > 1 and first == "without" and "doubt" in near:
            return value
        return value * NEGATED if first in self.negations or "n't" in first else value

    def _idiom(self, value: float, lower: Sequence[str], i: int) -> float:
        """The valence of an idiom around the word instead of its own, and what a modifier of two words adds."""

        def phrase(start: int, end: int) -> str:
            return " ".join(lower[i + start : i + end + 1])

        before = [phrase(-1, 0), phrase(-2, 0), phrase(-2, -1), phrase(-3, -1), phrase(-3, -2)]
        value = next((self.idioms[one] for one in before if one in self.idioms), value)
        for length in (1, 2):
            if len(lower) - 1 > i + length - 1 and phrase(0, length) in self.idioms:
                value = self.idioms[phrase(0, length)]
        return value + sum(self.boosters.get(one, 0.0) for one in (phrase(-3, -1), phrase(-3, -2), phrase(-2, -1)))


def _stripped(token: str) -> str:
    """A token without punctuation around it; an emoticon, of which little would be left, as it is."""
    stripped = token.strip(string.punctuation)
    return token if len(stripped) <= 2 else stripped


def _weighed_around_but(lower: Sequence[str], valences: list[float]) -> list[float]:
    """Half of what stands before the first "but", one and a half of what stands after it. Of equal valences the package finds
    the first one only, which is kept."""
    if "but" not in lower:
        return valences
    turn, weighed = lower.index("but"), list(valences)
    for place in range(len(weighed)):
        first = weighed.index(weighed[place])
        if first != turn:
            weighed[first] *= 0.5 if first < turn else 1.5
    return weighed


def _emphasis(text: str) -> float:
    """What exclamation and question marks add to either sign."""
    questions = text.count("?")
    asked = 0.0 if questions < 2 else questions * QUESTION if questions <= 3 else QUESTIONS
    return min(4, text.count("!")) * EXCLAMATION + asked
