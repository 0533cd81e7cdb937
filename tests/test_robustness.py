"""Robustness: small cases by hand, scipy's rank correlations, and coverage in simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.stats.robustness import _drawn, kendall, robustness, spearman


def seeds(*rows):
    """A row a seed, a value a prompt."""
    return [{f"p{i:03d}": value for i, value in enumerate(row)} for row in rows]


def flat(**means):
    """Methods with the same value on all of four prompts."""
    return {name: seeds([mean] * 4) for name, mean in means.items()}


def simulated(means, prompts, runs, rng, spread=0.01, rest=0.1):
    """Scores of [values, methods] true means: hard and easy prompts, what method and value make of each, seeds, and chance."""
    shape = means.shape
    prompt = rng.gamma(0.5, 0.2, prompts)
    own = rng.normal(0, 0.1, (*shape, prompts)) + rng.normal(0, 0.1, (1, shape[1], prompts))
    seed = rng.normal(0, spread, (*shape, runs, 1)) * (runs > 1)
    cells = means[..., None, None] + prompt + own[:, :, None] + seed + rng.normal(0, rest, (*shape, runs, prompts))
    return {v / 10: {f"m{m}": seeds(*cells[v, m]) for m in range(shape[1])} for v in range(shape[0])}


def test_three_methods_by_hand():
    """Ranks 1 2 3 become 2 1 3: Spearman 1 - 6 (1 + 1 + 0) / (3 x 8) = .5, Kendall (2 - 1) / 3. Then 3 2 1: -1 and -1."""
    found = robustness({0.0: flat(a=1, b=2, c=3), 0.1: flat(a=2, b=1, c=5), 0.2: flat(c=0, b=0.5, a=4)})
    assert {name: s.rank.value for name, s in found.standings[0.1].items()} == {"b": 1, "a": 2, "c": 3}
    assert list(found.standings[0.2]) == ["c", "b", "a"], "best first"
    assert found.standings[0.1]["a"].mean.value == 2
    assert list(found.stability) == [0.1, 0.2]
    assert found.stability[0.1].spearman.value == pytest.approx(0.5)
    assert found.stability[0.1].kendall.value == pytest.approx(1 / 3)
    assert found.stability[0.2].spearman.value == pytest.approx(-1)
    assert (found.stability[0.2].kendall.n, found.stability[0.2].left_out) == (3, [])
    assert (found.prompts, found.missing) == (4, 0)
    # offsets -.1, 0, .1 over .02: a (4 - 1) / .2, b (.5 - 2) / .2, c (0 - 3) / .2
    assert {name: slope.value for name, slope in found.slopes.items()} == pytest.approx({"a": 15, "b": -7.5, "c": -15})
    assert (found.slopes["a"].low, found.slopes["a"].high) == pytest.approx((15, 15)), "all prompts alike"


def test_a_slope_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    at, means = [0.0, 0.1, 0.4], rng.normal(size=(3, 2, 5))
    found = robustness({x: {"a": seeds(*rows)} for x, rows in zip(at, means, strict=True)})
    assert found.slopes["a"].value == pytest.approx(np.polyfit(at, means.mean((1, 2)), 1)[0])
    assert found.slopes["a"].low < found.slopes["a"].value < found.slopes["a"].high


def test_means_and_their_intervals_are_those_of_the_board():
    rng = np.random.default_rng(1)
    axis = simulated(np.array([[0.1, 0.2], [0.3, 0.2]]), 40, 3, rng)
    found = robustness(axis)
    for value, methods in axis.items():
        for name, scores in methods.items():
            assert found.standings[value][name].mean == stats.hierarchical(scores)


def test_two_axis_values_are_a_comparison():
    axis = simulated(np.array([[0.1], [0.3]]), 60, 3, np.random.default_rng(2))
    slope, apart = robustness(axis).slopes["m0"], stats.hierarchical(axis[0.1]["m0"], axis[0.0]["m0"])
    assert slope.value == pytest.approx(apart.value / 0.1)
    # 2,000 resamples here, 10,000 there
    assert (slope.low, slope.high) == pytest.approx((apart.low / 0.1, apart.high / 0.1), rel=0.03)


@given(st.integers(0, 10_000), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_correlations_are_scipys_with_ties_and_without(seed, size):
    x, y = np.random.default_rng(seed).integers(0, 5, (2, 3, size)).astype(float)
    with np.errstate(all="ignore"):
        for row, rho, tau in zip(zip(x, y, strict=True), spearman(x, y), kendall(x, y), strict=True):
            constant = any(np.ptp(values) == 0 for values in row)
            if constant:
                assert math.isnan(rho)
                assert math.isnan(tau)
            else:
                assert (rho, tau) == pytest.approx((spearmanr(*row).statistic, kendalltau(*row).statistic))


def test_equal_means_share_a_rank_whatever_the_number_of_seeds():
    scores = [0.64, 0.27, 0.04, 0.02, 0.81, 0.91, 0.61]
    assert np.mean(scores) != np.mean([scores] * 3), "by rounding"
    found = robustness({0: {"a": seeds(scores), "b": seeds(*[scores] * 3), "c": seeds([9] * 7)}, 1: {}})
    assert [s.rank.value for s in found.standings[0].values()] == [1.5, 1.5, 3]


def test_a_method_that_is_missing_somewhere_is_named_and_left_out_there_only():
    axis = {
        0.0: flat(a=1, b=2, c=3, d=4),
        0.1: flat(a=1, b=2, c=3) | {"d": []},
        0.2: flat(d=1, c=2, b=3) | {"a": seeds([None] * 4)},
        0.3: flat(e=1),
    }
    found = robustness(axis)
    assert found.stability[0.1].left_out == ["d"]
    assert (found.stability[0.1].spearman.value, found.stability[0.1].spearman.n) == (1, 3)
    assert found.stability[0.2].left_out == ["a"]
    assert found.stability[0.2].kendall.value == pytest.approx(-1)
    assert found.stability[0.3].left_out == ["a", "b", "c", "d", "e"]
    assert (found.stability[0.3].spearman.value, found.stability[0.3].spearman.n) == (None, 0)
    assert list(found.standings[0.2]) == ["d", "c", "b"]
    assert found.slopes["d"].value == pytest.approx((1 - 4) / 0.2), "from the two values that it has"
    assert found.slopes["e"].value is None
    assert found.missing == 0


def test_prompts_that_lack_a_value_anywhere_are_left_out_everywhere():
    axis = {
        0: {"a": seeds([1, 9, 3, 5]), "b": seeds([2, 2, 2, 2])},
        1: {"a": seeds([1, None, 3, 5]), "b": seeds([0, 0, 0, 0])},
    }
    found = robustness(axis)
    assert (found.prompts, found.missing) == (3, 1)
    assert found.standings[0]["a"].mean.value == 3
    assert found.standings[0]["a"].mean.n == 3


def test_what_cannot_be_said_is_none():
    found = robustness({0: flat(a=1, b=1), 1: flat(a=1, b=2)})
    assert found.stability[1].spearman.value is None, "all equal at the first value"
    found = robustness({0: flat(a=1), 1: flat(a=2)})
    assert (found.stability[1].kendall.value, found.stability[1].kendall.n) == (None, 1)
    one = robustness({0: {"a": seeds([1]), "b": seeds([2])}, 1: {"a": seeds([1]), "b": seeds([3])}})
    assert (one.stability[1].spearman.value, one.stability[1].spearman.low) == (1, None)
    assert (one.slopes["b"].value, one.slopes["b"].low) == (1, None)
    nothing = robustness({0: {"a": seeds([None, None])}, 1: {}})
    assert (nothing.prompts, nothing.missing, nothing.slopes, nothing.standings) == (0, 2, {}, {0: {}, 1: {}})


@pytest.mark.parametrize(
    ("axis", "told"),
    [
        ({0: flat(a=1)}, "two axis values or more, not 1"),
        ({0: flat(a=1), math.nan: flat(a=1)}, "axis value nan is not a finite number"),
        ({0: flat(a=1), 1: {"a": [{"other": 1.0}]}}, "same prompts"),
    ],
)
def test_bad_input_is_told_in_a_line(axis, told):
    with pytest.raises(UserError, match=told):
        robustness(axis)


def test_the_first_axis_value_in_the_order_given_is_what_others_are_held_to():
    means = np.array([[0.1, 0.2, 0.3], [0.1, 0.3, 0.2], [0.3, 0.2, 0.1]])
    axis = simulated(means, 200, 1, np.random.default_rng(3), rest=0.0)
    back = dict(reversed(axis.items()))
    assert list(robustness(back).stability) == [0.1, 0.0]
    assert robustness(back).stability[0.0].spearman.value == robustness(axis).stability[0.2].spearman.value == -1
    assert robustness(back).slopes["m0"].value == pytest.approx(robustness(axis).slopes["m0"].value)


def test_the_difficulty_that_prompts_have_for_all_methods_alike_leaves_ranks_certain():
    prompt = np.random.default_rng(4).gamma(0.5, 1, 50)
    axis = {
        x: {name: seeds(*[prompt + shift + x] * 2) for name, shift in (("a", 0.0), ("b", 0.01), ("c", 0.02))} for x in (0, 1)
    }
    found = robustness(axis)
    for standing in found.standings[1].values():
        assert (standing.rank.low, standing.rank.high) == (standing.rank.value, standing.rank.value)
        assert standing.mean.high - standing.mean.low > 0.1
    assert (found.stability[1].spearman.low, found.stability[1].spearman.high) == (1, 1)
    assert (found.slopes["a"].low, found.slopes["a"].high) == pytest.approx((1, 1), abs=1e-6)


def test_seeds_that_differ_make_ranks_uncertain():
    means = np.tile(np.linspace(0.1, 0.2, 5), (2, 1))
    calm, wild = (
        robustness(simulated(means, 400, 3, np.random.default_rng(6), spread=spread, rest=0.01)).stability[0.1].spearman
        for spread in (0.0, 0.1)
    )
    assert calm.high - calm.low < 0.3 < wild.high - wild.low


def test_two_seeds_fix_no_rank_where_methods_are_a_seed_apart():
    """Where two seeds agree by chance, a normal of their spread gave an interval of one rank."""
    rng = np.random.default_rng(3)
    means = np.tile(np.arange(6) * 0.03, (2, 1))
    found = [robustness(simulated(means, 64, 2, rng, spread=0.02, rest=0.05)) for _ in range(20)]
    spans = [(m, each.standings[v][f"m{m}"].rank) for each in found for v in (0.0, 0.1) for m in range(6)]
    assert not [span for _, span in spans if span.low == span.high]
    assert np.mean([span.low <= m + 1 <= span.high for m, span in spans]) >= 0.95


def test_resampled_means_spread_by_their_standard_errors():
    rng = np.random.default_rng(10)
    noisy, apart = rng.normal(0, 1, (3, 200)), rng.normal(0, 0.01, (3, 200)) + np.array([[-0.1], [0.0], [0.1]])
    tables = {(0.0, "noisy"): noisy, (0.0, "apart"): apart, (1.0, "alone"): noisy[:1]}
    for cell, drawn in _drawn(tables).items():
        part = stats.parts_of(tables[cell].mean(0), [tables[cell]])
        assert drawn.mean() == pytest.approx(part.value, abs=4 * part.error / np.sqrt(len(drawn)))
        assert drawn.std() == pytest.approx(part.error, rel=0.06)


def test_the_bounds_of_a_rank_correlation_are_equally_far_from_it_but_for_the_ends():
    rng = np.random.default_rng(11)
    ends = 0
    for turn in itertools.islice(itertools.cycle((1, -1)), 12):
        means = np.linspace(0, 0.08, 6) * np.array([[1], [turn]]) + np.array([[0], [0.04]]) * rng.choice([-1, 1], 6)
        stability = robustness(simulated(means, 64, 2, rng)).stability[0.1]
        for found in (stability.spearman, stability.kendall):
            assert -1 <= found.low <= found.value <= found.high <= 1
            if found.low > -1 and found.high < 1:
                assert found.high - found.value == pytest.approx(found.value - found.low)
            else:
                ends += 1
    assert 0 < ends < 24, "both happen"


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_intervals_hold_their_value_however_few_the_prompts(seed, methods, prompts):
    scores = np.random.default_rng(seed).integers(0, 3, (2, methods, 2, prompts)).astype(float)
    found = robustness({v: {f"m{m}": seeds(*row) for m, row in enumerate(rows)} for v, rows in enumerate(scores)})
    ranks = [standing.rank for standings in found.standings.values() for standing in standings.values()]
    for estimate in (*ranks, *found.slopes.values(), found.stability[1].spearman, found.stability[1].kendall):
        assert estimate.value is None or estimate.low <= estimate.value <= estimate.high


def test_intervals_cover_the_slopes_and_rank_correlations_of_the_true_means():
    rng = np.random.default_rng(7)
    slopes, correlations = [], []
    for _ in range(60):
        means = np.sort(rng.uniform(0, 0.15, 6)) + np.array([[0], [0.5], [1]]) * rng.uniform(-0.05, 0.05, 6)
        found = robustness(simulated(means, 128, 3, rng))
        rho = found.stability[0.2].spearman
        correlations.append(rho.low - 1e-9 <= spearmanr(means[0], means[2]).statistic <= rho.high + 1e-9)
        truth = np.polyfit([0, 0.1, 0.2], means, 1)[0]
        slopes += [found.slopes[f"m{m}"].low <= t <= found.slopes[f"m{m}"].high for m, t in enumerate(truth)]
    assert 0.92 <= np.mean(slopes) <= 0.99
    assert np.mean(correlations) >= 0.9


def test_the_same_scores_give_the_same_report_whatever_the_order_of_prompts():
    axis = simulated(np.array([[0.1, 0.2], [0.3, 0.2]]), 30, 2, np.random.default_rng(8))
    turned = {x: {m: [dict(reversed(s.items())) for s in runs] for m, runs in methods.items()} for x, methods in axis.items()}
    assert robustness(turned) == robustness(axis)
