"""Calibration and health of a reward model: worked by hand, brute force, scikit-learn, and what must not change them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from isoalign.core.records import Estimate, Flag, Rewards, Sample, ScoredPair
from isoalign.evaluation.metrics import ScoredSamples, calibration, reward_accuracy, reward_health

PAIR = ScoredPair("x", "p", "good", "bad", True, -5.0, -6.0, -5.0, -6.0, 2, 4)
margins_of_both_signs = st.lists(st.floats(-3, 3), min_size=3, max_size=30).filter(lambda d: min(d) < -0.1 and sum(d) > 0.1)


def scored(margins, validation=(), samples=((0.0,),), prompts=None) -> ScoredSamples:
    """Held-out and validation pairs with these margins; ``samples``: a row of rewards a prompt."""
    rows = [Sample(f"p{p}", d, "", "", [], None, None, None, False) for p, row in enumerate(samples) for d in range(len(row))]
    owners = prompts or [f"p{i}" for i in range(len(margins))]
    pairs = [replace(PAIR, pair_id=f"{i:04d}", prompt_id=p) for i, p in enumerate(owners)]
    flat = [reward for row in samples for reward in row]
    said = Rewards("annotator", True, flat, [(d + 1.0, 1.0) for d in margins], [(d, 0.0) for d in validation])
    return ScoredSamples(rows, "s", {"s": [0.0] * len(rows)}, pairs=pairs, rewards=said)


def noisy(rng, pairs: int, temperature: float) -> np.ndarray:
    """Margins in favour of verdicts that come true with probability sigmoid(margin / temperature)."""
    d = np.abs(rng.normal(size=pairs)) * 3
    return np.where(rng.random(pairs) < expit(d / temperature), d, -d)


# -- calibration -----------------------------------------------------------------------------------------------------


def test_figures_worked_by_hand():
    """Three pairs right and one wrong, all with |D| = log 3. NLL of sigmoid(b log 3) is least where it says .75: T = 1."""
    d = [math.log(3)] * 3 + [-math.log(3)]
    found = calibration.measure(scored(d, validation=d))
    assert found["rm_temperature"].value == pytest.approx(1, abs=1e-5)
    assert found["rm_brier"].value == pytest.approx((3 * 0.25**2 + 0.75**2) / 4, abs=1e-5)
    assert found["rm_nll"].value == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4, abs=1e-5)
    assert found["rm_ece"].value == pytest.approx(0, abs=1e-5)
    assert found["rm_ece"].low == 0
    bins = calibration.reliability(d)
    assert [b.count for b in bins] == [0, 0, 4, 0, 0, 0, 0, 4, 0, 0]  # each pair says .75 one way round, .25 the other
    assert (bins[2].right, bins[7].right) == (0.25, 0.75)
    assert bins[7].confidence == pytest.approx(0.75)
    assert (bins[0].low, bins[0].high, bins[0].confidence, bins[0].right) == (0, 0.1, None, None)


def test_overconfidence_is_measured_after_the_temperature_took_what_it_can():
    """Always right on validation pairs, wrong half of the time on held-out ones: as sure as the bound lets it be."""
    found = calibration.measure(scored([1.0, -1.0] * 4, validation=[1.0, 1.0, 1.0]))
    sure = expit(10.0)
    assert found["rm_temperature"].value == pytest.approx(0.1)
    assert found["rm_ece"].value == pytest.approx(sure - 0.5)
    assert found["rm_brier"].value == pytest.approx((sure**2 + (1 - sure) ** 2) / 2)
    assert (found["rm_ece"].n, found["rm_brier"].n, found["rm_temperature"].n) == (8, 8, 3)


@pytest.mark.parametrize(
    ("margins", "temperature"),
    [([2.0, 2.0], 0.2), ([1.0, 0.0], 0.1 / math.sqrt(2)), ([-3.0, 3.0], 300), ([-1.0, -1.0], 100), ([0.0, 0.0], 1), ([], 1)],
)
def test_the_temperature_stays_within_bounds_where_no_finite_one_is_best(margins, temperature):
    assert calibration.fit_temperature(margins) == pytest.approx(temperature)


@given(margins_of_both_signs)
@settings(deadline=None)
def test_no_temperature_on_a_fine_grid_is_better(margins):
    found = calibration.fit_temperature(margins)
    d = np.array(margins)
    scale = np.sqrt(np.square(d).mean())
    grid = scale * np.exp(np.linspace(math.log(0.1), math.log(100), 3000))
    best = np.logaddexp(0, -d[:, None] / grid).mean(0).min()
    assert calibration.nll(d / found).mean() <= best + 1e-9
    assert 0.1 * scale <= found <= 100 * scale


@given(st.integers(0, 1000), st.floats(0.5, 4))
@settings(deadline=None, max_examples=20)
def test_the_temperature_equals_unpenalised_logistic_regression(seed, temperature):
    d = noisy(np.random.default_rng(seed), 400, temperature)
    both, won = np.concatenate([d, -d]), np.repeat([1, 0], len(d))
    model = LogisticRegression(C=np.inf, fit_intercept=False, solver="newton-cholesky", tol=1e-9).fit(both[:, None], won)
    assert calibration.fit_temperature(d) == pytest.approx(1 / model.coef_[0, 0], rel=1e-4)


@given(st.lists(st.floats(-12, 12), min_size=1, max_size=40))
def test_brier_nll_and_reliability_equal_scikit_learns_on_pairs_taken_both_ways(margins):
    d = np.array(margins)
    probability, won = expit(np.concatenate([d, -d])), np.repeat([1, 0], len(d))
    assert calibration.brier(d).mean() == pytest.approx(brier_score_loss(won, probability))
    assert calibration.nll(d).mean() == pytest.approx(log_loss(won, np.column_stack([1 - probability, probability])), rel=1e-6)
    if not np.isclose(probability * 10, np.round(probability * 10)).any():  # at an edge of bins theirs are closed above
        right, said = calibration_curve(won, probability, n_bins=10)
        kept = [b for b in calibration.reliability(margins) if b.count]
        assert [b.right for b in kept] == pytest.approx(list(right))
        assert [b.confidence for b in kept] == pytest.approx(list(said))


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=30), st.randoms(), st.floats(0.01, 100))
@settings(deadline=None)
def test_order_and_the_unit_of_rewards_do_not_matter(margins, random, unit):
    shuffled = margins[:]
    random.shuffle(shuffled)
    assert calibration.expected_calibration_error(shuffled) == pytest.approx(calibration.expected_calibration_error(margins))
    first = calibration.fit_temperature(margins)
    assert calibration.fit_temperature(shuffled) == pytest.approx(first, rel=1e-4)
    if np.square(margins).sum() > 1e-6:
        assert calibration.fit_temperature([unit * d for d in margins]) == pytest.approx(unit * first, rel=1e-4)


def test_a_reliability_plot_is_its_own_mirror_image():
    bins = calibration.reliability(noisy(np.random.default_rng(3), 300, 1))
    assert sum(b.count for b in bins) == 600
    for one, other in zip(bins, reversed(bins), strict=True):
        assert one.count == other.count
        if one.confidence is not None:
            assert one.confidence + other.confidence == pytest.approx(1)
            assert one.right + other.right == pytest.approx(1)


def test_a_calibrated_reward_of_another_unit_is_found_calibrated():
    rng = np.random.default_rng(0)
    found = calibration.measure(scored(noisy(rng, 3000, 2.5).tolist(), noisy(rng, 3000, 2.5).tolist()))
    temperature = found["rm_temperature"]
    assert temperature.low < 2.5 < temperature.high
    assert temperature.value**2 == pytest.approx(temperature.low * temperature.high)
    assert temperature.high - temperature.low < 0.5
    assert found["rm_ece"].value < 0.02
    assert found["rm_brier"].low < found["rm_brier"].value < found["rm_brier"].high


def test_intervals_keep_pairs_of_a_prompt_together():
    margins, validation = [1.0 if i % 10 < 7 else -1.0 for i in range(200)], [1.0, 1.0, -1.0]
    together = calibration.measure(scored(margins, validation, prompts=[f"p{i % 10}" for i in range(200)]))
    apart = calibration.measure(scored(margins, validation))
    for name in ("rm_brier", "rm_nll", "rm_ece"):
        assert together[name].value == pytest.approx(apart[name].value), name
        assert together[name].high - together[name].low > 2 * (apart[name].high - apart[name].low), name


def test_without_reward_model_pairs_or_validation_pairs_there_is_no_calibration():
    whole = scored([1.0, -1.0], [1.0])
    assert set(calibration.measure(whole)) == {"rm_temperature", "rm_brier", "rm_nll", "rm_ece"}
    assert len(calibration.data(whole)["reliability"]) == 10
    for bare in (replace(whole, rewards=None), scored([1.0]), scored([], [1.0])):
        assert calibration.measure(bare) == calibration.values(bare) == {}
        assert calibration.data(bare) == {}


# -- health ----------------------------------------------------------------------------------------------------------


def test_health_worked_by_hand():
    found = reward_health.measure(scored([5.0, -4.6, 4.5, 0.0], samples=[(1.0, 3.0), (1.0, 3.0), (1.0, 3.0)]))
    assert (found["proxy_reward"].value, found["proxy_reward"].n) == (2, 3)
    assert (found["reward_spread"].value, found["reward_spread"].low) == (1, 1)  # every prompt has the same two
    assert (found["rm_saturated"].value, found["rm_saturated"].n) == (0.5, 4)  # log 99 = 4.595


def test_saturated_is_within_a_hundredth_of_sure():
    for margin in (4.59, 4.60, -4.59, -4.60):
        probability = expit(margin)
        assert reward_health.saturated(margin) == float(min(probability, 1 - probability) <= 0.01)


def test_the_interval_of_the_spread_covers_it():
    covered = 0
    for seed in range(100):
        rows = np.random.default_rng(seed).normal(size=(60, 1)).tolist()
        spread = reward_health.measure(scored([], samples=rows))["reward_spread"]
        covered += spread.low <= 1 <= spread.high
    assert 88 <= covered <= 100


def test_without_a_reward_model_there_is_no_health_and_nothing_to_warn_of():
    assert reward_health.measure(replace(scored([1.0]), rewards=None)) == {}
    assert "rm_saturated" not in reward_health.measure(scored([]))
    assert reward_health.warnings({}) == []


def test_a_reward_that_is_turned_around_is_told_from_one_that_is_merely_unsure():
    def told(margins: list[float]) -> list[str]:
        one = replace(scored(margins), pair_scores={"s": [(0.1, 0.6)] * len(margins)})  # toxicity: the chosen is the better
        return [line for line in reward_health.warnings(reward_accuracy.measure(one)) if "its sign" in line]

    assert told([1.0] * 24) == []
    assert len(told([-1.0] * 24)) == 1  # the head is negated
    assert told([1.0, -1.0, -1.0, 1.0] * 6) == []


def exactly(**values: float | None) -> dict[str, Estimate]:
    return {name: Estimate(v, v, v, 100) for name, v in values.items()}


SOUND = exactly(rm_accuracy=0.8, reward_spread=0.9, rm_saturated=0.1, rm_accuracy_on_policy=0.75)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"rm_accuracy": 0.65}, None),
        ({"rm_accuracy": 0.60}, "accuracy 0.600 is under 0.65: it is undertrained, or its verdicts are noisy"),
        ({"rm_accuracy": 0.95}, "accuracy 0.950 is over 0.9: it has seen these pairs, or they are trivial"),
        ({"reward_spread": 0.01}, "rewards of the samples spread by 0.01, under 0.05: it, or the policy, has collapsed"),
        (
            {"rm_saturated": 0.6},
            "60% of held-out pairs are saturated: its margins are too large to learn from or to trust",
        ),
        (
            {"rm_accuracy_on_policy": 0.5},
            "on-policy accuracy 0.500 on 100 prompts is under 0.6: it no longer orders this policy's samples",
        ),
        ({"rm_accuracy_on_policy": None}, None),
        ({"rm_agreement": 0.4}, None),
        (
            {"rm_agreement": 0.04},
            "it prefers the same answer as the evaluation scorer in only 4% of 100 held-out pairs: its sign may be wrong",
        ),
    ],
)
def test_each_warning_comes_with_its_reason(change, says):
    figures = SOUND | exactly(**change)
    assert reward_health.warnings(figures) == ([f"reward model: {says}"] if says else [])
    assert reward_health.flags(figures, None) == [Flag("warning", text) for text in reward_health.warnings(figures)]
