"""Diversity against sacrebleu, NLTK and vendi-score (development dependencies), brute force and numbers worked by hand."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoalign.core.records import Estimate, Sample
from isoalign.evaluation.metrics import ScoredSamples, diversity
from isoalign.evaluation.metrics.embedding_space import Space, spread, vendi
from isoalign.evaluation.metrics.ngrams import Lexicon, lexical

completions = st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=2, max_size=6)


def scored(table: dict[str, list[list[int]]], entropy: float | None = None, **changes) -> ScoredSamples:
    """``entropy``: nats a token."""
    samples = [
        Sample(p, d, "", " ".join(map(str, ids)), ids, None, None, None, False, "", "", entropy and entropy * len(ids))
        for p, rows in table.items()
        for d, ids in enumerate(rows)
    ]
    return ScoredSamples(samples, "s", {"s": [0.0] * len(samples)}, **changes)


def random_units(seed: int, *shape: int) -> np.ndarray:
    e = np.random.default_rng(seed).normal(size=shape)
    return e / np.linalg.norm(e, axis=-1, keepdims=True)


def one_group(tokens, vocabulary=None):
    return {name: v[0] for name, v in lexical(tokens, np.zeros(len(tokens), dtype=int), vocabulary).items()}


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
    together = lexical([ids for ids, _ in rows], np.array([g for _, g in rows]), 9)
    for number, group in enumerate(groups):
        for name, value in one_group(group, 9).items():
            assert together[name][number] == pytest.approx(value, nan_ok=True)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_spread_equals_one_minus_the_mean_cosine_of_all_pairs(seed, size):
    e = np.random.default_rng(seed).normal(size=(size + 1, 4))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    cosines = [a @ b for a, b in combinations(e[:size], 2)]
    group = np.array([0] * size + [1])
    assert spread(e, group) == pytest.approx([1 - np.mean(cosines), np.nan], nan_ok=True)


def test_per_input_and_across_inputs_tell_two_kinds_of_collapse_apart():
    rng = np.random.default_rng(0)
    own = {str(p): [rng.integers(0, 999, 12).tolist()] * 4 for p in range(20)}  # an answer for each prompt
    shared = [rng.integers(0, 999, 12).tolist() for _ in range(4)]  # four answers for all prompts
    by_prompt, by_draw = (diversity.measure(scored(t)) for t in (own, dict.fromkeys(own, shared)))
    assert by_prompt["distinct_2"].value == pytest.approx(0.25)
    assert by_prompt["distinct_2_across"].value > 0.99
    assert by_prompt["self_bleu"].value == pytest.approx(1)
    assert by_prompt["duplicate_rate"].value == 0.75
    assert by_draw["distinct_2"].value > 0.99
    assert by_draw["distinct_2_across"].value == pytest.approx(1 / 20)
    assert by_draw["duplicate_rate"].value == 0
    assert by_draw["top_completion_share"].value == pytest.approx(0.25)


def test_mode_collapse_worked_by_hand():
    found = diversity.measure(scored({"a": [[1, 2], [1, 2]], "b": [[1, 2], [3]], "c": [[4], [5, 6]]}, vocabulary=10))
    assert found["duplicate_rate"].value == pytest.approx(1 / 6)
    assert found["top_completion_share"].value == pytest.approx(3 / 6)
    assert found["unique_token_ratio"].value == pytest.approx(6 / 10)
    assert found["ead_vocabulary"].value == 10
    assert found["distinct_1"].value == pytest.approx((2 / 4 + 1 + 1) / 3)
    assert (found["distinct_2"].n, found["distinct_3"].value, found["distinct_3"].missing) == (3, None, 3)


def test_one_draw_has_no_diversity_per_input_and_empty_completions_have_none_at_all():
    single = diversity.measure(scored({"a": [[1, 2, 3, 4]], "b": [[5, 6, 7, 8]]}))
    assert single["self_bleu"].value is None
    assert single["self_bleu_across"].value == 0
    assert single["distinct_1"].value == 1
    empty = diversity.measure(scored({p: [[], []] for p in "abcd"}, vocabulary=5))
    assert {empty[name].value for name in ("distinct_1", "ead", "self_bleu", "unique_token_ratio")} == {None}
    assert empty["duplicate_rate"].value == 0.5


def test_order_of_samples_changes_nothing():
    rng = np.random.default_rng(1)
    one = scored({str(p): rng.integers(0, 30, (3, 6)).tolist() for p in range(12)}, vocabulary=30)
    order = rng.permutation(len(one.samples))
    other = replace(one, samples=[one.samples[i] for i in order])
    first, second = diversity.measure(one), diversity.measure(other)
    for name, estimate in first.items():
        assert second[name].value == pytest.approx(estimate.value), name
        assert second[name].low == pytest.approx(estimate.low), name


@given(st.lists(completions, min_size=2, max_size=4), st.data())
@settings(deadline=None, max_examples=40)
def test_figures_without_some_completions_equal_those_of_the_rest_alone(groups, data):
    rows = [(ids, number) for number, group in enumerate(groups) for ids in group]
    tokens, group = [ids for ids, _ in rows], np.array([number for _, number in rows])
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    found = Lexicon(tokens, group).diversity(9, kept)
    for number in range(len(groups)):
        rest = [ids for ids, own, keep in zip(tokens, group, kept, strict=True) if keep and own == number]
        expected = one_group(rest, 9) if rest else dict.fromkeys(found, np.nan)
        for name, column in found.items():
            assert column[number] == pytest.approx(expected[name], nan_ok=True), name


# -- Vendi -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(2, 12), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_vendi_equals_its_authors_package_on_either_side_of_the_gram_matrix(seed, size, width):
    package = pytest.importorskip("vendi_score.vendi")
    e = random_units(seed, size, width)
    found = vendi(e, np.zeros(size, dtype=int))[0]
    assert found == pytest.approx(package.score_dual(e), rel=1e-6)
    kernel = e @ e.T / size
    eigenvalues = np.linalg.eigvalsh(kernel)
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    assert found == pytest.approx(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()), rel=1e-6)
    assert 1 - 1e-9 <= found <= min(size, width) + 1e-9


def test_vendi_worked_by_hand():
    same, apart = np.tile([1.0, 0, 0], (4, 1)), np.eye(3)
    assert vendi(same, np.zeros(4, dtype=int)) == pytest.approx([1])
    assert vendi(apart, np.zeros(3, dtype=int)) == pytest.approx([3])
    twice = np.array([[1.0, 0], [1.0, 0], [0, 1.0], [0, 1.0]])
    assert vendi(twice, np.zeros(4, dtype=int)) == pytest.approx([2])
    # cosine 1/2: eigenvalues 3/4 and 1/4
    half = np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    assert vendi(half, np.zeros(2, dtype=int)) == pytest.approx([np.exp(np.log(4) - 0.75 * np.log(3))])


@given(st.integers(0, 1000), st.randoms(), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_embedding_figures_know_no_order_no_rotation_no_zero_columns_and_no_other_group(seed, random, padding):
    sizes = [3, 1, 5, 3]
    group = np.repeat(np.arange(len(sizes)), sizes)
    e = random_units(seed, len(group), 4)
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0]
    order = list(range(len(group)))
    random.shuffle(order)
    other = np.pad((e @ turned)[order], ((0, 0), (0, padding)))
    for figure in (vendi, spread):
        found = figure(e, group)
        assert figure(other, group[order]) == pytest.approx(found, nan_ok=True)
        alone = [figure(e[group == g], np.zeros(n, dtype=int))[0] for g, n in enumerate(sizes)]
        assert found == pytest.approx(alone, nan_ok=True)
        assert np.isnan(found).tolist() == [False, True, False, False]


@pytest.mark.parametrize("width", [3, 40])
def test_across_figures_of_embeddings_are_means_over_draws_on_either_side(width):
    prompts, draws = 12, 3
    e = random_units(0, prompts * draws, width)
    table = {f"{p:02d}": [[1], [2], [3]] for p in range(prompts)}
    found = diversity.measure(scored(table, embeddings=e))
    one_draw = [e[draw::draws] for draw in range(draws)]
    together = np.zeros(prompts, dtype=int)
    assert found["vendi_across"].value == pytest.approx(np.mean([vendi(x, together)[0] for x in one_draw]))
    assert found["embedding_diversity_across"].value == pytest.approx(np.mean([spread(x, together)[0] for x in one_draw]))
    by_prompt = [e[p * draws : (p + 1) * draws] for p in range(prompts)]
    three = np.zeros(draws, dtype=int)
    assert found["vendi"].value == pytest.approx(np.mean([vendi(x, three)[0] for x in by_prompt]))
    # what the jackknife asks for: the same without some prompts
    kept = np.array([0, 2, 3, 7, 11])
    space = Space(one_draw[0])
    few = np.zeros(len(kept), dtype=int)
    expected = [figure(one_draw[0][kept], few)[0] for figure in (spread, vendi)]
    assert list(space.diversity(kept)) == pytest.approx(expected)
    assert found["vendi_across"].low < found["vendi_across"].value < found["vendi_across"].high


def test_embeddings_that_were_stored_short_are_of_unit_norm_again():
    e = random_units(1, 8, 6)
    short = e.astype(np.float16).astype(np.float32)
    group = np.zeros(8, dtype=int)
    assert vendi(short * 1.004, group) == pytest.approx(vendi(short, group), rel=1e-6)
    assert vendi(short, group) == pytest.approx(vendi(e, group), rel=1e-2)


# -- at common length ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([5], 5), ([1, 2, 3, 4], 1), ([4, 3, 2, 1, 5], 2), ([0, 0, 0, 9], 1), ([20] * 8, 20), (list(range(1, 101)), 25)],
)
def test_the_common_length_is_the_nearest_rank_of_a_quarter_and_at_least_one(lengths, expected):
    assert diversity.common_length(lengths) == expected


def test_at_common_length_a_policy_that_stops_early_is_not_the_more_varied():
    """The SFT says 12 tokens of which the last six repeat; the method says the first six alone."""
    rng = np.random.default_rng(0)
    heads = {str(p): [rng.integers(0, 999, 6).tolist() for _ in range(3)] for p in range(9)}
    sft = scored({p: [ids + [7] * 6 if p < "6" else ids for ids in rows] for p, rows in heads.items()}, vocabulary=999)
    short = diversity.measure(scored(heads, vocabulary=999, base=sft))
    base = diversity.measure(sft)
    assert (base["common_length"].value, base["common_length_short"].value) == (6, 0)
    assert short["distinct_1"].value > base["distinct_1"].value + 0.2
    for name in [name for name in base if name.endswith("@common")]:
        assert short[name].value == pytest.approx(base[name].value), name
    assert {name for name in base if name.endswith("@common")} == {
        f"{figure}{across}@common"
        for figure in ("distinct_1", "distinct_2", "distinct_3", "ead", "self_bleu")
        for across in ("", "_across")
    }


@given(st.lists(st.lists(st.lists(st.integers(0, 5), max_size=7), min_size=2, max_size=2), min_size=3, max_size=4), st.data())
@settings(deadline=None, max_examples=25)
def test_what_stands_past_the_common_length_does_not_count(rows, data):
    table = {str(p): row for p, row in enumerate(rows)}
    base = scored(table, vocabulary=6)
    length = diversity.common_length([len(ids) for row in rows for ids in row])
    tail = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    cut = {p: [ids[:length] for ids in row] for p, row in table.items()}
    longer = {p: [ids + tail if len(ids) >= length else ids for ids in row] for p, row in table.items()}
    plain, other = (diversity.measure(scored(t, vocabulary=6, base=base)) for t in (cut, longer))
    for name, estimate in plain.items():
        if name.endswith("@common"):
            assert other[name].value == pytest.approx(estimate.value), name
            assert estimate.value == pytest.approx(plain[name.removesuffix("@common")].value), name
    short = np.mean([len(ids) < length for row in rows for ids in row])
    assert plain["common_length_short"].value == other["common_length_short"].value == pytest.approx(short)


# -- collapse --------------------------------------------------------------------------------------------------------


def test_token_entropy_is_a_ratio_of_sums_and_missing_without_a_policy():
    table = {"a": [[1, 2, 3]], "b": [[4]], "c": [[]]}
    one = scored(table)
    with_policy = [replace(s, entropy=e) for s, e in zip(one.samples, (3.0, 3.0, 0.0), strict=True)]
    assert diversity.measure(replace(one, samples=with_policy))["token_entropy"].value == pytest.approx(6 / 4)
    found = diversity.measure(one)["token_entropy"]
    assert (found.value, found.n, found.missing) == (None, 0, 3)


def test_a_collapsed_policy_is_said_to_be_one_and_the_base_is_not():
    rng = np.random.default_rng(0)
    wide = {f"{p:02d}": [rng.integers(0, 99, 8).tolist() for _ in range(4)] for p in range(20)}
    base = scored(wide, entropy=4.0)
    collapsed = scored(dict.fromkeys(wide, [[1, 2, 3, 4]] * 4), entropy=0.5, base=base)
    own, reference = diversity.measure(collapsed), diversity.measure(base)
    assert [flag.text for flag in diversity.flags(own, reference)] == [
        "mode collapse: duplicate_rate 75.0% is over 10 points above the SFT's 0.0%",
        "mode collapse: top_completion_share 100.0% is over 5 points above the SFT's 1.2%",
        "mode collapse: token_entropy 0.5 is under half of the SFT's 4",
        f"mode collapse: unique_token_ratio 0.0125 is under half of the SFT's {reference['unique_token_ratio'].value:.3g}",
    ]
    assert {flag.kind for flag in diversity.flags(own, reference)} == {"warning"}
    assert diversity.flags(reference, reference) == []
    assert diversity.flags(own, None) == []


def test_collapse_is_only_said_past_its_limits_and_where_it_can_be():
    def figures(**values):
        return {name: Estimate(v, None, None, 9) for name, v in values.items()}

    base = figures(duplicate_rate=0.25, top_completion_share=0.0, token_entropy=4.0, unique_token_ratio=0.5)
    at_limits = figures(duplicate_rate=0.35, top_completion_share=0.05, token_entropy=2.0, unique_token_ratio=0.25)
    assert diversity.flags(at_limits, base) == []
    assert diversity.flags(figures(token_entropy=None, duplicate_rate=1.0), figures(token_entropy=4.0)) == []
