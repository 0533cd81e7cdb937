"""Intervals: numbers worked by hand, degenerate input, invariance, and coverage in simulation."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import nctdtr, nctdtrinc, stdtrit
from scipy.stats import binomtest, false_discovery_control, mannwhitneyu, nct, ttest_1samp

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.records import Estimate
from isoalign.stats import comparisons, intervals
from isoalign.stats.ranks import HALVINGS, NOMINAL

grids = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=4),
    min_size=1,
    max_size=12,
)


def test_mean_of_all_values_counts_prompts_and_missing_values():
    found = stats.mean({"a": [1.0, None], "b": [0.0, 0.5], "c": [None, None]})
    assert found.value == pytest.approx(0.5)
    assert (found.n, found.missing) == (2, 3)


def test_ratio_is_of_sums_and_drops_cells_that_lack_either_side():
    found = stats.ratio({"a": [6.0, 5.0], "b": [None, 2.0]}, {"a": [2.0, None], "b": [9.0, 2.0]}, then=math.exp)
    assert found.value == pytest.approx(math.exp(8 / 4))
    assert (found.n, found.missing) == (2, 2)
    assert found.low < found.value < found.high


def test_difference_pairs_cells_and_relative_reduction_is_of_the_base():
    base, values = {"a": [0.8, 0.4], "b": [0.2, None]}, {"b": [0.1, 0.9], "a": [0.4, 0.2]}
    assert stats.difference(base, values).value == pytest.approx((0.4 + 0.2 + 0.1) / 3)
    assert stats.relative_reduction(base, values).value == pytest.approx(1 - 0.7 / 1.4)
    assert stats.relative_reduction({"a": [0.0], "b": [0.0]}, {"a": [0.0], "b": [0.0]}).value is None
    with pytest.raises(UserError, match=r"same prompts.*'c'"):
        stats.difference(base, values | {"c": [1.0]})


def test_decreasing_transformations_keep_low_under_high():
    rng = np.random.default_rng(0)
    base = {str(p): [0.5 + rng.random() / 2] for p in range(30)}
    found = stats.relative_reduction(base, {p: [rng.random() / 2] for p in base})
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (None, None, None)),
        ({"a": [None]}, (None, None, None)),
        ({"a": [0.25, 0.75]}, (0.5, None, None)),
        ({"a": [0.5], "b": [0.5], "c": [0.5]}, (0.5, 0.5, 0.5)),
        ({"a": [float("nan")], "b": [0.5]}, (0.5, None, None)),
    ],
)
def test_degenerate_values_give_none_or_equal_bounds_never_nan(values, expected):
    found = stats.mean(values)
    assert (found.value, found.low, found.high) == expected


@given(grids, st.randoms())
@settings(max_examples=60, deadline=None)
def test_intervals_hold_their_value_and_do_not_depend_on_order(grid, random):
    found = stats.mean(grid)
    shuffled = {p: random.sample(grid[p], len(grid[p])) for p in random.sample(sorted(grid), len(grid))}
    assert stats.mean(shuffled) == found
    if found.low is not None:
        assert 0 <= found.low <= found.high <= 1
        assert all(map(math.isfinite, (found.value, found.low, found.high)))


def test_intervals_do_not_read_numpys_global_generator():
    grid = {str(p): [p % 7 / 7] for p in range(40)}
    np.random.seed(1)
    first = stats.mean(grid)
    np.random.seed(2)
    assert stats.mean(grid) == first


def test_resampled_weights_draw_every_cluster_as_often_and_sum_to_the_clusters():
    weights = np.array(list(stats.resample(lambda w: w, 50)))
    assert (weights.sum(1) == 50).all()
    assert np.allclose(weights.mean(0), 1, atol=0.1)


def test_weights_are_the_same_numbers_however_many_are_kept(monkeypatch):
    """Against one call of the generator for all: kept as numbers, kept as bytes, and drawn anew in blocks."""
    drawn = np.random.default_rng(stats.SEED).integers(0, 300, (stats.RESAMPLES, 300))
    plain = np.array([np.bincount(row, minlength=300) for row in drawn], dtype=float)
    assert np.array_equal(stats.resample(lambda w: w, 300), plain)
    monkeypatch.setattr(intervals, "SMALL", 0)
    assert np.array_equal(stats.resample(lambda w: w, 300), plain)
    monkeypatch.setattr(intervals, "KEPT", 0)
    monkeypatch.setattr(intervals, "BLOCK", 1000)
    assert np.array_equal(stats.resample(lambda w: w, 300), plain)


def test_weights_of_many_prompts_are_kept_as_bytes_and_statistics_see_few_at_once():
    """5 million weights would be 41 MB of numbers."""
    seen = []
    stats.resample(lambda weights: seen.append(weights.nbytes) or weights[:, 0], 2560)
    assert sum(seen) == 2560 * stats.RESAMPLES * 8
    assert max(seen) <= 8 * intervals.CACHE


@given(grids)
@settings(max_examples=60, deadline=None)
def test_a_mean_is_of_each_prompt_s_sum_whether_or_not_all_have_as_many_values(grid):
    known = [[value for value in row if value is not None] for row in grid.values()]
    (sums, counts), _ = intervals._sums([grid, {p: [1.0] * len(row) for p, row in grid.items()}])
    by_prompt = [math.fsum(row) for _, row in sorted(zip(grid, known, strict=True)) if row]
    assert sums.tolist() == pytest.approx(by_prompt, rel=1e-15)
    assert counts.tolist() == [len(row) for _, row in sorted(zip(grid, known, strict=True)) if row]


def test_intervals_of_a_skewed_rate_cover_it():
    """Beta(0.3, 3) prompts, eight draws: the bulk safe, a few toxic, as real prompts are."""
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(400):
        draws = rng.binomial(8, rng.beta(0.3, 3, 128)) / 8
        found = stats.mean({str(p): [v] for p, v in enumerate(draws)})
        hits.append(found.low <= 0.3 / 3.3 <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.98


def test_hierarchical_pairs_prompts_and_leaves_out_those_that_lack_a_value():
    hard = {str(p): float(p) for p in range(20)}
    easier = [{p: v - 1 for p, v in hard.items()} | {"x": 0.0}]
    found = stats.hierarchical([hard | {"x": None}], easier)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    assert (found.n, found.missing) == (20, 1)
    wide = stats.hierarchical([hard])
    assert wide.high - wide.low > 3


def test_hierarchical_refuses_other_prompts_and_no_seeds():
    with pytest.raises(UserError, match="same prompts"):
        stats.hierarchical([{"a": 1.0}], [{"b": 1.0}])
    with pytest.raises(UserError, match="same prompts"):
        stats.compare({"a": np.ones((2, 3)), "b": np.ones((2, 4))})
    with pytest.raises(UserError, match="without seeds"):
        stats.hierarchical([])
    assert stats.hierarchical([{"a": 1.0}]).low is None
    assert stats.hierarchical([{"a": None}]).value is None


def test_means_estimated_together_are_those_estimated_one_by_one():
    """Seeds by prompt, arrays of the same, prompts that lack a value, one prompt, and none."""
    rng = np.random.default_rng(4)
    tables = [rng.gamma(0.3, size=(seeds, prompts)) for seeds, prompts in ((3, 40), (2, 40), (1, 9), (3, 1))]
    tables.append(np.where(np.arange(40) % 7, tables[0] ** 2, np.nan))
    named = [[{f"{p:02}": value for p, value in enumerate(seed)} for seed in table] for table in tables]
    together = stats.each_hierarchical([*tables, *named, [{"a": None}]])
    for found, again, one in zip(together, together[len(tables) :], named, strict=False):
        alone = stats.hierarchical(one)
        assert [found.n, found.missing, again.n, again.missing] == 2 * [alone.n, alone.missing]
        bounds = [alone.value, alone.low, alone.high]
        assert [found.value, found.low, found.high] == pytest.approx(bounds)
        assert [again.value, again.low, again.high] == pytest.approx(bounds)
    assert together[-1] == Estimate(None, None, None, 0, 1)
    assert together[4].missing == 6


def test_bounds_do_not_depend_on_the_last_bit_of_draws_that_tie_with_the_mean():
    """Of thirds many resamples have the mean itself, up to rounding, which is another where other rows are estimated too."""
    rng = np.random.default_rng(6)
    for n in (20, 64):
        table, others = rng.binomial(3, 0.3, size=(1, n)) / 3, [rng.normal(size=(1, n)) for _ in range(9)]
        alone, *beside = stats.each_hierarchical([table])[0], stats.each_hierarchical([table, *others])[0]
        whole = stats.each_hierarchical([table * 3])[0]
        for found, unit in [(one, 1) for one in beside] + [(whole, 3)]:
            assert [found.low / unit, found.high / unit] == pytest.approx([alone.low, alone.high], rel=1e-6)


def test_a_gain_between_shares_that_do_not_vary_has_an_interval():
    none, every = (Estimate(value, low, high, 20) for value, low, high in ((0.0, 0.0, 0.168), (1.0, 0.832, 1.0)))
    half = Estimate(0.5, 0.5, 0.5, 20)  # what a base wins against itself
    room = 1 - 0.025 ** (1 / 20)
    for gain, levels, bounds in (
        (0.0, [none, none], (-room, room)),
        (1.0, [every, none], (1 - room, 1.0)),
        (-1.0, [none, every], (-1.0, room - 1)),
        (0.5, [every, half], (0.5 - room, 0.5)),
        (-0.5, [none, half], (-0.5, room - 0.5)),
        (0.5, [half, none], (0.5 - room, 0.5)),
        (0.0, [replace(none, value=0.4), replace(none, value=0.4)], (0.0, 0.0)),  # the same answers
    ):
        found = stats.exact_gain(Estimate(gain, gain, gain, 20), levels)
        assert (found.low, found.high) == pytest.approx(bounds)
    varies = Estimate(0.4, 0.3, 0.5, 20)
    assert stats.exact_gain(varies, [every, replace(half, value=0.6)]) == varies


@pytest.mark.parametrize("prompts", [2, 4, 8, 29])
def test_of_few_prompts_p_is_never_below_that_of_a_paired_t(prompts: int):
    """Their resamples end where these do. Of one seed, and of seeds that do not differ."""
    gaps = 2 + np.random.default_rng(prompts).normal(size=prompts)
    for seeds in (1, 3):
        found = stats.compare({"a": np.tile(gaps, (seeds, 1)), "b": np.zeros((seeds, prompts))})["a", "b"]
        assert found.p >= ttest_1samp(gaps, 0).pvalue * (1 - 1e-9)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(3, 64))

    def width(shift):
        tables = rows + np.array([[-shift], [0], [shift]])
        found = stats.hierarchical([{str(p): v for p, v in enumerate(row)} for row in tables])
        return found.high - found.low

    assert width(1.0) > 3 * width(0.0)


def test_jackknife_of_a_mean_has_the_classical_standard_error():
    data = np.random.default_rng(6).normal(size=20)
    (found,) = stats.jackknife(lambda kept: [data[kept].mean()], 20)
    assert found.value == pytest.approx(data.mean())
    assert (found.high - found.value) / 2.093 == pytest.approx(data.std(ddof=1) / math.sqrt(20), rel=1e-3)


def test_jackknife_of_what_cannot_be_said_has_no_bounds():
    (found,) = stats.jackknife(lambda kept: [math.nan], 10)
    assert (found.value, found.low, found.high) == (None, None, None)
    (found,) = stats.jackknife(lambda kept: [1.0], 2)
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_jackknife_holds_distinct_n_where_a_bootstrap_misses_it():
    words = np.random.default_rng(7).zipf(1.5, (60, 10)).clip(max=300)

    def distinct(kept):
        return [len(np.unique(words[kept])) / words[kept].size]

    (found,) = stats.jackknife(distinct, 60)
    rng = np.random.default_rng(8)
    naive = [distinct(rng.integers(0, 60, 60))[0] for _ in range(200)]
    assert found.low < found.value < found.high
    assert np.quantile(naive, 0.975) < found.value


def seeds_of(table):
    return [{f"p{i:03d}": v for i, v in enumerate(row)} for row in table]


def test_the_variance_of_a_mean_over_seeds_is_that_of_their_means_and_of_what_prompts_share():
    """Worked by hand: rows 0 2 4 and 2 4 6 differ by 2 throughout, so the rest is 0. Var(seeds' means) / 2 = 2 / 2 = 1; the
    prompts' means 1, 3, 5 have variance 4, of a mean 4 / 3. The seeds' share is 3/7. Degrees of freedom: 1 / (4/7 / 2 +
    sqrt(3/7)) = 1.0634, strict 1 / (4/7 / 2 + (3/7)^(1/9)) = .8362, as one variance is all."""
    part = stats.parts_of(np.array([1.0, 3.0, 5.0]), [np.array([[0.0, 2, 4], [2, 4, 6]])])
    assert (part.value, part.seeds, part.prompts) == pytest.approx((3, 1, 4 / 3))
    assert (part.freedom, part.strict) == pytest.approx((1 / (2 / 7 + (3 / 7) ** 0.5), 1 / (2 / 7 + (3 / 7) ** (1 / 9))))
    # a rest of variance 2 (rows 1 -1 and -1 1: squares 4 over 1 degree of freedom is 4; of a mean 4 / 4 = 1) leaves
    # nothing of the variance 0 of the prompts' means: not less than nothing; seeds that tie have that noise none the less
    part = stats.parts_of(np.array([0.0, 0.0]), [np.array([[1.0, -1], [-1, 1]])])
    assert (part.seeds, part.prompts, part.error) == (1, 0, 1)


def test_one_seed_of_a_method_has_the_interval_of_its_prompts():
    values = {str(p): v for p, v in enumerate(np.random.default_rng(1).beta(0.3, 3, 200))}
    plain, found = stats.mean({p: [v] for p, v in values.items()}), stats.hierarchical([values])
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=5e-4)


@pytest.fixture
def methods():
    rng = np.random.default_rng(12)
    hard = rng.gamma(0.5, 0.2, 60)
    return {
        name: seeds_of(hard * share + 0.02 * rng.normal(size=(seeds, 60)) + 0.01 * rng.normal(size=(seeds, 1)))
        for name, share, seeds in (("a", 0.3, 3), ("b", 0.35, 3), ("c", 0.7, 1), ("d", 1.0, 2))
    }


def test_comparing_many_at_once_is_comparing_two(methods):
    found = stats.compare(methods)
    assert list(found) == list(itertools.combinations("abcd", 2))
    for (a, b), c in found.items():
        alone = stats.hierarchical(methods[a], methods[b])
        assert (c.value, c.low, c.high) == pytest.approx((alone.value, alone.low, alone.high))
        assert (c.low > 0 or c.high < 0) >= (c.p < 0.05), "p < .05 is an interval without 0"
        back = stats.compare(methods, [(b, a)])[b, a]
        assert (back.value, back.error) == pytest.approx((-c.value, c.error))
    assert [c.p_holm for c in found.values()] == stats.holm([c.p for c in found.values()])
    assert found["a", "c"].resolved
    assert not found["a", "b"].resolved


def test_comparisons_change_neither_with_order_nor_with_other_methods(methods):
    few = stats.compare({"d": methods["d"], "a": methods["a"][::-1]})["d", "a"]
    many = stats.compare(methods, [("a", "b"), ("d", "a")])["d", "a"]
    assert (few.value, few.low, few.p) == pytest.approx((many.value, many.low, many.p))


def test_a_comparison_is_on_the_prompts_that_both_have():
    first = {str(p): float(p % 3) for p in range(30)}
    lacking = [first | {"4": None, "7": None}]
    found = stats.compare({"whole": [first], "same": [dict(first)], "lacking": lacking})
    assert (found["whole", "lacking"].n, found["whole", "lacking"].missing) == (28, 2)
    same = found["whole", "same"]
    assert (same.n, same.missing, same.value, same.p, same.resolved) == (30, 0, 0, 1, False)


def test_of_many_methods_one_that_is_far_off_is_told_apart_from_all():
    """325 pairs: of 10,000 resamples no p would be small enough for Holm's first step."""
    rng = np.random.default_rng(3)
    hard = rng.random(64)
    levels = {f"m{i}": 0.0 for i in range(25)} | {"far": 1.0}
    names = [str(p) for p in range(64)]
    found = stats.compare(
        {
            m: [dict(zip(names, hard + at + 0.05 * rng.normal(size=64), strict=True)) for _ in range(3)]
            for m, at in levels.items()
        }
    )
    assert {pair for pair, c in found.items() if c.resolved} == {pair for pair in found if "far" in pair}


def test_what_is_found_of_two_methods_does_not_depend_on_how_many_others_there_are():
    rng = np.random.default_rng(9)
    methods = {f"m{i:02}": seeds_of(0.1 * rng.normal() + 0.2 * rng.normal(size=(3, 60))) for i in range(11)}
    ten = {name: seeds for name, seeds in methods.items() if name != "m10"}
    before, joined = stats.compare(ten), stats.compare(methods)
    for pair, c in before.items():
        assert (joined[pair].low, joined[pair].error) == pytest.approx((c.low, c.error), abs=5e-3)
        assert joined[pair].p == pytest.approx(c.p, abs=0.02), "but for the resamples"
    holms = stats.holm([c.p for c in joined.values()])
    assert [c.p_holm for c in joined.values()] == holms


def test_seeds_whose_means_tie_by_chance_leave_the_noise_of_their_answers():
    """One refusal of 256 in each of three seeds, on other prompts, against none: 3 of 768, for which Fisher's p is .25."""
    rare = [{str(i): float(i == seed) for i in range(256)} for seed in range(3)]
    never = [{str(i): 0.0 for i in range(256)}] * 3
    found = stats.compare({"rare": rare, "never": never})["rare", "never"]
    assert found.value == 1 / 256
    assert found.low < 0 < found.high
    assert found.p > 0.1
    row = stats.hierarchical(rare)
    assert row.low < row.value < row.high
    same = stats.compare({"a": rare[:1] * 3, "b": never})["a", "b"]
    assert same.error > 0, "of its prompts alone"


def test_p_is_never_0_and_missing_where_there_is_nothing_to_resample():
    one, two = {"a": 1.0, "b": 2.0, "c": 1.5}, {"a": 0.0, "b": 1.0, "c": 0.5}
    found = stats.compare({"one": [one], "two": [two]})["one", "two"]
    assert (found.value, found.p) == (1, 0.25), "of three prompts all differ the same way by chance in two of eight"
    many = [{str(i): value for i in range(20)} for value in (1.0, 0.0)]
    assert stats.compare({"one": many[:1], "two": many[1:]})["one", "two"].p == 2 / (comparisons.PAIRED + 1)
    found = stats.compare({"one": [{"a": 1.0}], "two": [{"a": None}], "three": [{"a": 0.0}]})
    assert found["one", "three"].value == 1
    assert found["one", "two"].value is None
    assert [c.p_holm for c in found.values()] == [None] * 3
    assert stats.resolvable(found.values()) is None


def test_holm_multiplies_by_the_pairs_that_are_left_and_never_falls():
    # sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04: the last may not be below the one before
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]) == [1, 1]
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p_values):
    adjusted = stats.holm(p_values)
    assert all(p <= a <= min(1, len(p_values) * p) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))
    for (p, a), (q, b) in itertools.permutations(zip(p_values, adjusted, strict=True), 2):
        assert p > q or a <= b


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_and_hochberg_s_correction_is_scipys(p_values):
    own = stats.benjamini_hochberg(p_values)
    assert own == pytest.approx(false_discovery_control(p_values).tolist())
    assert all(p <= fdr <= holm + 1e-12 for p, fdr, holm in zip(p_values, own, stats.holm(p_values), strict=True))


