"""How far sentence embeddings are spread: mean pairwise distance and Vendi score, of groups and of any subset of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

_BLOCK = 4_000_000  # numbers of embeddings that are held in double precision at once: 32 MB

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]


def spread(embeddings: NDArray[np.floating], group: Ints) -> Floats:
    """1 - mean cosine over the pairs of each group, for unit-norm embeddings [n, d]; NaN for a group of one.

    The cosines of k vectors add up to (|sum|^2 - k) / 2, so there is no loop over pairs. As an average it hardly shows a few
    exact copies among many different texts, nor whether similar texts form one tight cluster.
    """
    spreads = np.full(int(group.max()) + 1, np.nan)
    for groups, unit in _equal_groups(embeddings, group):
        spreads[groups] = _spread(unit.sum(1), unit.shape[1])
    return spreads


def vendi(embeddings: NDArray[np.floating], group: Ints) -> Floats:
    """Vendi score of each group: exp of the entropy of the eigenvalues of K / n, K the cosines [n, n] of unit-norm
    embeddings [n, d]; NaN for a group of one.

    The effective number of different completions, from 1 (all equal) to n (all orthogonal), and at most d. The nonzero
    eigenvalues are also those of the [d, d] product; the smaller matrix is used. The score grows with n, so only equal n can
    be compared. Embeddings of any texts are somewhat similar, so n is never reached. Opposite directions count as one.

    Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning".
    """
    scores = np.full(int(group.max()) + 1, np.nan)
    for groups, unit in _equal_groups(embeddings, group):
        count, width = unit.shape[1:]
        turned = unit.transpose(0, 2, 1)
        scores[groups] = _effective((unit @ turned if count <= width else turned @ unit) / count)
    return scores


class Space:
    """Unit embeddings [n, d] and their Gram matrix on its smaller side, so that the diversity of most rows is cheap."""

    def __init__(self, embeddings: NDArray[np.floating]) -> None:
        self.unit = _unit(embeddings)
        count, width = self.unit.shape
        self.wide = count <= width
        self.gram = self.unit @ self.unit.T if self.wide else self.unit.T @ self.unit
        self.sum = self.unit.sum(0)

    def diversity(self, kept: Ints) -> tuple[float, float]:
        """1 - mean cosine and Vendi score of the rows ``kept``; NaN for fewer than two."""
        if len(kept) < 2:
            return np.nan, np.nan
        left = np.delete(self.unit, kept, axis=0)
        gram = self.gram[np.ix_(kept, kept)] if self.wide else self.gram - left.T @ left
        between = _spread(self.sum - left.sum(0), len(kept))
        return float(between), float(_effective(gram / len(kept)))


def _equal_groups(embeddings: NDArray[np.floating], group: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Groups of equal size, a block at a time, and their unit embeddings [groups, size, d]; groups of one are left out."""
    size, order = np.bincount(group), np.argsort(group, kind="stable")
    start = np.cumsum(size) - size
    for count in np.unique(size[size > 1]):
        groups = np.flatnonzero(size == count)
        step = max(1, _BLOCK // int(count * embeddings.shape[1]))
        for block in (groups[at : at + step] for at in range(0, len(groups), step)):
            yield block, _unit(embeddings[order[start[block][:, None] + np.arange(count)]])


def _unit(embeddings: NDArray[np.floating]) -> Floats:
    """Embeddings in double precision and of norm 1, which those stored in half precision are not."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    return unit


def _spread(total: Floats, count: int) -> Floats:
    return 1 - (np.square(total).sum(-1) - count) / (count * (count - 1.0))


def _effective(gram: Floats) -> Floats:
    """exp of the entropy of the eigenvalues [..., m, m] -> [...]; negative ones are rounding."""
    return np.exp(entr(np.linalg.eigvalsh(gram).clip(min=0)).sum(-1))
