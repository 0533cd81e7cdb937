"""How varied completions are: among the draws of one prompt, and across prompts (one draw each).

The two fall for different reasons: a policy may give each prompt its own single answer (low per input, high across),
or answer every prompt alike (low both ways). Per-input figures are averaged over prompts; `_across` figures are taken
on one draw of every prompt and averaged over draws. N-grams are of token ids, the same vocabulary for all methods,
and never span two completions. All of these but EAD fall with the number and the length of completions compared:
equal draws and, for a fair reading, equal length. So lexical figures are given twice, and `@common` on completions cut
to `common_length` tokens, the same for all methods of a task; `common_length_short` is the share that is shorter and is
kept whole, on which the comparison stays unfair. Embeddings are of text, and cut token ids make no text without a
tokenizer: embedding_diversity and vendi are of whole completions only. What cannot be said (no n-gram of that order, a
single draw) is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.records import Estimate
from isoalign.core.text import squeeze
from isoalign.evaluation.metrics.evidence import Evidence, by_prompt
from isoalign.stats import Values

VERSION = 2
ORDER = 4
FLOOR = 0.1
"""Self-BLEU's smoothing: a precision of 0 counts as 0.1 matches (Chen and Cherry 2014, method 1; sacrebleu's
"floor")."""
COMMON = 0.25
"""The quantile of the SFT row's lengths that all completions are cut to: three quarters of its own are that long."""
DUPLICATES, TOP, HALF = 0.10, 0.05, 0.5
"""Signs of collapse: rises over the SFT row in points, and the share of its figure that is left."""
_BLOCK = 4_000_000  # numbers of embeddings that are held in double precision at once: 32 MB

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

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
@article{friedman2023vendi,
  title={The Vendi Score: A Diversity Evaluation Metric for Machine Learning},
  author={Friedman, Dan and Dieng, Adji Bousso}, journal={TMLR}, year={2023}}
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
    return _Lexicon(tokens, group).figures(vocabulary)


def spread(embeddings: NDArray[np.floating], group: Ints) -> Floats:
    """1 - mean cosine over the pairs of each group, for unit-norm embeddings [n, d]; NaN for a group of one.

    The cosines of k vectors add up to (|sum|^2 - k) / 2, so no pair is looked at. An average: it hardly sees a few exact
    copies among many different texts, nor whether likeness sits in one tight cluster or everywhere.
    """
    found = np.full(int(group.max()) + 1, np.nan)
    for groups, unit in _units(embeddings, group):
        found[groups] = _spread(unit.sum(1), unit.shape[1])
    return found


def vendi(embeddings: NDArray[np.floating], group: Ints) -> Floats:
    """Vendi score of each group: exp of the entropy of the eigenvalues of K / n, K the cosines [n, n] of unit-norm
    embeddings [n, d]; NaN for a group of one.

    The effective number of different completions, from 1 (all alike) to n (all orthogonal), and at most d. The
    eigenvalues that are not 0 are those of the [d, d] side too; the smaller is taken. It grows with n, so only equal n
    compare, and embeddings of any texts are somewhat alike: n is out of reach. Opposite directions count as one.
    """
    found = np.full(int(group.max()) + 1, np.nan)
    for groups, unit in _units(embeddings, group):
        count, width = unit.shape[1:]
        turned = unit.transpose(0, 2, 1)
        found[groups] = _effective((unit @ turned if count <= width else turned @ unit) / count)
    return found


def common_length(lengths: Sequence[int]) -> int:
    """The 25th percentile (nearest rank) of the SFT row's lengths in tokens, at least 1."""
    return max(sorted(lengths)[math.ceil(COMMON * len(lengths)) - 1], 1)


def duplicate_rate(texts: Sequence[str], group: Ints) -> Floats:
    """Share of each group's completions that repeat an earlier one of it, white space squeezed.

    Exact copies only: a template with one word changed is no duplicate.
    """
    number = _numbered(texts)
    first = np.unique(group * (int(number.max()) + 1) + number, return_index=True)[1]
    size = np.bincount(group)
    return 1 - _quotient(np.bincount(group[first], minlength=len(size)), size)


