"""Consensus: votes by hand, strengths and ratings against other algorithms, weights that are worth having."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import expit, log_expit, logit

from isoalign.config.feedback import PanelConfig
from isoalign.core.errors import UserError
from isoalign.feedback import consensus
from isoalign.feedback.annotators import Verdicts, panel_verdicts
from isoalign.feedback.consensus import RULES, Items, bradley_terry, calibrate, elo, ratings, strengths, vote


def verdicts(*rows):
    """(item, annotator, first wins)."""
    item, annotator, first = (np.array(column) for column in zip(*rows, strict=True)) if rows else [np.zeros(0, int)] * 3
    return Verdicts(item.astype(int), annotator.astype(int), first.astype(bool), np.ones(len(item), dtype=bool))


def round_robins(prompts, answers):
    rows = [(p, i, j) for p in range(prompts) for i, j in itertools.combinations(range(answers), 2)]
    return Items(*(np.array(column) for column in zip(*rows, strict=True)))


def random_verdicts(rng, items, annotators, coverage=0.7):
    rows = [(i, r, rng.random() < 0.5) for i in range(len(items)) for r in range(annotators) if rng.random() < coverage]
    return verdicts(*rows)


def shuffled(table, rng):
    order = rng.permutation(len(table))
    return Verdicts(table.item[order], table.annotator[order], table.first_wins[order], table.shown_first[order])


def test_a_vote_by_hand():
    """Item 0: 2 to 1. Item 1: 1 to 1. Item 2: nobody. Item 3: 0 to 2."""
    table = verdicts((0, 0, True), (0, 1, True), (0, 2, False), (1, 0, True), (1, 1, False), (3, 0, False), (3, 2, False))
    items = Items(np.arange(4), np.zeros(4, int), np.ones(4, int))
    found = vote(table, items, np.ones(3))
    assert (found.item.tolist(), found.first_wins.tolist()) == ([0, 3], [True, False])
    assert found.margin == pytest.approx([1 / 3, 1])
    assert (found.ties, found.unrated) == (1, 1)
    # weights 1, 2, 4: item 0 is 3 to 4, item 1 is 1 to 2
    found = vote(table, items, np.array([1.0, 2, 4]))
    assert (found.item.tolist(), found.first_wins.tolist()) == ([0, 1, 3], [False, False, False])
    assert found.margin == pytest.approx([1 / 7, 1 / 3, 1])
    # the only one who rated item 3 beside annotator 0 has no weight, and of item 1 neither has
    found = vote(table, items, np.array([0.0, 0, 1]))
    assert (found.item.tolist(), found.first_wins.tolist(), found.unrated) == ([0, 3], [False, False], 2)


def test_a_tie_of_weights_is_a_tie_though_their_sums_differ_in_the_last_digit():
    table = verdicts((0, 0, True), (0, 1, True), (0, 2, False))
    found = vote(table, Items(*np.array([[0], [0], [1]])), np.array([0.1, 0.2, 0.3]))
    assert (len(found), found.ties) == (0, 1)


@pytest.mark.parametrize("rule", RULES.values())
def test_one_careful_annotator_is_taken_at_its_word(rule):
    utilities = np.random.default_rng(0).normal(size=(30, 4))
    items = round_robins(30, 4)
    pairs = np.stack([utilities[items.prompt, items.first], utilities[items.prompt, items.second]], axis=1)
    names = list(map(str, range(len(items))))
    said = panel_verdicts(pairs, np.zeros(pairs.shape), np.zeros(len(items), bool), names, PanelConfig(), 0)
    found = rule(said, items, np.ones(1), 0)
    assert found.item.tolist() == list(range(len(items)))
    assert (found.first_wins == (pairs[:, 0] > pairs[:, 1])).all()
    assert ((found.margin > 0) & (found.margin <= 1)).all()


@pytest.mark.parametrize("rule", RULES.values())
def test_the_order_of_verdicts_does_not_matter_nor_which_answer_is_called_first(rule):
    rng = np.random.default_rng(1)
    items = round_robins(5, 4)
    table, weight = random_verdicts(rng, items, 4), rng.random(4)
    found, again = rule(table, items, weight, 0), rule(shuffled(table, rng), items, weight, 0)
    assert found.item.tolist() == again.item.tolist()
    assert found.margin == pytest.approx(again.margin)
    turned = Verdicts(table.item, table.annotator, ~table.first_wins, table.shown_first)
    back = rule(turned, Items(items.prompt, items.second, items.first), weight, 0)
    assert (back.first_wins == ~found.first_wins).all()
    assert back.margin == pytest.approx(found.margin)


@pytest.mark.parametrize("rule", RULES.values())
def test_a_prompts_verdicts_do_not_depend_on_other_prompts(rule):
    rng = np.random.default_rng(2)
    items = round_robins(6, 3)
    table = random_verdicts(rng, items, 5)
    alone = table.item < 6  # the first two prompts
    part = Verdicts(*(column[alone] for column in (table.item, table.annotator, table.first_wins, table.shown_first)))
    whole = rule(table, items, np.ones(5), 0)
    few = rule(part, Items(items.prompt[:6], items.first[:6], items.second[:6]), np.ones(5), 0)
    assert few.item.tolist() == whole.item[whole.item < 6].tolist()
    assert few.margin == pytest.approx(whole.margin[whole.item < 6])


@pytest.mark.parametrize("rule", RULES.values())
def test_no_verdicts_are_no_consensus(rule):
    found = rule(verdicts(), round_robins(2, 2), np.ones(1), 0)
    assert (len(found), found.ties, found.unrated) == (0, 0, 2)


def test_strengths_are_those_that_a_general_optimiser_finds():
    rng = np.random.default_rng(3)
    items = round_robins(4, 5)
    table, weight = random_verdicts(rng, items, 3), np.array([0.5, 1.0, 2.2])
    found = strengths(table, items, weight)

    def loss(flat):
        s = flat.reshape(4, 5)
        gap = s[items.prompt, items.first] - s[items.prompt, items.second]
        said = np.where(table.first_wins, 1, -1) * gap[table.item]
        return -(weight[table.annotator] * log_expit(said)).sum() + np.square(s).sum() / (2 * consensus.PRIOR_SPREAD**2)

    best = minimize(loss, np.zeros(20), method="BFGS", options={"gtol": 1e-7})
    assert found.ravel() == pytest.approx(best.x, abs=1e-4)
    assert loss(found.ravel()) <= best.fun + 1e-9
    assert found.sum(1) == pytest.approx(np.zeros(4), abs=1e-9)


def test_without_a_prior_strengths_are_those_of_hunters_mm_algorithm(monkeypatch):
    monkeypatch.setattr(consensus, "PRIOR_SPREAD", 1e3)
    won = np.array([[0, 3, 5], [2, 0, 4], [1, 3, 0]])
    rows = [(item, 0, True) for item, (i, j) in enumerate(itertools.combinations(range(3), 2)) for _ in range(won[i, j])]
    rows += [(item, 0, False) for item, (i, j) in enumerate(itertools.combinations(range(3), 2)) for _ in range(won[j, i])]
    (found,) = strengths(verdicts(*rows), round_robins(1, 3), np.ones(1))
    share = np.ones(3)
    for _ in range(500):  # Hunter 2004, eq. 3
        share = won.sum(1) / ((won + won.T) / (share[:, None] + share)).sum(1)
        share /= share.sum()
    assert found - found.mean() == pytest.approx(np.log(share) - np.log(share).mean(), abs=1e-6)


def test_one_verdict_says_as_much_as_the_prior_lets_it():
    # with s and -s, d = 2 s: the slope of log sigmoid(d) - d^2 / (4 x 9) is 0 where sigmoid(-d) = d / 18
    gap = brentq(lambda d: expit(-d) - d / 18, 0, 10)
    found = bradley_terry(verdicts((0, 0, False)), Items(*np.array([[0], [0], [1]])), np.ones(1))
    assert not found.first_wins[0]
    assert found.margin[0] == pytest.approx(2 * expit(gap) - 1)
    assert expit(gap) == pytest.approx(0.89, abs=0.005), "what the docstring says"


@given(st.integers(1, 10_000), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_an_answer_that_wins_everything_stays_finite_however_often(times, answers):
    items = round_robins(1, answers)
    rows = [(item, 0, True) for item in range(len(items))]
    (found,) = strengths(verdicts(*rows), items, np.array([float(times)]))
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()


def test_strengths_are_found_where_whole_newton_steps_run_away():
    """Found among 20,000 random tables: without damping the strengths of this one never settle."""
    wins = {(0, 4): 594.2, (1, 0): 3840.8, (2, 0): 0.5, (2, 3): 18.8, (2, 5): 11.3, (3, 2): 474.2, (3, 4): 546.1, (5, 1): 9.0}
    items = round_robins(1, 6)
    place = {(i, j): item for item, (i, j) in enumerate(zip(items.first, items.second, strict=True))}
    rows = [(place[min(pair), max(pair)], annotator, pair[0] < pair[1]) for annotator, pair in enumerate(wins)]
    (found,) = strengths(verdicts(*rows), items, np.array(list(wins.values())))
    chance = expit(found[:, None] - found)
    slope = -found / consensus.PRIOR_SPREAD**2
    for (i, j), weight in wins.items():
        slope[i] += weight * chance[j, i]
        slope[j] -= weight * chance[j, i]
    assert slope == pytest.approx(0, abs=1e-7)


def test_bradley_terry_outvotes_a_pairs_own_verdict_and_a_vote_does_not():
    # 0 over 1 by five annotators, 1 over 2 by five, and 2 over 0 by one: the long way round is stronger
    rows = [(0, r, True) for r in range(5)] + [(2, r, True) for r in range(5)] + [(1, 0, False)]
    items, table = round_robins(1, 3), verdicts(*rows)
    assert vote(table, items, np.ones(5)).first_wins.tolist() == [True, False, True]
    assert bradley_terry(table, items, np.ones(5)).first_wins.tolist() == [True, True, True]
    assert elo(table, items, np.ones(5)).first_wins.tolist() == [True, True, True]


@pytest.mark.parametrize("rule", RULES.values())
def test_a_pair_that_nobody_rated_gets_no_verdict_though_its_answers_have_strengths(rule):
    # 0 over 1 and 1 over 2; of 0 and 2 nobody spoke
    found = rule(verdicts((0, 0, True), (2, 0, True)), round_robins(1, 3), np.ones(1), 0)
    assert (found.item.tolist(), found.ties, found.unrated) == ([0, 2], 0, 1)


def test_strengths_find_more_of_the_true_order_than_votes_where_annotators_are_few_and_noisy():
    utilities = np.random.default_rng(4).normal(0, 2, (300, 4))
    items = round_robins(300, 4)
    pairs = np.stack([utilities[items.prompt, items.first], utilities[items.prompt, items.second]], axis=1)
    names, config = list(map(str, range(len(items)))), PanelConfig(annotators=3, temperature=(2.0,))
    said = panel_verdicts(pairs, np.zeros(pairs.shape), np.zeros(len(items), bool), names, config, 0)

    def right(rule):
        """Ties count half."""
        found = rule(said, items, np.ones(3), 0)
        return (np.sum(found.first_wins == (pairs[found.item, 0] > pairs[found.item, 1])) + found.ties / 2) / len(items)

    assert right(bradley_terry) > right(vote) + 0.01
    assert right(elo) == pytest.approx(right(bradley_terry), abs=0.01)


def test_elo_by_hand():
    # equals: E = 1/2, so the winner takes 16 / 2 = 8; 16 points ahead E = 1 / (1 + 10^-.04) = .5230, so then 7.632 more
    one, two = Items(*np.array([[0], [0], [1]])), verdicts((0, 0, True), (0, 1, True))
    assert ratings(verdicts((0, 0, True)), one, np.ones(1), 0)[0].mean(1) == pytest.approx([8, -8])
    (found,) = ratings(two, one, np.ones(2), 0)
    assert found.mean(1) == pytest.approx([15.632, -15.632], abs=1e-3)
    # weights 1 and 3 are .5 and 1.5 of their mean, steps of 8 and 24. The heavy one last: 4 + 24 x (1 - E(8)); first: 12 +
    # 8 x (1 - E(24)), E(8) = .51151, E(24) = .53448
    (found,) = ratings(two, one, np.array([1.0, 3.0]), 0)
    assert found[0] == pytest.approx(np.full(consensus.SHUFFLES, 15.724), abs=1e-3)
    # one each way: +8, then 16 x .5230 from the one to the other, -8.368 + 8; the other order is its mirror image
    (found,) = ratings(verdicts((0, 0, True), (0, 1, False)), one, np.ones(2), 0)
    assert sorted(set(found[0].round(3).tolist())) == [-0.368, 0.368]


def test_elo_over_shuffles_is_elo_over_all_orders():
    """Naive, over all 720 orders of six verdicts."""
    rows = [(0, 0, True), (1, 0, False), (2, 0, True), (0, 1, False), (1, 1, True), (2, 1, True)]
    items = round_robins(1, 3)
    ends = []
    for order in itertools.permutations(rows):
        rating = [0.0, 0.0, 0.0]
        for item, _, first in order:
            winner, loser = (items.first[item], items.second[item]) if first else (items.second[item], items.first[item])
            gain = 16 * (1 - 1 / (1 + 10 ** ((rating[loser] - rating[winner]) / 400)))
            rating[winner] += gain
            rating[loser] -= gain
        ends.append(rating)
    (found,) = ratings(verdicts(*rows), items, np.ones(2), 0)
    error = np.std(ends, axis=0) / math.sqrt(consensus.SHUFFLES)
    assert (np.abs(found.mean(1) - np.mean(ends, axis=0)) < 4 * error).all()
    assert found.std(1) == pytest.approx(np.std(ends, axis=0), rel=0.3)
    assert found.sum(0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", RULES.values())
def test_one_win_each_is_a_tie(rule, seed):
    found = rule(verdicts((0, 0, True), (0, 1, False)), Items(*np.array([[0], [0], [1]])), np.ones(2), seed)
    assert (len(found), found.ties, found.unrated) == (0, 1, 0)


def test_calibration_by_hand():
    # annotator 0: 8 of 10; annotator 1: 3 of 5; annotator 2 rated nothing. Common: (11 + 1) / (15 + 2) = .70588
    rows = [(i, 0, i < 8) for i in range(10)] + [(i, 1, i < 3) for i in range(5)]
    found = calibrate(verdicts(*rows), np.ones(10, dtype=bool), 3)
    common = 12 / 17
    p = [(8 + 16 * common) / 26, (3 + 16 * common) / 21, common]
    assert found.weight == pytest.approx([math.log(x / (1 - x)) for x in p])
    first, second, third = found.accuracy
    # Wilson: (8 + z^2 / 2 +- z sqrt(10 x .8 x .2 + z^2 / 4)) / (10 + z^2), z^2 = 3.8415
    assert (first.value, first.low, first.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert (second.value, second.n, second.missing) == (0.6, 5, 5)
    assert (third.value, third.low, third.high, third.n, third.missing) == (None, None, None, 0, 10)


def test_without_golden_items_all_weigh_alike():
    assert calibrate(verdicts(), np.zeros(0, dtype=bool), 4).weight.tolist() == [1, 1, 1, 1]


def test_a_annotator_below_chance_is_left_out_and_not_turned_round():
    rows = [(i, 0, True) for i in range(100)] + [(i, 1, i < 5) for i in range(100)]
    found = calibrate(verdicts(*rows), np.ones(100, dtype=bool), 2)
    assert found.weight[0] > 2
    assert found.weight[1] == 0
    assert found.accuracy[1].high < 0.5, "the reader sees it"
    with pytest.raises(
        UserError, match=r"no annotator is right on more than half of the 100 golden items.*task\.feedback\.noise"
    ):
        calibrate(verdicts(*rows[100:]), np.ones(100, dtype=bool), 2)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_weights_rise_with_what_was_right_and_are_never_negative(right):
    rows = [(i, annotator, i < hits) for annotator, hits in enumerate([*right, 20]) for i in range(20)]
    weight = calibrate(verdicts(*rows), np.ones(20, dtype=bool), len(right) + 1).weight
    assert (weight >= 0).all()
    assert (np.diff(weight[:-1][np.argsort(right)]) >= -1e-12).all()


def panel_of(accuracies, items, rng):
    right = rng.random((items, len(accuracies))) < accuracies
    truth = rng.random(items) < 0.5
    item, annotator = (axis.ravel() for axis in np.indices(right.shape))
    first = right == truth[:, None]
    return Verdicts(item, annotator, first.ravel(), np.ones(item.size, dtype=bool)), truth


def share_right(found, truth):
    return (np.sum(found.first_wins == truth[found.item]) + found.ties / 2) / len(truth)


def test_weights_of_known_accuracies_beat_a_majority_by_as_much_as_they_should():
    # .9, .6, .6: a majority is right in .9 x (1 - .4^2) + .1 x .6^2 = .792. log 9 is more than 2 log 1.5, so weighted the
    # first decides: .9
    said, truth = panel_of([0.9, 0.6, 0.6], 20_000, np.random.default_rng(5))
    items = Items(np.arange(20_000), np.zeros(20_000, int), np.ones(20_000, int))
    assert share_right(vote(said, items, np.ones(3)), truth) == pytest.approx(0.792, abs=0.01)
    assert share_right(vote(said, items, logit([0.9, 0.6, 0.6])), truth) == pytest.approx(0.9, abs=0.008)


def test_calibrated_weights_beat_a_majority_where_annotators_differ_and_lose_little_where_they_do_not():
    rng = np.random.default_rng(6)
    items = Items(np.arange(4000), np.zeros(4000, int), np.ones(4000, int))

    def gain(low, high):
        gains = []
        for _ in range(20):
            accuracies = rng.uniform(low, high, 5)
            weight = calibrate(*panel_of(accuracies, 20, rng), 5).weight
            said, truth = panel_of(accuracies, 4000, rng)
            gains.append(share_right(vote(said, items, weight), truth) - share_right(vote(said, items, np.ones(5)), truth))
        return np.mean(gains)

    assert gain(0.55, 0.95) > 0.003
    assert gain(0.75, 0.75) > -0.02


@pytest.mark.parametrize("rule", RULES.values())
def test_weights_that_are_none_are_refused(rule):
    table, items = verdicts((0, 1, True)), Items(*np.array([[0], [0], [1]]))
    for weight, message in (([1.0, -0.1], "0 or more"), ([1.0, math.nan], "0 or more"), ([1.0], "1 weights for 2 annotators")):
        with pytest.raises(UserError, match=message):
            rule(table, items, np.array(weight), 0)
