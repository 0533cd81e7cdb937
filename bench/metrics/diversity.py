"""How varied completions are: among the draws of one prompt, and across prompts (one draw each).

The two fall for different reasons: a policy may give each prompt its own single answer (low per input, high across),
or answer every prompt alike (low both ways). Per-input figures are averaged over prompts; `_across` figures are taken
on one draw of every prompt and averaged over draws. N-grams are of token ids, the same vocabulary for all methods,
and never span two completions. All of these but EAD fall with the number and the length of completions compared:
equal draws and, for a fair reading, equal length. What cannot be said (no n-gram of that order, a single draw) is
missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from bench import stats
from bench.metrics.evidence import Evidence, by_prompt
from bench.stats import Values
from bench.text import squeeze
from bench.types import Estimate

VERSION = 1
ORDER = 4
FLOOR = 0.1
"""Self-BLEU's smoothing: a precision of 0 counts as 0.1 matches (Chen and Cherry 2014, method 1; sacrebleu's
"floor")."""

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]

_CITATION = """\
@inproceedings{li2016diversity,
  title={A Diversity-Promoting Objective Function for Neural Conversation Models}, author={Li, Jiwei and others},
  booktitle={NAACL}, year={2016}, note={distinct-n}}
@inproceedings{liu2022rethinking,
  title={Rethinking and Refining the Distinct Metric}, author={Liu, Siyang and others}, booktitle={ACL}, year={2022},
  note={EAD}}
@inproceedings{zhu2018texygen,
  title={Texygen: A Benchmarking Platform for Text Generation Models}, author={Zhu, Yaoming and others},
  booktitle={SIGIR}, year={2018}, note={self-BLEU}}
@inproceedings{chen2014systematic,
  title={A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU},
  author={Chen, Boxing and Cherry, Colin}, booktitle={WMT}, year={2014}}
@inproceedings{kirk2024understanding,
  title={Understanding the Effects of RLHF on LLM Generalisation and Diversity}, author={Kirk, Robert and others},
  booktitle={ICLR}, year={2024}, note={per input and across inputs}}"""


def lexical(tokens: Sequence[Sequence[int]], group: Ints, vocabulary: int | None = None) -> dict[str, Floats]:
    """distinct_1..3, ead and self_bleu of each group of completions; ``group`` [n] numbers them from 0. NaN: undefined.

    distinct_n: distinct n-grams over all n-grams of the group. ead: distinct tokens over the number that C tokens
    drawn evenly from V would show, N / (V (1 - ((V - 1) / V)^C)). self_bleu: mean over the group of a completion's
    BLEU with the others as references, n = 4, floor smoothing, over the orders that the completion is long enough for
    (sacrebleu's effective order); equals NLTK's method1, which Texygen uses, from four tokens on. Higher is less
    varied. Empty completions have none; it grows with the number of references. Sorting, not a loop over pairs: n log
    n in tokens.
    """
    length = np.array([len(t) for t in tokens], dtype=np.intp)
    groups = int(group.max()) + 1
    matches, totals = np.zeros((ORDER, len(length))), np.zeros((ORDER, len(length)))
    found: dict[str, Floats] = {}
    for n, (owner, gram) in enumerate(_ngrams(tokens, length), 1):
        totals[n - 1] = np.bincount(owner, minlength=len(length))
        owner, matched, first = _overlap(owner, gram, group)
        matches[n - 1] = np.bincount(owner, matched, len(length))
        distinct = np.bincount(group[owner[first]], minlength=groups)
        if n < ORDER:
            found[f"distinct_{n}"] = _quotient(distinct, np.bincount(group, totals[n - 1], groups))
        if n == 1 and vocabulary:
            with np.errstate(divide="ignore"):  # a vocabulary of one token
                even = -vocabulary * np.expm1(np.bincount(group, length, groups) * np.log1p(-1 / vocabulary))
            found["ead"] = _quotient(distinct, even)
    found["self_bleu"] = _group_mean(_bleu(matches, totals, length, _closest(length, group)), group, groups)
    return found


def spread(embeddings: NDArray[np.floating], group: Ints) -> Floats:
    """1 - mean cosine over the pairs of each group, for unit-norm embeddings [n, d]; NaN for a group of one.

    The cosines of k vectors add up to (|sum|^2 - k) / 2, so no pair is looked at.
    """
    size = np.bincount(group)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(size)[:-1]])
    unit = embeddings[order].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    total = np.add.reduceat(unit, starts)
    return 1 - _quotient(np.square(total).sum(1) - size, size * (size - 1.0))


class LexicalDiversity(evaluate.Measurement):
    """distinct-n, EAD and self-BLEU among the completions of each prompt, averaged over prompts."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Lexical diversity per input: distinct-1/2/3, expectation-adjusted distinct, self-BLEU (n = 4, "
            "smoothing method 1 with 0.1).",
            citation=_CITATION,
            inputs_description="data: token ids of each completion; prompt_ids: whose completion it is (one id for "
            "all makes one corpus); vocabulary: the tokenizer's size, for EAD.",
            features=datasets.Features(
                {"data": datasets.Sequence(datasets.Value("int64")), "prompt_ids": datasets.Value("string")}
            ),
            reference_urls=["https://arxiv.org/abs/1510.03055", "https://arxiv.org/abs/2202.13587"],
        )

    def _compute(self, data: list[list[int]], prompt_ids: list[str], vocabulary: int | None = None) -> dict[str, Any]:
        prompts, group = np.unique(prompt_ids, return_inverse=True)
        columns = lexical(data, group, vocabulary)
        found: dict[str, Any] = {name: _mean(column) for name, column in columns.items()}
        found |= {f"{name}_by_prompt": _numbers(column) for name, column in columns.items()}
        return found | {"prompts": prompts.tolist(), "vocabulary": vocabulary}


