"""Intervals: numbers worked by hand, degenerate input, invariance, and coverage in simulation."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import stats
from bench.errors import UserError

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


def test_resampled_weights_draw_every_cluster_as_often_and_sum_to_the_clusters(monkeypatch):
    weights = np.array(list(stats.resample(lambda w: w, 50)))
    assert (weights.sum(1) == 50).all()
    assert np.allclose(weights.mean(0), 1, atol=0.1)
    monkeypatch.setattr(stats, "_BLOCK", 1000)  # in blocks, as thousands of prompts are
    assert stats.resample(lambda w: w.sum(1), 50).shape == (stats.RESAMPLES,)


def test_a_bootstrap_of_256_prompts_takes_milliseconds():
    grid = {str(p): list(np.linspace(0, p / 256, 8)) for p in range(256)}
    stats.mean(grid)  # draws the weights
    start = time.perf_counter()
    for _ in range(5):
        stats.mean(grid)
    assert (time.perf_counter() - start) / 5 < 0.05


def test_intervals_of_a_skewed_rate_cover_it():
    """Beta(0.3, 3) prompts, eight draws: the bulk safe, a few toxic, as real prompts are."""
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(400):
        draws = rng.binomial(8, rng.beta(0.3, 3, 128)) / 8
        found = stats.mean({str(p): [v] for p, v in enumerate(draws)})
        hits.append(found.low <= 0.3 / 3.3 <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_hierarchical_intervals_of_a_difference_cover_it_with_three_seeds(spread):
    """Also the A/A test: the same method under two names is told apart in about 5%."""
    rng = np.random.default_rng(4)

    def method(prompts):
        table = prompts + spread * rng.normal(size=(3, 1)) + rng.normal(size=(3, len(prompts)))
        return [{str(p): v for p, v in enumerate(row)} for row in table]

    hits = []
    for _ in range(300):
        prompts = 0.5 * rng.normal(size=64)
        found = stats.hierarchical(method(prompts), method(prompts))
        hits.append(found.low <= 0 <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.99


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
    with pytest.raises(UserError, match="no seeds"):
        stats.hierarchical([])
    assert stats.hierarchical([{"a": 1.0}]).low is None
    assert stats.hierarchical([{"a": None}]).value is None


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
