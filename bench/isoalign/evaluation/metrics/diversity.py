"""How varied completions are: among the draws of one prompt, and across prompts (one draw of each).

The two fall for different reasons: a policy may give each prompt a single answer of its own (low per input, high across),
or answer every prompt alike (low both ways). Metrics per input are averaged over prompts; `_across` metrics are taken on one
draw of every prompt and averaged over draws. N-grams are of token ids, the same vocabulary for all methods. All of these but
EAD fall with the number and the length of the completions compared: a fair reading needs equal draws and equal lengths. So
lexical metrics are given twice, and `@common` on completions cut to `common_length` tokens, the same for all methods of a
task; `common_length_short` is the share that is shorter and stays whole, on which the comparison remains unfair. Embeddings
are of text, and cut token ids give no text without a tokenizer: embedding_diversity and vendi are of whole completions only.
What is undefined (no n-gram of that order, a single draw) is missing.

Kirk et al. 2024, "Understanding the Effects of RLHF on LLM Generalisation and Diversity" (per input and across inputs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import inf
from typing import Any

import numpy as np

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.records import Estimate, Flag
from isoalign.core.text import squeeze
from isoalign.evaluation.metrics.embedding_space import Space, spread, vendi
from isoalign.evaluation.metrics.metric import Metric, value_of
from isoalign.evaluation.metrics.ngrams import ORDER, Floats, Ints, Lexicon, Mask, lexical, quotient
from isoalign.evaluation.metrics.scored_samples import ScoredSamples, by_prompt
from isoalign.stats import Values

VERSION = 2
COMMON = 0.25
"""The quantile of the SFT row's lengths that all completions are cut to: three quarters of its own are that long."""
DUPLICATES, TOP, HALF = 0.10, 0.05, 0.5
"""Signs of collapse: rises over the SFT row, and the share of its value that is left."""

_LEXICAL = (
    Metric("distinct_1", "Distinct-1", True, description="Distinct tokens over all tokens of a prompt's draws."),
    Metric("distinct_2", "Distinct-2", True, description="Distinct bigrams over all bigrams of a prompt's draws."),
    Metric("distinct_3", "Distinct-3", True, description="Distinct trigrams over all trigrams of a prompt's draws."),
    Metric("ead", "EAD", True, bounds=(0.0, inf),
           description="Distinct tokens of a prompt's draws over those to be expected of as many random tokens."),
    Metric("self_bleu", "Self-BLEU", False,
           description="Mean BLEU of a completion with the other draws of its prompt as references."),
)  # fmt: skip
_SEMANTIC = (
    Metric("embedding_diversity", "Embedding diversity", True, bounds=(0.0, 2.0),
           description="1 − mean cosine between the sentence embeddings of a prompt's draws."),
    Metric("vendi", "Vendi", True, digits=2, bounds=(1.0, inf),
           description="Vendi score: the effective number of different completions among a prompt's draws."),
)  # fmt: skip
METRICS = (
    *_LEXICAL, *_SEMANTIC,
    *(replace(m, name=f"{m.name}_across", title=f"{m.title} across", digits=1 if m.name == "vendi" else m.digits,
              description=f"{m.title} of one draw of every prompt.") for m in (*_LEXICAL, *_SEMANTIC)),
    Metric("token_entropy", "Token entropy", unit="nats", digits=2, bounds=(0.0, inf),
           description="Entropy per token of the policy on its own samples."),
    Metric("duplicate_rate", "Duplicates", False, description="Share of a prompt's draws that repeat an earlier one."),
    Metric("top_completion_share", "Most frequent", False,
           description="Share of all completions that are the most frequent one."),
    Metric("unique_token_ratio", "Unique tokens", True, description="Distinct tokens over tokens, of all completions."),
)  # fmt: skip


def common_length(lengths: Sequence[int]) -> int:
    """The length to cut to: the 25th percentile (nearest rank) of the SFT row's lengths in tokens, at least 1."""
    return max(sorted(lengths)[math.ceil(COMMON * len(lengths)) - 1], 1)


def duplicate_rate(texts: Sequence[str], group: Ints) -> Floats:
    """Share of each group's completions that repeat an earlier one of the group, with white space squeezed.

    Counts exact copies only: a template with one word changed is not a duplicate.
    """
    number = _numbered(texts)
    first = np.unique(group * (int(number.max()) + 1) + number, return_index=True)[1]
    size = np.bincount(group)
    return 1 - quotient(np.bincount(group[first], minlength=len(size)), size)