class EmbeddingDiversity(evaluate.Measurement):
    """1 - mean pairwise cosine among the completions of each prompt, averaged over prompts."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Semantic diversity per input: 1 - mean pairwise cosine of sentence embeddings.",
            citation=_CITATION,
            inputs_description="data: an embedding for each completion; prompt_ids: whose completion it is.",
            features=datasets.Features(
                {"data": datasets.Sequence(datasets.Value("float32")), "prompt_ids": datasets.Value("string")}
            ),
        )

    def _compute(self, data: list[list[float]], prompt_ids: list[str]) -> dict[str, Any]:
        prompts, group = np.unique(prompt_ids, return_inverse=True)
        column = spread(np.asarray(data, dtype=np.float64), group)
        return {
            "embedding_diversity": _mean(column),
            "embedding_diversity_by_prompt": _numbers(column),
            "prompts": prompts.tolist(),
        }


def values(evidence: Evidence) -> dict[str, Values]:
    """Prompt to its per-input figures, one value each."""
    group, _ = _places(evidence)
    columns = lexical([s.token_ids for s in evidence.samples], group, evidence.vocabulary)
    if evidence.embeddings is not None:
        columns["embedding_diversity"] = spread(evidence.embeddings, group)
    texts = evidence.grid([squeeze(s.completion) for s in evidence.samples])
    columns["duplicate_rate"] = np.array([1 - len(set(draws)) / len(draws) for draws in texts.values()])
    return {name: by_prompt(_numbers(column), list(evidence.rows)) for name, column in columns.items()}


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Per input, across inputs (`_across`), and mode collapse: duplicate_rate (draws of a prompt that repeat an
    earlier one, white space squeezed), top_completion_share (the most frequent text's share of all completions) and
    unique_token_ratio (distinct tokens over tokens, all completions as one corpus)."""
    found = {name: stats.mean(v) for name, v in values(evidence).items()}
    corpus = _Corpus(evidence)
    found |= dict(zip(corpus.names, stats.jackknife(corpus.figures, len(evidence.rows)), strict=True))
    if evidence.vocabulary:
        found["ead_vocabulary"] = Estimate(evidence.vocabulary, None, None, len(evidence.rows))
    return found


