"""The panel: what is put in comes out again, by hand and in simulation of 20,000 items."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from isoalign.config.feedback import PanelConfig
from isoalign.config.fill import build_config
from isoalign.core.errors import UserError
from isoalign.feedback.annotators import panel_verdicts, utility
from isoalign.feedback.consensus import Items, vote

MANY = 20_000


def ids(count):
    return [f"item-{i}" for i in range(count)]


def panel(utilities, words=None, favoured=None, seed=0, names=None, noise=0.0, **config):
    utilities = np.asarray(utilities, dtype=float)
    words = np.zeros(utilities.shape) if words is None else np.asarray(words)
    favoured = np.zeros(len(utilities), dtype=bool) if favoured is None else favoured
    return panel_verdicts(utilities, words, favoured, names or ids(len(utilities)), PanelConfig(**config), seed, noise)


def equal(count=MANY):
    return np.zeros((count, 2))


def rows(verdicts, names):
    columns = (verdicts.item, verdicts.annotator, verdicts.first_wins, verdicts.shown_first)
    return {
        (names[item], annotator): (won, shown)
        for item, annotator, won, shown in zip(*(c.tolist() for c in columns), strict=True)
    }


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)).filter(lambda u: u[0] != u[1]), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_the_default_panel_is_one_annotator_who_always_finds_the_better_answer(utilities):
    verdicts = panel(utilities)
    assert verdicts.first_wins.tolist() == [first > second for first, second in utilities]
    assert verdicts.item.tolist() == list(range(len(utilities)))
    assert not verdicts.annotator.any()


def test_other_annotators_items_and_orders_change_no_verdict():
    rng = np.random.default_rng(1)
    utilities, names = rng.normal(size=(40, 2)), ids(40)
    config = {"noise": 0.3, "temperature": (1.0, 2.0), "position": 0.5, "expectation": 1.0}
    whole = rows(panel(utilities, annotators=7, **config), names)
    picked = rng.permutation(40)[:11]
    few = [names[i] for i in picked]
    part = rows(panel(utilities[picked], names=few, annotators=3, **config), few)
    assert len(part) == 33
    assert part == {key: whole[key] for key in part}
    assert rows(panel(utilities, annotators=7, seed=1, **config), names) != whole


def test_a_annotator_who_rates_a_part_says_of_it_what_it_would_say_of_all():
    utilities, names = np.random.default_rng(2).normal(size=(50, 2)), ids(50)
    config = {"annotators": 4, "noise": 0.2, "temperature": (1.0,)}
    whole, part = (rows(panel(utilities, coverage=share, **config), names) for share in (1.0, 0.3))
    assert len(part) == 4 * 15
    assert part == {key: whole[key] for key in part}


def test_chance_is_uniform_and_a_annotators_four_numbers_are_independent():
    from isoalign.feedback.annotators import hashed_uniforms

    uniforms = np.concatenate(
        [hashed_uniforms(0, "0", ids(MANY)), hashed_uniforms(0, "1", ids(MANY)), hashed_uniforms(1, "0", ids(MANY))], axis=1
    )
    counts = np.array([np.histogram(column, 10, (0, 1))[0] for column in uniforms.T])
    chi_square = (np.square(counts - MANY / 10) / (MANY / 10)).sum(1)
    assert chi_square.max() < 27.9, "the 99.9% point of chi-square with 9 degrees of freedom"
    off = np.corrcoef(uniforms.T) - np.eye(12)
    assert np.abs(off).max() < 4 / math.sqrt(MANY)
    assert 0 < uniforms.min() < uniforms.max() < 1


def test_noise_is_the_rate_of_wrong_verdicts():
    utilities = np.random.default_rng(3).normal(size=(MANY, 2))
    wrong = panel(utilities, noise=0.2).first_wins != (utilities[:, 0] > utilities[:, 1])
    assert wrong.mean() == pytest.approx(0.2, abs=0.01)  # 3.5 standard errors


def test_a_warm_annotator_prefers_by_bradley_and_terry_and_temperatures_go_round():
    verdicts = panel(np.tile([1.0, 0.0], (MANY, 1)), annotators=3, temperature=(1.0, 4.0))
    share = [verdicts.first_wins[verdicts.annotator == annotator].mean() for annotator in range(3)]
    assert share == pytest.approx([expit(1), expit(0.25), expit(1)], abs=0.012)
    assert (verdicts.first_wins[verdicts.annotator == 0] != verdicts.first_wins[verdicts.annotator == 2]).any()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_logistic_regression_gives_back_length_and_position(temperature):
    rng = np.random.default_rng(4)
    utilities, words = rng.normal(size=(MANY, 2)), rng.integers(1, 20, (MANY, 2))
    verdicts = panel(utilities, words, temperature=(temperature,), length=0.15, position=0.6)
    shown = np.where(verdicts.shown_first, 1, -1)
    design = np.stack([utilities[:, 0] - utilities[:, 1], words[:, 0] - words[:, 1], shown], axis=1)
    found = LogisticRegression(C=np.inf, fit_intercept=False).fit(design, verdicts.first_wins).coef_[0] * temperature
    assert found[0] == pytest.approx(1, abs=0.08)
    assert found[1] == pytest.approx(0.15, abs=0.015)
    assert found[2] == pytest.approx(0.6, abs=0.08)


def test_expectation_is_given_back_by_how_far_two_annotators_agree_on_equal_answers():
    # either calls the expected answer better with p = sigmoid(e); both do or neither: a = p^2 + (1 - p)^2
    verdicts = panel(equal(), annotators=2, temperature=(1.0,), expectation=1.0)
    one, other = verdicts.first_wins.reshape(2, MANY)
    agreed = (one == other).mean()
    assert agreed == pytest.approx(expit(1) ** 2 + expit(-1) ** 2, abs=0.014)
    assert logit((1 + math.sqrt(2 * agreed - 1)) / 2) == pytest.approx(1, abs=0.08)
    assert one.mean() == pytest.approx(0.5, abs=0.014)


def test_at_temperature_0_the_sign_of_the_biased_difference_decides():
    utilities, words = [[0.0, 0.5], [0.0, 0.7], [1.0, 0.0]], [[8, 6], [8, 6], [3, 5]]
    # two words more at .3 each are .6: more than .5, less than .7; of the third less than 1
    assert panel(utilities, words, length=0.3).first_wins.tolist() == [True, False, True]
    assert panel(utilities, words, length=-0.6).first_wins.tolist() == [False, False, True]
    placed = panel(equal(1000), annotators=2, position=0.1)
    assert (placed.first_wins == placed.shown_first).all()
    one, other = placed.shown_first.reshape(2, 1000)
    assert (one == other).mean() == pytest.approx(0.5, abs=0.06), "each annotator has an order of its own"
    assert one.mean() == pytest.approx(0.5, abs=0.06)


def test_equal_answers_are_a_coin():
    assert panel(equal()).first_wins.mean() == pytest.approx(0.5, abs=0.014)


def test_a_vote_of_25_cures_noise_and_not_expectation():
    utilities = np.where(np.random.default_rng(5).random((MANY // 10, 1)) < 0.5, [1.0, 0.0], [0.0, 1.0])
    items = Items(np.arange(len(utilities)), np.zeros(len(utilities), int), np.ones(len(utilities), int))

    def right(annotators, **config):
        found = vote(panel(utilities, annotators=annotators, **config), items, np.ones(annotators))
        return np.mean(found.first_wins == (utilities[found.item, 0] > utilities[found.item, 1]))

    assert right(1, noise=0.3) == pytest.approx(0.7, abs=0.03)
    assert right(25, noise=0.3) > 0.97
    # led the right way D is 3, the wrong way -1: one annotator is right in (.953 + .269) / 2, a vote in one half
    assert right(1, expectation=2.0, temperature=(1.0,)) == pytest.approx(0.611, abs=0.035)
    assert right(25, expectation=2.0, temperature=(1.0,)) == pytest.approx(0.5, abs=0.035)


def test_each_annotator_rates_its_own_share_of_the_items():
    verdicts = panel(equal(1002), annotators=3, coverage=0.3)
    own = [verdicts.item[verdicts.annotator == annotator] for annotator in range(3)]
    assert [len(set(items.tolist())) for items in own] == [301] * 3
    overlap = len(np.intersect1d(own[0], own[1])) / 301
    assert overlap == pytest.approx(0.3, abs=0.08)
    assert len(panel(equal(3), coverage=0.01)) == 1
    assert len(panel(equal(0))) == 0


def test_items_are_drawn_without_replacement_by_their_weights():
    # of weights 3, 1, 1 two are drawn. The first item comes first in 3/5, and second in 2 x 1/5 x 3/4: in all .9
    verdicts = panel(equal(3), favoured=np.array([True, False, False]), annotators=4000, topic=math.log(3), coverage=2 / 3)
    share = np.bincount(verdicts.item) / 4000
    assert share == pytest.approx([0.9, 0.55, 0.55], abs=0.02)


def test_the_topics_odds_are_given_back_by_the_shares_that_were_rated():
    # keys are logs of exponential waiting times, so of weight w the share 1 - exp(-w t) is rated: log(-log(1 - share)) is
    # log w + log t
    favoured = np.arange(MANY) % 4 == 0
    verdicts = panel(equal(), favoured=favoured, topic=1.2, coverage=0.3)
    rated = np.bincount(verdicts.item, minlength=MANY)
    of_topic, of_others = (math.log(-math.log(1 - rated[which].mean())) for which in (favoured, ~favoured))
    assert of_topic - of_others == pytest.approx(1.2, abs=0.1)
    assert rated.mean() == 0.3


def test_utility_is_the_logit_of_acceptable_and_finite_at_the_ends():
    assert utility(np.array([0.5, 0.25, 0.9])) == pytest.approx([0, math.log(3), -math.log(9)])
    low, high = utility(np.array([1.0, 0.0]))
    assert (low, high) == pytest.approx((-20.72, 20.72), abs=0.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("annotators", 0),
        ("temperature", ()),
        ("temperature", (1.0, -0.1)),
        ("temperature", (math.inf,)),
        ("length", math.nan),
        ("position", math.inf),
        ("expectation", -math.inf),
        ("topic", math.nan),
        ("coverage", 0.0),
        ("coverage", 1.1),
        ("consensus", "dictator"),
        ("golden", -1),
    ],
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^task\.panel\.{field} must be|^task\.panel\.{field} must lie"):
        PanelConfig(**{field: value})


def test_a_topic_without_choice_is_refused_as_it_would_do_nothing():
    with pytest.raises(ValueError, match=r"task\.panel\.topic has no effect.*coverage"):
        PanelConfig(topic=1.0)
    assert PanelConfig(topic=1.0, coverage=0.5).topic == 1.0


def test_a_panel_can_be_read_from_yaml():
    found = build_config(PanelConfig, {"annotators": 3, "temperature": [0.5, 1], "consensus": "elo"}, "task.panel")
    assert found == PanelConfig(annotators=3, temperature=(0.5, 1.0), consensus="elo")
    assert build_config(PanelConfig, {"temperature": [0.0]}, "task.panel") == PanelConfig(), "a list is as good as a tuple"
    with pytest.raises(UserError, match=r"task\.panel.*task\.panel\.coverage must lie in \(0, 1\], not 1\.5"):
        build_config(PanelConfig, {"coverage": 1.5}, "task.panel")


def test_items_of_one_name_and_broken_utilities_are_refused_by_name():
    with pytest.raises(UserError, match="two items to rate are named 'a'"):
        panel(equal(3), names=["a", "b", "a"])
    with pytest.raises(UserError, match=r"item 'item-1' .*not finite"):
        panel([[0.0, 1.0], [math.nan, 0.0]])