def lexical_diversity(
    data: Sequence[Sequence[int]], prompt_ids: Sequence[str], vocabulary: int | None = None, length: int | None = None
) -> dict[str, Any]:
    """distinct-n, EAD and self-BLEU among the completions of each prompt, averaged over prompts.

    ``data``: token ids of each completion; ``prompt_ids``: its prompt (one id for all makes one corpus); ``vocabulary``: the
    tokenizer's size, for EAD; ``length``: tokens to cut all completions to.
    """
    prompts, group = np.unique(prompt_ids, return_inverse=True)
    completions = [list(ids) for ids in data]
    columns = lexical(_cut(completions, length) if length else completions, group, vocabulary)
    return _averaged(columns) | {"prompts": prompts.tolist(), "vocabulary": vocabulary}


def embedding_diversity(data: Sequence[Sequence[float]], prompt_ids: Sequence[str]) -> dict[str, Any]:
    """1 - mean pairwise cosine, and the Vendi score, among the completions of each prompt, averaged over prompts.

    ``data``: an embedding of each completion, of any norm above 0; ``prompt_ids``: its prompt.
    """
    prompts, group = np.unique(prompt_ids, return_inverse=True)
    embeddings = np.asarray(data, dtype=np.float64)
    if not (np.isfinite(embeddings).all() and np.square(embeddings).sum(1).all()):
        raise UserError("embeddings must be finite and not 0: otherwise they have no direction")
    columns = {"embedding_diversity": spread(embeddings, group), "vendi": vendi(embeddings, group)}
    return _averaged(columns) | {"prompts": prompts.tolist()}


def mode_collapse(
    data: Sequence[str], token_ids: Sequence[Sequence[int]], prompt_ids: Sequence[str]
) -> dict[str, float | None]:
    """Share of completions ``data`` that repeat an earlier one of their prompt, averaged over prompts; share of the most
    frequent completion; distinct tokens over tokens, as one corpus."""
    _, group = np.unique(prompt_ids, return_inverse=True)
    top, unique = _Copies(data, token_ids).shares(np.ones(len(data), dtype=bool))
    return {
        "duplicate_rate": _mean(duplicate_rate(data, group)),
        "top_completion_share": top,
        "unique_token_ratio": None if np.isnan(unique) else unique,
    }


def _averaged(columns: Mapping[str, Floats]) -> dict[str, Any]:
    """Means over prompts, and the values by prompt."""
    means: dict[str, Any] = {name: _mean(column) for name, column in columns.items()}
    return means | {f"{name}_by_prompt": _numbers(column) for name, column in columns.items()}


def values(scored: ScoredSamples) -> dict[str, Values]:
    """Prompt to its metrics per input, one value each; common_length_short has one for each draw."""
    group, _ = _numbers_of(scored)
    length, tokens, cut = _common(scored)
    columns = lexical(tokens, group, scored.vocabulary)
    at_common = columns if cut is tokens else lexical(cut, group, scored.vocabulary)
    columns = columns | {f"{name}@common": column for name, column in at_common.items()}
    if scored.embeddings is not None:
        columns["embedding_diversity"] = spread(scored.embeddings, group)
        columns["vendi"] = vendi(scored.embeddings, group)
    columns["duplicate_rate"] = duplicate_rate([s.completion for s in scored.samples], group)
    grids: dict[str, Values] = {name: by_prompt(_numbers(c), list(scored.rows)) for name, c in columns.items()}
    return grids | {"common_length_short": scored.grid([float(len(ids) < length) for ids in tokens])}


def measure(scored: ScoredSamples) -> dict[str, Estimate]:
    """Metrics per input, across inputs (`_across`), and of mode collapse: duplicate_rate (draws of a prompt that repeat an
    earlier one, with white space squeezed), top_completion_share (the most frequent text's share of all completions),
    unique_token_ratio (distinct tokens over tokens, all completions as one corpus) and token_entropy (nats per token of the
    policy at T = 1 on its own samples; it falls before the texts show a collapse, but a high one may be noise)."""
    estimates = {name: stats.mean(v) for name, v in values(scored).items()}
    corpus = _Corpus(scored)
    estimates |= dict(zip(corpus.names, stats.jackknife(corpus.diversity, len(scored.rows)), strict=True))
    lengths = scored.grid([float(len(s.token_ids)) for s in scored.samples])
    estimates["token_entropy"] = stats.ratio(scored.grid([s.entropy for s in scored.samples]), lengths)
    estimates["common_length"] = Estimate(corpus.length, None, None, len(scored.rows))
    if scored.vocabulary:
        estimates["ead_vocabulary"] = Estimate(scored.vocabulary, None, None, len(scored.rows))
    return estimates