class _Corpus:
    """Figures of the whole run, of any subset of its prompts."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.prompt, self.draw = _places(evidence)
        self.texts = [squeeze(s.completion) for s in evidence.samples]
        self.names = [f"distinct_{n}_across" for n in range(1, ORDER)]
        self.names += ["ead_across"] * bool(evidence.vocabulary) + ["self_bleu_across"]
        self.names += ["embedding_diversity_across"] * (evidence.embeddings is not None)
        self.names += ["top_completion_share", "unique_token_ratio"]

    def figures(self, prompts: Ints) -> list[float]:
        """The figures in the order of ``names``, NaN where undefined, of the prompts kept."""
        evidence = self.evidence
        rows = np.flatnonzero(np.isin(self.prompt, prompts))
        tokens, draw = [evidence.samples[i].token_ids for i in rows], self.draw[rows]
        by_draw = {f"{name}_across": v for name, v in lexical(tokens, draw, evidence.vocabulary).items()}
        if evidence.embeddings is not None:
            by_draw["embedding_diversity_across"] = spread(evidence.embeddings[rows], draw)
        found: dict[str, float | None] = {name: _mean(v) for name, v in by_draw.items()}
        found["top_completion_share"] = max(Counter(self.texts[i] for i in rows).values()) / len(rows)
        corpus = np.fromiter(chain.from_iterable(tokens), np.int64)
        found["unique_token_ratio"] = len(np.unique(corpus)) / len(corpus) if len(corpus) else None
        return [np.nan if (value := found[name]) is None else value for name in self.names]


def _places(evidence: Evidence) -> tuple[Ints, Ints]:
    """For each sample the number of its prompt (prompts sorted) and of its draw."""
    prompt, draw = np.zeros((2, len(evidence.samples)), dtype=np.intp)
    for number, rows in enumerate(evidence.rows.values()):
        prompt[rows], draw[rows] = number, np.arange(len(rows))
    return prompt, draw


def _ngrams(tokens: Sequence[Sequence[int]], length: Ints) -> Iterator[tuple[Ints, Ints]]:
    """For n = 1..ORDER: whose each n-gram is, and its number (equal grams have equal numbers)."""
    _, token = np.unique(np.fromiter(chain.from_iterable(tokens), np.int64), return_inverse=True)
    owner = np.repeat(np.arange(len(length)), length)
    room = np.repeat(np.cumsum(length), length) - np.arange(len(token))  # tokens from here to the completion's end
    gram, base = token, int(token.max(initial=0)) + 1
    for n in range(1, ORDER + 1):
        here = np.flatnonzero(room >= n)
        if n > 1:  # an n-gram is an (n-1)-gram and one more token; numbered afresh, so that it fits 64 bits
            longer = np.zeros_like(gram)
            longer[here] = np.unique(gram[here] * base + token[here + n - 1], return_inverse=True)[1]
            gram = longer
        yield owner[here], gram[here]


def _overlap(owner: Ints, gram: Ints, group: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Rows of (completion, n-gram): the completion, its count clipped by the most that another of its group has, and
    whether the row is the first of its n-gram in the group."""
    span = int(gram.max(initial=0)) + 1
    key, count = np.unique(owner * span + gram, return_counts=True)
    owner, gram = np.divmod(key, span)
    order = np.lexsort((-count, gram, group[owner]))
    owner, gram, count = owner[order], gram[order], count[order]
    first = np.ones(len(owner), dtype=bool)
    first[1:] = (np.diff(gram) != 0) | (np.diff(group[owner]) != 0)
    lead = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    # a gram's rows stand in falling order of count: the most among others is the lead's, for the lead the next row's
    follows = np.append(~first[1:], False)[: len(first)]
    runner_up = np.where(follows, np.append(count[1:], 0)[: len(first)], 0)
    return owner, np.minimum(count, np.where(first, runner_up, count[lead])), first


def _bleu(matches: Floats, totals: Floats, length: Ints, reference: Floats) -> Floats:
    """BLEU of each completion from matches and totals [order, n], its length and the closest reference's; NaN if
    empty."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.log(np.where(matches > 0, matches, FLOOR) / totals)
        score = np.where(totals > 0, precision, 0).sum(0) / (totals > 0).sum(0)
        bleu = np.exp(np.minimum(1 - reference / length, 0) + score)
    return np.where((length == 0) | np.isnan(reference), np.nan, np.where(matches.any(0), bleu, 0))


def _closest(length: Ints, group: Ints) -> Floats:
    """Length of the other completion of the group that is nearest in length, the shorter of two as near; NaN if
    alone."""
    order = np.lexsort((length, group))
    sizes, groups = length[order].astype(float), group[order]
    alike = groups[1:] == groups[:-1]
    before, after = np.full(len(sizes), np.nan), np.full(len(sizes), np.nan)
    before[1:] = np.where(alike, sizes[:-1], np.nan)
    after[:-1] = np.where(alike, sizes[1:], np.nan)
    nearest = np.where(np.isnan(before) | (after - sizes < sizes - before), after, before)
    closest = np.empty(len(sizes))
    closest[order] = nearest
    return closest


def _quotient(top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _group_mean(column: Floats, group: Ints, groups: int) -> Floats:
    known = ~np.isnan(column)
    return _quotient(np.bincount(group[known], column[known], groups), np.bincount(group[known], minlength=groups))


def _mean(column: Floats) -> float | None:
    known = column[~np.isnan(column)]
    return float(known.mean()) if len(known) else None


def _numbers(column: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in column]
