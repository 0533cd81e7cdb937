"""N-grams of token ids and what follows from their counts: distinct-n, expectation-adjusted distinct and self-BLEU.

N-grams never span two completions. All counting is by sorting, n log n in tokens, not by a loop over pairs of completions.

Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models" (distinct-n); Liu et al. 2022,
"Rethinking and Refining the Distinct Metric" (EAD); Zhu et al. 2018, "Texygen" (self-BLEU).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ORDER = 4
FLOOR = 0.1
"""Self-BLEU's smoothing: a precision of 0 counts as 0.1 matches (Chen and Cherry 2014, "A Systematic Comparison of Smoothing
Techniques for Sentence-Level BLEU", method 1; sacrebleu's "floor")."""

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def lexical(tokens: Sequence[Sequence[int]], group: Ints, vocabulary: int | None = None) -> dict[str, Floats]:
    """distinct_1..3, ead and self_bleu of each group of completions [groups]; ``group`` [n] numbers groups from 0. NaN where
    undefined.

    distinct_n: distinct n-grams over all n-grams of the group. ead (only given a ``vocabulary``): distinct tokens over the
    number to be expected of C tokens drawn evenly from V, N / (V (1 - ((V - 1) / V)^C)). self_bleu: mean over the group of a
    completion's BLEU with the others as references, n = 4, floor smoothing, over the orders that the completion is long enough
    for (sacrebleu's effective order); from four tokens on it equals NLTK's method1, which Texygen uses. Higher is less varied.
    Empty completions have no self-BLEU; it grows with the number of references.
    """
    return Lexicon(tokens, group).diversity(vocabulary)


class _Rows(NamedTuple):
    """One row for each n-gram of each completion: the completion, the number of the n-gram in its group (equal ones are
    adjacent, sorted by falling ``times``), and how often the completion has it."""

    owner: NDArray[np.int32]
    place: NDArray[np.int32]
    times: NDArray[np.int32]


class Lexicon:
    """The n-grams of completions in groups, sorted once: the diversity of any subset then takes no sorting, only passes over
    the rows."""

    def __init__(self, tokens: Sequence[Sequence[int]], group: Ints) -> None:
        self.group, self.groups = group, int(group.max()) + 1
        self.length = np.array([len(t) for t in tokens], dtype=np.intp)
        self.by_length = np.lexsort((self.length, group))
        self.rows = [_counted(owner, gram, group) for owner, gram in _ngrams(tokens, self.length)]

    def diversity(self, vocabulary: int | None, kept: Mask | None = None) -> dict[str, Floats]:
        """What ``lexical`` gives, for the completions ``kept`` (default: all)."""
        group, groups = self.group, self.groups
        if kept is None:
            kept = np.ones(len(group), dtype=bool)
        length = np.where(kept, self.length, 0)
        totals = np.maximum(length - np.arange(ORDER)[:, None], 0)
        matches = np.zeros(totals.shape)
        columns: dict[str, Floats] = {}
        for n, rows in enumerate(self.rows, 1):
            here = kept[rows.owner]
            owner, place, times = (column[here] for column in rows)
            clipped, first = _clipped(place, times)
            matches[n - 1] = np.bincount(owner, clipped, len(group))
            distinct = np.bincount(group[owner[first]], minlength=groups)
            if n < ORDER:
                columns[f"distinct_{n}"] = quotient(distinct, np.bincount(group, totals[n - 1], groups))
            if n == 1 and vocabulary:
                with np.errstate(divide="ignore"):  # a vocabulary of one token
                    even = -vocabulary * np.expm1(np.bincount(group, length, groups) * np.log1p(-1 / vocabulary))
                columns["ead"] = quotient(distinct, even)
        reference = _closest(self.by_length[kept[self.by_length]], length, group)
        columns["self_bleu"] = _group_mean(_bleu(matches, totals, length, reference), group, groups)
        return columns