def flags(estimates: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[Flag]:
    """Warns of signs of mode collapse against the SFT row."""
    if base is None:
        return []
    signs = []
    for name, most in (("duplicate_rate", DUPLICATES), ("top_completion_share", TOP)):
        value, reference = value_of(estimates, name), value_of(base, name)
        if value is not None and reference is not None and value > reference + most:
            signs.append(f"{name} {value:.1%} is over {most * 100:.3g} points above the SFT's {reference:.1%}")
    for name in ("token_entropy", "unique_token_ratio"):
        value, reference = value_of(estimates, name), value_of(base, name)
        if value is not None and reference is not None and value < HALF * reference:
            signs.append(f"{name} {value:.3g} is under half of the SFT's {reference:.3g}")
    return [Flag("warning", f"mode collapse: {sign}") for sign in signs]


class _Corpus:
    """Metrics across the whole run, or any subset of its prompts. What can be sorted or summed in advance is."""

    def __init__(self, scored: ScoredSamples) -> None:
        self.prompt, self.draw = _numbers_of(scored)
        self.vocabulary = scored.vocabulary
        self.length, tokens, cut = _common(scored)
        self.whole = Lexicon(tokens, self.draw)
        self.common = self.whole if cut is tokens else Lexicon(cut, self.draw)
        self.copies = _Copies([s.completion for s in scored.samples], tokens)
        by_draw = np.array(list(scored.rows.values())).T
        self.spaces = [] if scored.embeddings is None else [Space(scored.embeddings[rows]) for rows in by_draw]
        lexical_names = [f"distinct_{n}_across" for n in range(1, ORDER)]
        lexical_names += ["ead_across"] * bool(scored.vocabulary) + ["self_bleu_across"]
        self.names = lexical_names + [f"{name}@common" for name in lexical_names]
        self.names += ["embedding_diversity_across", "vendi_across"] * bool(self.spaces)
        self.names += ["top_completion_share", "unique_token_ratio"]

    def diversity(self, prompts: Ints) -> list[float]:
        """The metrics of the ``prompts`` kept, in the order of ``names``, NaN where undefined."""
        kept = np.isin(self.prompt, prompts)
        whole = self.whole.diversity(self.vocabulary, kept)
        common = whole if self.common is self.whole else self.common.diversity(self.vocabulary, kept)
        found = {f"{name}_across": _mean(column) for name, column in whole.items()}
        found |= {f"{name}_across@common": _mean(column) for name, column in common.items()}
        if self.spaces:
            pairs = np.array([space.diversity(prompts) for space in self.spaces])
            found["embedding_diversity_across"], found["vendi_across"] = _mean(pairs[:, 0]), _mean(pairs[:, 1])
        found["top_completion_share"], found["unique_token_ratio"] = self.copies.shares(kept)
        return [np.nan if (value := found[name]) is None else value for name in self.names]


class _Copies:
    """Texts (with white space squeezed) and tokens as numbers, for counting in any subset of completions."""

    def __init__(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
        self.text = _numbered(texts)
        self.length = np.array([len(t) for t in tokens], dtype=np.intp)
        _, self.token = np.unique(np.fromiter(chain.from_iterable(tokens), np.int64), return_inverse=True)

    def shares(self, kept: Mask) -> tuple[float, float]:
        """top_completion_share and unique_token_ratio of the completions ``kept``; the latter falls with the size of the
        corpus and is NaN without tokens."""
        token = self.token[np.repeat(kept, self.length)]
        unique = np.count_nonzero(np.bincount(token)) / len(token) if len(token) else np.nan
        return int(np.bincount(self.text[kept]).max()) / int(kept.sum()), unique


def _numbered(texts: Sequence[str]) -> Ints:
    """A number for each text, equal for texts that are equal with white space squeezed."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(squeeze(text), len(number)) for text in texts], dtype=np.intp)


def _common(scored: ScoredSamples) -> tuple[int, list[list[int]], list[list[int]]]:
    """The common length, the completions' tokens, and these cut to it (the same list if none is longer)."""
    length = common_length([len(s.token_ids) for s in (scored.base or scored).samples])
    tokens = [s.token_ids for s in scored.samples]
    return length, tokens, _cut(tokens, length)


def _cut(tokens: list[list[int]], length: int) -> list[list[int]]:
    return [ids[:length] for ids in tokens] if any(len(ids) > length for ids in tokens) else tokens


def _numbers_of(scored: ScoredSamples) -> tuple[Ints, Ints]:
    """The number of each sample's prompt (prompts sorted) and of its draw."""
    prompt, draw = np.zeros((2, len(scored.samples)), dtype=np.intp)
    for number, rows in enumerate(scored.rows.values()):
        prompt[rows], draw[rows] = number, np.arange(len(rows))
    return prompt, draw


def _mean(column: Floats) -> float | None:
    known = column[~np.isnan(column)]
    return float(known.mean()) if len(known) else None


def _numbers(column: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in column]