def test_ranks_span_from_those_shown_to_be_better_to_those_shown_to_be_worse():
    resolved = {"ac", "ad", "bd", "ae", "be", "ce", "de"}  # neither b from c, nor c from d, nor a from b
    spans = {"a": (1, 2), "b": (1, 3), "c": (2, 4), "d": (3, 4), "e": (5, 5)}
    assert stats.ranks("abcde", lambda x, y: x + y in resolved) == spans
    assert stats.ranks("abcde", lambda x, y: x + y in resolved | {"cd"}) == spans | {"c": (2, 3), "d": (4, 4)}
    assert stats.ranks("abc", lambda x, y: x < y) == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}
    assert stats.ranks("abc", lambda x, y: False) == {"a": (1, 3), "b": (1, 3), "c": (1, 3)}
    assert stats.ranks("", lambda x, y: True) == {}


@given(st.lists(st.integers(0, 5), max_size=6), st.data())
def test_where_no_pair_is_told_apart_wrongly_each_true_rank_lies_in_its_span(values, data):
    names = [str(i) for i in range(len(values))]
    found = {
        (x, y): values[int(x)] > values[int(y)] and data.draw(st.booleans()) for x, y in itertools.permutations(names, 2)
    }  # no pair is told apart wrongly
    spans = stats.ranks(names, lambda x, y: found[x, y])
    for name, (first, last) in spans.items():
        above = sum(value > values[int(name)] for value in values)
        assert first <= 1 + above <= last