class LexicalDiversity(evaluate.Measurement):
    """distinct-n, EAD and self-BLEU among the completions of each prompt, averaged over prompts."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Lexical diversity per input: distinct-1/2/3, expectation-adjusted distinct, self-BLEU (n = 4, "
            "smoothing method 1 with 0.1).",
            citation=_CITATION,
            inputs_description="data: token ids of each completion; prompt_ids: whose completion it is (one id for "
            "all makes one corpus); vocabulary: the tokenizer's size, for EAD; length: tokens to cut all completions to.",
            features=datasets.Features(
                {"data": datasets.Sequence(datasets.Value("int64")), "prompt_ids": datasets.Value("string")}
            ),
            reference_urls=["https://arxiv.org/abs/1510.03055", "https://arxiv.org/abs/2202.13587"],
        )

    def _compute(
        self, data: list[list[int]], prompt_ids: list[str], vocabulary: int | None = None, length: int | None = None
    ) -> dict[str, Any]:
        prompts, group = np.unique(prompt_ids, return_inverse=True)
        columns = lexical(_cut(data, length) if length else data, group, vocabulary)
        found: dict[str, Any] = {name: _mean(column) for name, column in columns.items()}
        found |= {f"{name}_by_prompt": _numbers(column) for name, column in columns.items()}
        return found | {"prompts": prompts.tolist(), "vocabulary": vocabulary}


class EmbeddingDiversity(evaluate.Measurement):
    """1 - mean pairwise cosine, and the Vendi score, among the completions of each prompt, averaged over prompts."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Semantic diversity per input: 1 - mean pairwise cosine of sentence embeddings, and the Vendi "
            "score (the effective number of different completions).",
            citation=_CITATION,
            inputs_description="data: an embedding for each completion; prompt_ids: whose completion it is.",
            features=datasets.Features(
                {"data": datasets.Sequence(datasets.Value("float32")), "prompt_ids": datasets.Value("string")}
            ),
            reference_urls=["https://arxiv.org/abs/2210.02410"],
        )

    def _compute(self, data: list[list[float]], prompt_ids: list[str]) -> dict[str, Any]:
        prompts, group = np.unique(prompt_ids, return_inverse=True)
        embeddings = np.asarray(data, dtype=np.float64)
        if not (np.isfinite(embeddings).all() and np.square(embeddings).sum(1).all()):
            raise UserError("embeddings must be finite and not 0: they have no direction otherwise")
        columns = {"embedding_diversity": spread(embeddings, group), "vendi": vendi(embeddings, group)}
        found: dict[str, Any] = {name: _mean(column) for name, column in columns.items()}
        found |= {f"{name}_by_prompt": _numbers(column) for name, column in columns.items()}
        return found | {"prompts": prompts.tolist()}