def _ngrams(tokens: Sequence[Sequence[int]], length: Ints) -> Iterator[tuple[Ints, Ints]]:
    """For n = 1..ORDER: the completion of each n-gram, and its number (equal n-grams have equal numbers)."""
    _, token = np.unique(np.fromiter(chain.from_iterable(tokens), np.int64), return_inverse=True)
    owner = np.repeat(np.arange(len(length)), length)
    room = np.repeat(np.cumsum(length), length) - np.arange(len(token))  # tokens from each to its completion's end
    gram, base = token, int(token.max(initial=0)) + 1
    for n in range(1, ORDER + 1):
        here = np.flatnonzero(room >= n)
        if n > 1:  # an n-gram is an (n-1)-gram and one more token; renumbered, so that numbers fit into 64 bits
            longer = np.zeros_like(gram)
            longer[here] = np.unique(gram[here] * base + token[here + n - 1], return_inverse=True)[1]
            gram = longer
        yield owner[here], gram[here]


def _counted(owner: Ints, gram: Ints, group: Ints) -> _Rows:
    """Rows that count the n-grams given one by one."""
    span = int(gram.max(initial=0)) + 1
    key, count = np.unique(owner * span + gram, return_counts=True)
    owner, gram = np.divmod(key, span)
    place = group[owner] * span + gram
    order = np.lexsort((-count, place))
    number = np.cumsum(_starts(place[order]))
    return _Rows(*(column.astype(np.int32) for column in (owner[order], number, count[order])))


def _clipped(place: NDArray[np.int32], times: NDArray[np.int32]) -> tuple[NDArray[np.int32], Mask]:
    """For each row of ``_Rows``: its times, clipped to the largest of another completion of the group, and whether it is the
    first row of its n-gram."""
    first = _starts(place)
    start = np.flatnonzero(first)
    # rows are sorted by falling times: the largest of the others is the first row's, and for that row the next one's
    others = np.repeat(times[start], np.diff(start, append=len(place)))
    others[start] = 0
    shared = start[~np.append(first[1:], True)[start]]
    others[shared] = times[shared + 1]
    return np.minimum(times, others), first


def _starts(column: NDArray[Any]) -> Mask:
    """Whether each element differs from the one before."""
    first = np.ones(len(column), dtype=bool)
    np.not_equal(column[1:], column[:-1], out=first[1:])
    return first


def _bleu(matches: Floats, totals: Floats, length: Ints, reference: Floats) -> Floats:
    """BLEU of each completion from matches and totals [order, n], its length and that of the closest reference; NaN if
    empty."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.log(np.where(matches > 0, matches, FLOOR) / totals)
        score = np.where(totals > 0, precision, 0).sum(0) / (totals > 0).sum(0)
        bleu = np.exp(np.minimum(1 - reference / length, 0) + score)
    return np.where((length == 0) | np.isnan(reference), np.nan, np.where(matches.any(0), bleu, 0))


def _closest(order: Ints, length: Ints, group: Ints) -> Floats:
    """Length of the other completion of the group that is nearest in length, the shorter of two equally near; NaN if there is
    none. ``order`` lists completions by group and length; those not listed get NaN."""
    sizes, groups = length[order].astype(float), group[order]
    alike = groups[1:] == groups[:-1]
    before, after = np.full(len(sizes), np.nan), np.full(len(sizes), np.nan)
    before[1:] = np.where(alike, sizes[:-1], np.nan)
    after[:-1] = np.where(alike, sizes[1:], np.nan)
    nearest = np.where(np.isnan(before) | (after - sizes < sizes - before), after, before)
    closest = np.full(len(length), np.nan)
    closest[order] = nearest
    return closest


def quotient(top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    """top / bottom, NaN where bottom is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _group_mean(column: Floats, group: Ints, groups: int) -> Floats:
    known = ~np.isnan(column)
    return quotient(np.bincount(group[known], column[known], groups), np.bincount(group[known], minlength=groups))
