"""Which evaluation prompts are in a text that a model is going to be trained on.

Brown et al. 2020, "Language models are few-shot learners", appendix C: an evaluation text is dirty if any of its n-grams of
words, n from 8 to 13, is in the training data, punctuation and case apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from isoalign.core.errors import UserError

LEAST = 4  # words; what is shorter, such as "thank you very much", is anywhere
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of `isoalign.core.text.normalise` of a text, without punctuation (its white space doesn't matter to them)."""
    return _WORD.findall(text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold())


class Leakage:
    """Evaluation prompts, ready to be looked for.

    A prompt of n words or more is found where any n of its words in a row are; one of fewer, but of LEAST or more, where all
    are, in a row; one of fewer than LEAST is never looked for, and counted in ``short``. Raises UserError for n below 1.
    """

    def __init__(self, prompts: Sequence[str], n: int) -> None:
        if n < 1:
            raise UserError(f"evaluation prompts are looked for by n-grams of at least 1 word, not {n}")
        texts = [words(prompt) for prompt in prompts]
        self.prompts = len(prompts)
        self.short = sum(len(text) < min(LEAST, n) for text in texts)
        self._owners: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
        for owner, text in enumerate(texts):
            if len(text) >= min(LEAST, n):
                for start in range(max(1, len(text) - n + 1)):
                    self._owners[tuple(text[start : start + n])].add(owner)
        # A gram is looked for only around its rarest word: few texts have any of these, and a set tells at once.
        common = Counter(word for text in texts for word in set(text))
        self._around: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        for gram in self._owners:
            offset = min(range(len(gram)), key=lambda i: (common[gram[i]], -len(gram[i])))
            self._around[gram[offset]].add((offset, len(gram)))

    def found(self, text: str) -> set[int]:
        """The places, in the list given, of the prompts that a text holds."""
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