def test_the_smallest_resolvable_difference_is_found_with_84_percent_if_errors_are_known():
    # three pairs: level 1 - .05 / 6 = .99167; with many degrees of freedom 2.394 + .9945 = 3.3885 standard errors of .01
    pairs = [stats.Comparison(0.0, 0.0, 0.0, 1.0, 1.0, 9, 0, 0.01, 1e9)] * 3
    assert stats.resolvable(pairs) == pytest.approx(0.01 * 3.3885, rel=1e-3)
    # few degrees of freedom: a noncentral t lies above t(.975, 4) = 2.776 in 84%
    found = stats.resolvable([stats.Comparison(0.0, 0.0, 0.0, 1.0, 1.0, 9, 0, 0.1, 4.0)])
    assert nct.sf(2.7764, 4, found / 0.1) == pytest.approx(0.84, abs=1e-3)
    # of unequal pairs on average
    errors = (0.005, 0.01, 0.03)
    found = stats.resolvable([stats.Comparison(0.0, 0.0, 0.0, 1.0, 1.0, 9, 0, error, 9.0) for error in errors])
    least = nct.isf(0.05 / 6, 9, 0)
    assert np.mean([nct.sf(least, 9, found / error) for error in errors]) == pytest.approx(0.84, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_resolvable_difference_is_that_of_a_search_among_all_pairs(seed: int) -> None:
    """`resolvable` asks only some pairs where to begin, and none whose power is 1: the difference is the same to the bit."""
    rng = np.random.default_rng(seed)
    error = rng.gamma([0.3, 9][seed % 2], size=200) + 1e-9
    freedom = np.concatenate([rng.uniform(1, 3, 100), rng.uniform(3, 300, 100)])
    least = stdtrit(freedom, 1 - 0.05 / (2 * 200))
    each = nctdtrinc(freedom, 1 - NOMINAL, least) * error
    low, high = each.min(), each.max()
    for _ in range(HALVINGS):
        power = 1 - np.nan_to_num(nctdtr(freedom, (low + high) / 2 / error, least)).mean()
        low, high = ((low + high) / 2, high) if power < NOMINAL else (low, (low + high) / 2)
    both = zip(error.tolist(), freedom.tolist(), strict=True)
    pairs = [stats.Comparison(0.0, 0.0, 0.0, 1.0, 1.0, 9, 0, *pair) for pair in both]
    assert stats.resolvable(pairs) == (low + high) / 2


@pytest.mark.parametrize(("n", "bound"), [(1, 0.975), (10, 0.3085), (256, 0.0143)])
def test_of_a_share_that_was_never_or_always_seen_the_interval_is_exact(n: int, bound: float) -> None:
    """Clopper and Pearson's for 0 of 10: 30.85%, as in their table; scipy's by the beta distribution."""
    never = stats.exact_ends(Estimate(0.0, 0.0, 0.0, n, 2))
    assert (never.value, never.low, never.missing) == (0, 0, 2)
    assert never.high == pytest.approx(bound, abs=5e-5)
    assert never.high == pytest.approx(binomtest(0, n).proportion_ci(0.95, "exact").high)
    always = stats.exact_ends(Estimate(1.0, 1.0, 1.0, n))
    assert (always.low, always.high) == pytest.approx((1 - never.high, 1))
    for other in (Estimate(0.5, 0.5, 0.5, n), Estimate(0.0, -0.1, 0.1, n), Estimate(None, None, None, 0)):
        assert stats.exact_ends(other) == other


# runs of two methods on two tasks; in the tests is what rliable 1.2.0 says of them (50,000 and 20,000 resamples), which
# can't be imported beside pandas 3 (by way of arch 7.2)
FIRST = [np.array([0.9, 0.8, 0.85]), np.array([0.5, 0.7, 0.6])]
SECOND = [np.array([0.7, 0.86, 0.8]), np.array([0.55, 0.4, 0.65])]


def test_the_interquartile_mean_is_rliables():
    # sorted .5 .6 .7 .8 .85 .9: a quarter of six is one and a half, cut to one at either end
    assert stats.iqm(FIRST) == pytest.approx((0.6 + 0.7 + 0.8 + 0.85) / 4)
    assert stats.iqm(FIRST) == pytest.approx(0.7375)
    assert stats.iqm(SECOND) == pytest.approx(0.675)
    found = stats.stratified(stats.iqm, FIRST)
    assert (found.low, found.high) == pytest.approx((0.675, 0.7875), abs=0.013)
    assert found.n == 6


def test_tasks_with_more_runs_have_no_more_weight_in_the_interquartile_mean():
    # .1 .2 .3 and three times .9: without the ends .2 .3 .9 .9
    assert stats.iqm([np.array([0.1, 0.2, 0.3]), np.array([0.9])]) == pytest.approx(2.3 / 4)


def test_the_probability_of_improvement_is_rliables():
    # of 9 pairs on the first task .9 wins three, .85 two, .8 one and ties one: 6.5. On the second .5 wins one, .7 three, .6
    # two: 6
    assert stats.improvement(FIRST, SECOND) == pytest.approx(12.5 / 18)
    assert stats.improvement(FIRST, SECOND) == pytest.approx(0.6944444444)
    u = [mannwhitneyu(x, y).statistic / 9 for x, y in zip(FIRST, SECOND, strict=True)]
    assert stats.improvement(FIRST, SECOND) == pytest.approx(np.mean(u))
    assert stats.improvement(FIRST, FIRST) == 0.5
    found = stats.stratified(stats.improvement, FIRST, SECOND)
    assert (found.low, found.high) == pytest.approx((1 / 3, 0.9722), abs=0.03)


def test_resampled_prompts_widen_what_runs_alone_would_claim():
    rng = np.random.default_rng(3)
    noisy = [task + 0.1 * rng.normal(size=(stats.RESAMPLES, 1)) for task in FIRST]
    alone, found = stats.stratified(stats.iqm, FIRST), stats.stratified(stats.iqm, FIRST, drawn=[noisy])
    assert found.value == alone.value
    assert found.high - found.low > 1.3 * (alone.high - alone.low)


def test_differences_that_are_the_same_but_for_rounding_have_equal_bounds() -> None:
    first = {f"p{i}": 0.1 + 0.1 * i for i in range(40)}
    second = {prompt: value - 0.3 for prompt, value in first.items()}
    for seeds in (1, 3):
        found = stats.compare({"a": [first] * seeds, "b": [second] * seeds})["a", "b"]
        assert found.low == found.value == found.high == pytest.approx(0.3)
    assert stats.hierarchical([{str(i): 0.3 for i in range(128)}] * 3).high == pytest.approx(0.3)
