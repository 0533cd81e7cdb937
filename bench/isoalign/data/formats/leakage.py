"""Evaluation prompts that occur in training texts.

Brown et al. 2020, "Language models are few-shot learners", appendix C: an evaluation text is dirty if any of its n-grams of
words, n from 8 to 13, is in the training data, ignoring punctuation and case.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from isoalign.core.errors import UserError

LEAST = 4  # words; shorter prompts, such as "thank you", occur everywhere
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Words of a text normalised as by `isoalign.core.text.normalise`, without punctuation."""
    return _WORD.findall(text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold())


class Leakage:
    """An index of evaluation prompts.

    A prompt of n words or more matches a text that holds any n consecutive words of it; a prompt of LEAST to n - 1 words
    matches if all its words follow one another; prompts shorter than LEAST are skipped and counted in ``short``. Raises
    UserError for n below 1.
    """

    def __init__(self, prompts: Sequence[str], n: int) -> None:
        if n < 1:
            raise UserError(f"n-grams of evaluation prompts need at least 1 word, not {n}")
        texts = [words(prompt) for prompt in prompts]
        self.prompts = len(prompts)
        self.short = sum(len(text) < min(LEAST, n) for text in texts)
        self._owners: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
        for owner, text in enumerate(texts):
            if len(text) >= min(LEAST, n):
                for start in range(max(1, len(text) - n + 1)):
                    self._owners[tuple(text[start : start + n])].add(owner)
        # Search for a gram only around its rarest word: few texts have one, and a set finds them fast.
        common = Counter(word for text in texts for word in set(text))
        self._around: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        for gram in self._owners:
            offset = min(range(len(gram)), key=lambda i: (common[gram[i]], -len(gram[i])))
            self._around[gram[offset]].add((offset, len(gram)))

    def matches(self, text: str) -> set[int]:
        """Indices of the prompts that occur in a text."""
        seen = words(text)
        anchors = self._around.keys() & set(seen)
        if not anchors:
            return set()
        hits: set[int] = set()
        for place, word in enumerate(seen):
            if word in anchors:
                for offset, length in self._around[word]:
                    hits |= self._owners.get(tuple(seen[place - offset : place - offset + length]), set())
        return hits
