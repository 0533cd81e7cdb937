"""Diversity against sacrebleu and NLTK (development dependencies), brute force and numbers worked by hand."""

import time
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics import diversity
from bench.metrics.evidence import Evidence
from bench.types import Sample

completions = st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=2, max_size=6)


def evidence(table: dict[str, list[list[int]]], **changes) -> Evidence:
    samples = [
        Sample(p, d, "", " ".join(map(str, ids)), ids, None, None, None, False)
        for p, rows in table.items()
        for d, ids in enumerate(rows)
    ]
    return Evidence(samples, "s", {"s": [0.0] * len(samples)}, **changes)


def one_group(tokens, vocabulary=None):
    return {name: v[0] for name, v in diversity.lexical(tokens, np.zeros(len(tokens), dtype=int), vocabulary).items()}


def grams(ids, n):
    return list(zip(*(ids[i:] for i in range(n)), strict=False))


@given(completions)
@settings(deadline=None)
def test_distinct_and_ead_equal_counting(tokens):
    found = one_group(tokens, 50)
    for n in (1, 2, 3):
        pool = [g for ids in tokens for g in grams(ids, n)]
        expected = len(set(pool)) / len(pool) if pool else np.nan
        assert found[f"distinct_{n}"] == pytest.approx(expected, nan_ok=True)
    words = [w for ids in tokens for w in ids]
    expected = len(set(words)) / (50 * (1 - (49 / 50) ** len(words))) if words else np.nan
    assert found["ead"] == pytest.approx(expected, nan_ok=True)


@given(completions)
@settings(deadline=None)
def test_self_bleu_equals_sacrebleu(tokens):
    sacrebleu = pytest.importorskip("sacrebleu.metrics")

    bleu = sacrebleu.BLEU(smooth_method="floor", smooth_value=0.1, effective_order=True, tokenize="none")
    text = [" ".join(map(str, ids)) for ids in tokens]
    scores = [bleu.sentence_score(own, text[:i] + text[i + 1 :]).score / 100 for i, own in enumerate(text) if tokens[i]]
    expected = np.mean(scores) if scores else np.nan
    assert one_group(tokens)["self_bleu"] == pytest.approx(expected, nan_ok=True, abs=1e-9)


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=9), min_size=2, max_size=6))
@settings(deadline=None, max_examples=50)
def test_self_bleu_equals_nltks_method1_from_four_tokens_on(tokens):
    nltk = pytest.importorskip("nltk.translate.bleu_score")

    smooth = nltk.SmoothingFunction(epsilon=0.1).method1
    scores = [nltk.sentence_bleu(tokens[:i] + tokens[i + 1 :], own, smoothing_function=smooth) for i, own in enumerate(tokens)]
    assert one_group(tokens)["self_bleu"] == pytest.approx(np.mean(scores), abs=1e-9)


@given(st.lists(completions, min_size=1, max_size=4), st.randoms())
@settings(deadline=None, max_examples=40)
def test_groups_do_not_touch_and_order_does_not_matter(groups, random):
    rows = [(ids, number) for number, group in enumerate(groups) for ids in group]
    random.shuffle(rows)
    together = diversity.lexical([ids for ids, _ in rows], np.array([g for _, g in rows]), 9)
    for number, group in enumerate(groups):
        for name, value in one_group(group, 9).items():
            assert together[name][number] == pytest.approx(value, nan_ok=True)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_spread_equals_one_minus_the_mean_cosine_of_all_pairs(seed, size):
    e = np.random.default_rng(seed).normal(size=(size + 1, 4))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    cosines = [a @ b for a, b in combinations(e[:size], 2)]
    group = np.array([0] * size + [1])
    assert diversity.spread(e, group) == pytest.approx([1 - np.mean(cosines), np.nan], nan_ok=True)