class ModeCollapse(evaluate.Measurement):
    """Duplicates, the most frequent completion's share, and the unique-token ratio."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Share of completions that repeat an earlier one of their prompt (white space squeezed), averaged "
            "over prompts; share of the most frequent completion; distinct tokens over tokens, as one corpus.",
            citation=_CITATION,
            inputs_description="data: completions; token_ids: their tokens; prompt_ids: whose completion it is.",
            features=datasets.Features(
                {
                    "data": datasets.Value("string"),
                    "token_ids": datasets.Sequence(datasets.Value("int64")),
                    "prompt_ids": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, data: list[str], token_ids: list[list[int]], prompt_ids: list[str]) -> dict[str, Any]:
        _, group = np.unique(prompt_ids, return_inverse=True)
        top, unique = _Copies(data, token_ids).figures(np.ones(len(data), dtype=bool))
        return {
            "duplicate_rate": _mean(duplicate_rate(data, group)),
            "top_completion_share": top,
            "unique_token_ratio": None if np.isnan(unique) else unique,
        }


def values(evidence: Evidence) -> dict[str, Values]:
    """Prompt to its per-input figures, one value each; common_length_short has one a draw."""
    group, _ = _places(evidence)
    length, tokens, cut = _common(evidence)
    columns = lexical(tokens, group, evidence.vocabulary)
    at_common = columns if cut is tokens else lexical(cut, group, evidence.vocabulary)
    columns = columns | {f"{name}@common": column for name, column in at_common.items()}
    if evidence.embeddings is not None:
        columns["embedding_diversity"] = spread(evidence.embeddings, group)
        columns["vendi"] = vendi(evidence.embeddings, group)
    columns["duplicate_rate"] = duplicate_rate([s.completion for s in evidence.samples], group)
    found: dict[str, Values] = {name: by_prompt(_numbers(c), list(evidence.rows)) for name, c in columns.items()}
    return found | {"common_length_short": evidence.grid([float(len(ids) < length) for ids in tokens])}


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """Per input, across inputs (`_across`), and mode collapse: duplicate_rate (draws of a prompt that repeat an
    earlier one, white space squeezed), top_completion_share (the most frequent text's share of all completions),
    unique_token_ratio (distinct tokens over tokens, all completions as one corpus) and token_entropy (nats a token of the
    policy at T = 1 on its own samples; it falls before the texts show it, but a high one may be noise)."""
    found = {name: stats.mean(v) for name, v in values(evidence).items()}
    corpus = _Corpus(evidence)
    found |= dict(zip(corpus.names, stats.jackknife(corpus.figures, len(evidence.rows)), strict=True))
    lengths = evidence.grid([float(len(s.token_ids)) for s in evidence.samples])
    found["token_entropy"] = stats.ratio(evidence.grid([s.entropy for s in evidence.samples]), lengths)
    found["common_length"] = Estimate(corpus.length, None, None, len(evidence.rows))
    if evidence.vocabulary:
        found["ead_vocabulary"] = Estimate(evidence.vocabulary, None, None, len(evidence.rows))
    return found


def warnings(metrics: Mapping[str, Estimate], base_metrics: Mapping[str, Estimate]) -> list[str]:
    """Signs of mode collapse against the SFT row, in words."""
    found = []
    for name, most in (("duplicate_rate", DUPLICATES), ("top_completion_share", TOP)):
        value, reference = _value(metrics, name), _value(base_metrics, name)
        if value is not None and reference is not None and value > reference + most:
            found.append(f"{name} {value:.1%} is over {most * 100:.3g} points above the SFT's {reference:.1%}")
    for name in ("token_entropy", "unique_token_ratio"):
        value, reference = _value(metrics, name), _value(base_metrics, name)
        if value is not None and reference is not None and value < HALF * reference:
            found.append(f"{name} {value:.3g} is under half of the SFT's {reference:.3g}")
    return [f"mode collapse: {line}" for line in found]


def flags(figures: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[str]:
    """For the card; see ``warnings``."""
    return warnings(figures, base) if base else []


class _Corpus:
    """Figures of the whole run, of any subset of its prompts. What can be sorted or added up is so once, here."""

    def __init__(self, evidence: Evidence) -> None:
        self.prompt, self.draw = _places(evidence)
        self.vocabulary = evidence.vocabulary
        self.length, tokens, cut = _common(evidence)
        self.whole = _Lexicon(tokens, self.draw)
        self.common = self.whole if cut is tokens else _Lexicon(cut, self.draw)
        self.copies = _Copies([s.completion for s in evidence.samples], tokens)
        by_draw = np.array(list(evidence.rows.values())).T
        self.spaces = [] if evidence.embeddings is None else [_Space(evidence.embeddings[rows]) for rows in by_draw]
        lexical_names = [f"distinct_{n}_across" for n in range(1, ORDER)]
        lexical_names += ["ead_across"] * bool(evidence.vocabulary) + ["self_bleu_across"]
        self.names = lexical_names + [f"{name}@common" for name in lexical_names]
        self.names += ["embedding_diversity_across", "vendi_across"] * bool(self.spaces)
        self.names += ["top_completion_share", "unique_token_ratio"]

    def figures(self, prompts: Ints) -> list[float]:
        """The figures in the order of ``names``, NaN where undefined, of the prompts kept."""
        kept = np.isin(self.prompt, prompts)
        whole = self.whole.figures(self.vocabulary, kept)
        common = whole if self.common is self.whole else self.common.figures(self.vocabulary, kept)
        found = {f"{name}_across": _mean(column) for name, column in whole.items()}
        found |= {f"{name}_across@common": _mean(column) for name, column in common.items()}
        if self.spaces:
            pairs = np.array([space.figures(prompts) for space in self.spaces])
            found["embedding_diversity_across"], found["vendi_across"] = _mean(pairs[:, 0]), _mean(pairs[:, 1])
        found["top_completion_share"], found["unique_token_ratio"] = self.copies.figures(kept)
        return [np.nan if (value := found[name]) is None else value for name in self.names]


class _Space:
    """Unit embeddings [n, d] and their Gram matrix on its smaller side, so that leaving a few rows out is cheap."""

    def __init__(self, embeddings: NDArray[np.floating]) -> None:
        self.unit = _unit(embeddings)
        count, width = self.unit.shape
        self.wide = count <= width
        self.gram = self.unit @ self.unit.T if self.wide else self.unit.T @ self.unit
        self.sum = self.unit.sum(0)

    def figures(self, kept: Ints) -> tuple[float, float]:
        """1 - mean cosine and Vendi score of the rows kept; NaN for fewer than two."""
        if len(kept) < 2:
            return np.nan, np.nan
        left = np.delete(self.unit, kept, axis=0)
        gram = self.gram[np.ix_(kept, kept)] if self.wide else self.gram - left.T @ left
        between = _spread(self.sum - left.sum(0), len(kept))
        return float(between), float(_effective(gram / len(kept)))


class _Copies:
    """Texts (white space squeezed) and tokens as numbers, for counting in any subset of completions."""

    def __init__(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
        self.text = _numbered(texts)
        self.length = np.array([len(t) for t in tokens], dtype=np.intp)
        _, self.token = np.unique(np.fromiter(chain.from_iterable(tokens), np.int64), return_inverse=True)

    def figures(self, kept: Mask) -> tuple[float, float]:
        """top_completion_share and unique_token_ratio; the latter falls with the size of the corpus, NaN without tokens."""
        token = self.token[np.repeat(kept, self.length)]
        unique = np.count_nonzero(np.bincount(token)) / len(token) if len(token) else np.nan
        return int(np.bincount(self.text[kept]).max()) / int(kept.sum()), unique


def _numbered(texts: Sequence[str]) -> Ints:
    """Equal numbers for equal texts, white space squeezed."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(squeeze(text), len(number)) for text in texts], dtype=np.intp)


class _Rows(NamedTuple):
    """An n-gram in a completion each: the completion, the n-gram in its group (numbered; equal ones stand together, in
    falling order of times), and how often."""

    owner: NDArray[np.int32]
    place: NDArray[np.int32]
    times: NDArray[np.int32]


class _Lexicon:
    """The n-grams of completions in groups, sorted once: figures of what is left without some completions take no
    sorting, only passes over the rows."""

    def __init__(self, tokens: Sequence[Sequence[int]], group: Ints) -> None:
        self.group, self.groups = group, int(group.max()) + 1
        self.length = np.array([len(t) for t in tokens], dtype=np.intp)
        self.by_length = np.lexsort((self.length, group))
        self.rows = [_counted(owner, gram, group) for owner, gram in _ngrams(tokens, self.length)]

    def figures(self, vocabulary: int | None, kept: Mask | None = None) -> dict[str, Floats]:
        """The figures of ``lexical`` for the completions kept (all of them by default)."""
        group, groups = self.group, self.groups
        if kept is None:
            kept = np.ones(len(group), dtype=bool)
        length = np.where(kept, self.length, 0)
        totals = np.maximum(length - np.arange(ORDER)[:, None], 0)
        matches = np.zeros(totals.shape)
        found: dict[str, Floats] = {}
        for n, rows in enumerate(self.rows, 1):
            here = kept[rows.owner]
            owner, place, times = (column[here] for column in rows)
            clipped, first = _clipped(place, times)
            matches[n - 1] = np.bincount(owner, clipped, len(group))
            distinct = np.bincount(group[owner[first]], minlength=groups)
            if n < ORDER:
                found[f"distinct_{n}"] = _quotient(distinct, np.bincount(group, totals[n - 1], groups))
            if n == 1 and vocabulary:
                with np.errstate(divide="ignore"):  # a vocabulary of one token
                    even = -vocabulary * np.expm1(np.bincount(group, length, groups) * np.log1p(-1 / vocabulary))
                found["ead"] = _quotient(distinct, even)
        reference = _closest(self.by_length[kept[self.by_length]], length, group)
        found["self_bleu"] = _group_mean(_bleu(matches, totals, length, reference), group, groups)
        return found


def _common(evidence: Evidence) -> tuple[int, list[list[int]], list[list[int]]]:
    """The common length, the completions' tokens, and the same cut to it (the same list where none is longer)."""
    length = common_length([len(s.token_ids) for s in (evidence.base or evidence).samples])
    tokens = [s.token_ids for s in evidence.samples]
    return length, tokens, _cut(tokens, length)


def _cut(tokens: list[list[int]], length: int) -> list[list[int]]:
    return [ids[:length] for ids in tokens] if any(len(ids) > length for ids in tokens) else tokens


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


def _counted(owner: Ints, gram: Ints, group: Ints) -> _Rows:
    """Rows of n-grams that stand one by one."""
    span = int(gram.max(initial=0)) + 1
    key, count = np.unique(owner * span + gram, return_counts=True)
    owner, gram = np.divmod(key, span)
    place = group[owner] * span + gram
    order = np.lexsort((-count, place))
    number = np.cumsum(_starts(place[order]))
    return _Rows(*(column.astype(np.int32) for column in (owner[order], number, count[order])))


def _clipped(place: NDArray[np.int32], times: NDArray[np.int32]) -> tuple[NDArray[np.int32], Mask]:
    """Of rows as in ``_Rows``: how often, clipped by the most that another completion of the group has, and whether the row
    is the first of its n-gram."""
    first = _starts(place)
    start = np.flatnonzero(first)
    # rows stand in falling order of times: the most among others is the first row's, for that row the next one's
    others = np.repeat(times[start], np.diff(start, append=len(place)))
    others[start] = 0
    shared = start[~np.append(first[1:], True)[start]]
    others[shared] = times[shared + 1]
    return np.minimum(times, others), first


def _starts(column: NDArray[Any]) -> Mask:
    """Whether an element differs from the one before."""
    first = np.ones(len(column), dtype=bool)
    np.not_equal(column[1:], column[:-1], out=first[1:])
    return first


def _bleu(matches: Floats, totals: Floats, length: Ints, reference: Floats) -> Floats:
    """BLEU of each completion from matches and totals [order, n], its length and the closest reference's; NaN if
    empty."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.log(np.where(matches > 0, matches, FLOOR) / totals)
        score = np.where(totals > 0, precision, 0).sum(0) / (totals > 0).sum(0)
        bleu = np.exp(np.minimum(1 - reference / length, 0) + score)
    return np.where((length == 0) | np.isnan(reference), np.nan, np.where(matches.any(0), bleu, 0))


def _closest(order: Ints, length: Ints, group: Ints) -> Floats:
    """Length of the other completion of the group that is nearest in length, the shorter of two as near; NaN if alone.
    ``order`` lists completions by group and length; of others nothing is said (NaN)."""
    sizes, groups = length[order].astype(float), group[order]
    alike = groups[1:] == groups[:-1]
    before, after = np.full(len(sizes), np.nan), np.full(len(sizes), np.nan)
    before[1:] = np.where(alike, sizes[:-1], np.nan)
    after[:-1] = np.where(alike, sizes[1:], np.nan)
    nearest = np.where(np.isnan(before) | (after - sizes < sizes - before), after, before)
    closest = np.full(len(length), np.nan)
    closest[order] = nearest
    return closest


def _units(embeddings: NDArray[np.floating], group: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Groups of one size, a block at a time, and their unit embeddings [groups, size, d]; groups of one are left out."""
    size, order = np.bincount(group), np.argsort(group, kind="stable")
    start = np.cumsum(size) - size
    for count in np.unique(size[size > 1]):
        groups = np.flatnonzero(size == count)
        step = max(1, _BLOCK // int(count * embeddings.shape[1]))
        for block in (groups[at : at + step] for at in range(0, len(groups), step)):
            yield block, _unit(embeddings[order[start[block][:, None] + np.arange(count)]])


def _unit(embeddings: NDArray[np.floating]) -> Floats:
    """In double precision and of norm 1: halves of embeddings that were stored short are not."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    return unit


def _spread(total: Floats, count: int) -> Floats:
    return 1 - (np.square(total).sum(-1) - count) / (count * (count - 1.0))


def _effective(gram: Floats) -> Floats:
    """exp of the entropy of the eigenvalues [..., m, m] -> [...]; those under 0 are rounding."""
    return np.exp(entr(np.linalg.eigvalsh(gram).clip(min=0)).sum(-1))


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


def _value(metrics: Mapping[str, Estimate], name: str) -> float | None:
    return metrics[name].value if name in metrics else None