def test_per_input_and_across_inputs_tell_two_kinds_of_collapse_apart():
    rng = np.random.default_rng(0)
    own = {str(p): [rng.integers(0, 999, 12).tolist()] * 4 for p in range(20)}  # an answer for each prompt
    shared = [rng.integers(0, 999, 12).tolist() for _ in range(4)]  # four answers for all prompts
    by_prompt, by_draw = (diversity.measure(evidence(t)) for t in (own, dict.fromkeys(own, shared)))
    assert by_prompt["distinct_2"].value == pytest.approx(0.25)
    assert by_prompt["distinct_2_across"].value > 0.99
    assert by_prompt["self_bleu"].value == pytest.approx(1)
    assert by_prompt["duplicate_rate"].value == 0.75
    assert by_draw["distinct_2"].value > 0.99
    assert by_draw["distinct_2_across"].value == pytest.approx(1 / 20)
    assert by_draw["duplicate_rate"].value == 0
    assert by_draw["top_completion_share"].value == pytest.approx(0.25)


def test_mode_collapse_worked_by_hand():
    found = diversity.measure(evidence({"a": [[1, 2], [1, 2]], "b": [[1, 2], [3]], "c": [[4], [5, 6]]}, vocabulary=10))
    assert found["duplicate_rate"].value == pytest.approx(1 / 6)
    assert found["top_completion_share"].value == pytest.approx(3 / 6)
    assert found["unique_token_ratio"].value == pytest.approx(6 / 10)
    assert found["ead_vocabulary"].value == 10
    assert found["distinct_1"].value == pytest.approx((2 / 4 + 1 + 1) / 3)
    assert (found["distinct_2"].n, found["distinct_3"].value, found["distinct_3"].missing) == (3, None, 3)


def test_one_draw_has_no_diversity_per_input_and_empty_completions_have_none_at_all():
    single = diversity.measure(evidence({"a": [[1, 2, 3, 4]], "b": [[5, 6, 7, 8]]}))
    assert single["self_bleu"].value is None
    assert single["self_bleu_across"].value == 0
    assert single["distinct_1"].value == 1
    empty = diversity.measure(evidence({p: [[], []] for p in "abcd"}, vocabulary=5))
    assert {empty[name].value for name in ("distinct_1", "ead", "self_bleu", "unique_token_ratio")} == {None}
    assert empty["duplicate_rate"].value == 0.5


def test_order_of_samples_changes_nothing():
    rng = np.random.default_rng(1)
    one = evidence({str(p): rng.integers(0, 30, (3, 6)).tolist() for p in range(12)}, vocabulary=30)
    order = rng.permutation(len(one.samples))
    other = replace(one, samples=[one.samples[i] for i in order])
    first, second = diversity.measure(one), diversity.measure(other)
    for name, estimate in first.items():
        assert second[name].value == pytest.approx(estimate.value), name
        assert second[name].low == pytest.approx(estimate.low), name


def test_256_prompts_of_8_draws_take_seconds():
    rng = np.random.default_rng(2)
    table = {str(p): (rng.zipf(1.3, (8, 20)) % 4096).tolist() for p in range(256)}
    unit = rng.normal(size=(2048, 384))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    start = time.perf_counter()
    diversity.measure(evidence(table, vocabulary=4096, embeddings=unit))
    assert time.perf_counter() - start < 10


def test_the_measurements_stand_alone():
    found = diversity.LexicalDiversity(keep_in_memory=True).compute(
        data=[[1, 2], [1, 2], [3, 4], []], prompt_ids=["b", "b", "a", "a"], vocabulary=10
    )
    assert (found["prompts"], found["distinct_1_by_prompt"], found["distinct_1"]) == (["a", "b"], [1, 0.5], 0.75)
    found = diversity.EmbeddingDiversity(keep_in_memory=True).compute(data=[[1.0, 0.0], [0.0, 1.0]], prompt_ids=["a", "a"])
    assert found["embedding_diversity"] == pytest.approx(1)
