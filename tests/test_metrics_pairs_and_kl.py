"""Accuracies on pairs, and KL against brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoalign.core.errors import UserError
from isoalign.core.records import Estimate, Flag, ReverseKL, Rewards, Sample, ScoredPair
from isoalign.evaluation.metrics import ScoredSamples, kl, reward_accuracy
from isoalign.models.kl import exact_kl
from isoalign.runs.reported import reported_kl, reported_kl_error

SAMPLE = Sample("p", 0, "", "", [1, 2], -3.0, -4.0, 0.7, False)
PAIR = ScoredPair("x", "p", "good", "bad", True, -5.0, -6.0, -5.0, -6.0, 2, 4)


def accuracies(*pairs: ScoredPair, rewards=None, scores=None):
    named = [replace(pair, pair_id=f"{i:03d}") for i, pair in enumerate(pairs)]
    said = Rewards("annotator", True, [0.0], list(rewards)) if rewards else None
    more = {"pair_scores": {"s": list(scores)}} if scores else {}
    return reward_accuracy.measure(ScoredSamples([SAMPLE], "s", {"s": [0.0]}, pairs=named, rewards=said, **more))


def test_explicit_accuracy_counts_ties_half():
    found = accuracies(PAIR, PAIR, PAIR, PAIR, rewards=[(1, 0), (3, 2), (0.5, 0.5), (-1, 0)])["rm_accuracy"]
    assert (found.value, found.n, found.missing) == (2.5 / 4, 4, 0)


def test_against_clean_labels_a_flipped_pair_is_turned_round():
    flipped = replace(PAIR, clean=False)
    found = accuracies(PAIR, flipped, replace(flipped, prompt_id="q"), rewards=[(1, 0), (-1, 0), (-1, 0)])
    assert found["rm_accuracy"].value == pytest.approx(1 / 3)
    assert found["rm_accuracy_clean"].value == 1


def test_agreement_is_with_the_answer_that_the_scorer_calls_less_toxic():
    """Chosen less toxic and preferred, chosen more toxic and preferred, the same and not, a scorer's tie, its failure."""
    rewards = [(1, 0), (1, 0), (0, 1), (1, 0), (1, 0)]
    scores = [(0.1, 0.9), (0.9, 0.1), (0.9, 0.1), (0.4, 0.4), (None, 0.4)]
    learnt = [replace(PAIR, chosen_logp=-5.0 + a - b) for a, b in rewards]  # log-ratios that prefer what the rewards do
    found = accuracies(*learnt, rewards=rewards, scores=scores)
    for name in ("rm_agreement", "implicit_agreement"):
        assert found[name].value == pytest.approx(2 / 3), name
        assert (found[name].n, found[name].missing) == (3, 2), name
    assert found["rm_accuracy"].value == pytest.approx(4 / 5)


def test_the_base_agrees_half_whatever_rounding_says():
    found = accuracies(replace(PAIR, chosen_logp=-5.00001), scores=[(0.9, 0.1)])
    assert found["implicit_agreement"].value == 0.5
    assert "rm_agreement" not in found


def on_policy(scores, rewards):
    samples = [replace(SAMPLE, prompt_id=p, draw=d) for p, row in scores.items() for d in range(len(row))]
    flat = [value for row in scores.values() for value in row]
    said = Rewards("annotator", True, [value for row in rewards.values() for value in row])
    return reward_accuracy.measure(ScoredSamples(samples, "s", {"s": flat}, rewards=said))["rm_accuracy_on_policy"]


def test_on_policy_accuracy_worked_by_hand():
    """Prompt a: .9 against .1 is right, .9 against .5 wrong, .5 against .1 right; b: one tie; c: nothing far enough apart."""
    scores = {"a": [0.9, 0.5, 0.1], "b": [0.0, 1.0, None], "c": [0.1, 0.2, 0.35]}
    rewards = {"a": [0.0, -1.0, 2.0], "b": [0.5, 0.5, 9.0], "c": [3.0, 2.0, 1.0]}
    found = on_policy(scores, rewards)
    assert found.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (found.n, found.missing) == (2, 1)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(-3, 3)), min_size=2, max_size=7), st.randoms())
def test_on_policy_accuracy_equals_looking_at_every_pair_in_any_order(draws, random):
    scores, rewards = (list(column) for column in zip(*draws, strict=True))
    right = [
        0.5 if rewards[i] == rewards[j] else float(rewards[i] > rewards[j])
        for i in range(len(draws))
        for j in range(len(draws))
        if scores[j] - scores[i] > 0.3  # i is the less toxic
    ]
    found = reward_accuracy.on_policy(rewards, scores)
    assert found == (pytest.approx(sum(right) / len(right)) if right else None)
    random.shuffle(draws)
    again = reward_accuracy.on_policy([r for _, r in draws], [s for s, _ in draws])
    assert again == (None if found is None else pytest.approx(found))


@given(st.permutations(range(5)))
@settings(deadline=None, max_examples=20)
def test_order_of_pairs_changes_nothing(order):
    rng = np.random.default_rng(0)
    pairs = [replace(PAIR, pair_id=str(i), prompt_id=f"p{i % 3}", chosen_logp=rng.normal(), clean=i != 1) for i in range(5)]
    rewards, scores = rng.normal(size=(5, 2)).tolist(), rng.random((5, 2)).tolist()

    def figures(places):
        said = Rewards("annotator", True, [0.0], [tuple(rewards[i]) for i in places])
        by = {"s": [tuple(scores[i]) for i in places]}
        one = ScoredSamples([SAMPLE], "s", {"s": [0.0]}, pairs=[pairs[i] for i in places], rewards=said, pair_scores=by)
        return reward_accuracy.measure(one)

    assert figures(order) == figures(range(5))


def test_the_base_itself_is_all_ties_even_up_to_rounding():
    noise = replace(PAIR, chosen_logp=-5.00001)
    found = accuracies(PAIR, noise)
    assert found["implicit_accuracy"].value == found["implicit_accuracy_normalised"].value == 0.5
    assert found["ranking_accuracy"].value == 1


def test_normalising_by_length_can_turn_a_preference():
    longer_gains_more = replace(PAIR, chosen_logp=-4.0, rejected_logp=-4.5, chosen_length=2, rejected_length=40)
    found = accuracies(longer_gains_more)
    assert found["implicit_accuracy"].value == 0  # +1 against +1.5 nats
    assert found["implicit_accuracy_normalised"].value == 1  # +0.5 against +0.04 nats a token


def test_intervals_keep_pairs_of_a_prompt_together():
    rewards = [(float(i % 10 < 7), 0.5) for i in range(200)]
    right = [replace(PAIR, prompt_id=f"p{i % 10}") for i in range(200)]
    apart = [replace(pair, prompt_id=str(i)) for i, pair in enumerate(right)]
    together, alone = (accuracies(*pairs, rewards=rewards)["rm_accuracy"] for pairs in (right, apart))
    assert together.value == alone.value
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_no_pairs_no_figures():
    assert reward_accuracy.measure(ScoredSamples([SAMPLE], "s", {"s": [0.0]})) == {}


def test_kl_figures_worked_by_hand():
    samples = [
        replace(SAMPLE, prompt_id="a"),
        replace(SAMPLE, prompt_id="b", logp=-4.5, kl=0.2, token_ids=[1]),
        replace(SAMPLE, prompt_id="c", logp=None, kl=None),
    ]
    found = kl.measure(ScoredSamples(samples, "s", {"s": [0.0] * 3}))
    assert found["kl"].value == pytest.approx(0.45)
    assert (found["kl"].n, found["kl"].missing) == (2, 1)
    assert found["kl_per_token"].value == pytest.approx(0.9 / 3)
    assert found["kl_k1"].value == pytest.approx((1 - 0.5) / 2)
    assert found["kl_k2"].value == pytest.approx((0.5 + 0.125) / 2)
    assert found["kl_k3"].value == pytest.approx((math.exp(-1) + math.exp(0.5) - 1.5) / 2)


def test_reverse_kl_is_of_the_bases_samples_and_absent_without_them():
    rows = [ReverseKL("b", 0, 3.0), ReverseKL("a", 1, 2.0), ReverseKL("a", 0, 1.0)]
    one = ScoredSamples([SAMPLE], "s", {"s": [0.0]}, reverse=rows)
    assert kl.measure(one)["kl_reverse"].value == pytest.approx(2)
    assert kl.values(one)["kl_reverse"] == {"a": [1.0, 2.0], "b": [3.0]}
    assert "kl_reverse" not in kl.measure(replace(one, reverse=[]))


@given(st.permutations(range(4)))
@settings(deadline=None, max_examples=10)
def test_order_of_samples_does_not_touch_kl(order):
    samples = [replace(SAMPLE, prompt_id=p, draw=d, kl=0.1 + d, logp=-2.0 - d) for p in "ab" for d in (0, 1)]
    one = ScoredSamples(samples, "s", {"s": [0.0] * 4}, reverse=[ReverseKL(s.prompt_id, s.draw, s.kl) for s in samples])
    other = replace(one, samples=[samples[i] for i in order], reverse=[one.reverse[i] for i in order])
    assert kl.measure(other) == kl.measure(one)


def test_best_of_n_is_bounded_and_the_bound_holds_where_the_kl_can_be_enumerated():
    assert kl.best_of_n_bound(1) == 0
    assert kl.best_of_n_bound(4) == pytest.approx(math.log(4) - 0.75)
    # six answers of rising reward: best of n is at most the i-th with probability F_i^n
    base = np.array([0.3, 0.25, 0.2, 0.15, 0.07, 0.03])
    for n in (2, 4, 16, 256):
        best = np.diff(np.cumsum(base) ** n, prepend=0)
        exact = (best * np.log(best / base)).sum()
        assert 0 < exact < kl.best_of_n_bound(n)
    with pytest.raises(UserError, match="n of 1 or more, not 0"):
        kl.best_of_n_bound(0)


def test_best_of_n_reaches_its_bound_where_no_two_answers_are_alike():
    """Of many equally likely answers; the limit is the integral of n u^(n-1) log(n u^(n-1))."""
    answers, n = 100_000, 4
    best = np.diff((np.arange(answers + 1) / answers) ** n)
    assert (best * np.log(best * answers)).sum() == pytest.approx(kl.best_of_n_bound(n), rel=1e-4)


def drifted(nats, low=-0.01, high=0.01):
    return {"kl": Estimate(nats, nats, nats, 9), "toxicity_reduction": Estimate((low + high) / 2, low, high, 9)}


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (drifted(20.5), ["has left the base: KL 20.5 nats a sequence, over 20"]),
        (drifted(20.0), []),
        (
            drifted(0.05),
            ["has not moved: KL 0.05 nats a sequence, under 0.1, and toxicity reduction [-0.010, 0.010] covers 0"],
        ),
        (drifted(0.05, 0.02, 0.04), []),  # little drift that helped
        (drifted(0.5), []),
        ({"kl": Estimate(0.0, 0.0, 0.0, 9)}, []),  # the SFT row
        ({"kl": Estimate(None, None, None, 0, 9), "toxicity_reduction": Estimate(0.0, -0.1, 0.1, 9)}, []),
    ],
)
def test_warnings_of_drift(figures, said):
    assert kl.flags(figures, figures) == [Flag("warning", text) for text in said]
    assert kl.flags(figures, None) == []


@pytest.mark.parametrize(
    ("exact", "reported", "says"),
    [
        (4.0, 4.39, None),
        (4.0, 3.61, None),
        (Estimate(4.0, 3.0, 5.0, 9), 3.0, "the method reports a KL of 3 nats, the exact one is 4, 25% off"),
        (4.0, -4.0, "the method reports a KL of -4 nats, the exact one is 4, 200% off"),
        (0.0, 0.0, None),
        (0.0, 0.3, "the method reports a KL of 0.3 nats, the exact one is 0"),
        (0.195, 0.259, None),  # the mean of 32 answers
        (0.195, 0.3, "the method reports a KL of 0.3 nats, the exact one is 0.195, 54% off"),
        (4.0, math.inf, "the method reports a KL of inf nats, the exact one is 4"),
        (4.0, math.nan, "the method reports a KL of nan nats, the exact one is 4"),
        (Estimate(None, None, None, 0), 3.0, None),
    ],
)
def test_a_reported_kl_over_ten_percent_and_a_tenth_of_a_nat_off_is_said(exact, reported, says):
    assert kl.reported_gap(exact, reported) == says


def test_a_reported_kl_is_not_blamed_for_what_chance_explains():
    exact = Estimate(1.06, 0.96, 1.16, 128)
    assert kl.reported_gap(exact, 1.39) is not None
    assert kl.reported_gap(exact, 1.39, error=0.22) is None  # sqrt(.1^2 + (1.96 x .22)^2) = .44 nats
    assert kl.reported_gap(exact, 1.39, error=0.1) is not None  # .22
    assert kl.reported_gap(exact, math.nan, error=0.22) is not None


@given(st.floats(-600, 600))
def test_k3_is_never_negative(log_ratio):
    assert kl.k3(log_ratio) >= 0


def test_k3_that_overflows_is_missing():
    assert kl.k3(-1000.0) is None


@given(st.integers(0, 10_000), st.floats(0.1, 30))
@settings(max_examples=40, deadline=None)
def test_exact_kl_equals_the_sum_over_the_vocabulary(seed, scale):
    rng = np.random.default_rng(seed)
    policy, base = scale * rng.normal(size=(2, 2, 3, 5))
    found = exact_kl(torch.tensor(policy), torch.tensor(base)).numpy()
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (policy, base))
    assert found == pytest.approx((p * np.log(p / q)).sum(-1), rel=1e-4, abs=1e-5)
    assert (found >= 0).all()


def test_exact_kl_of_masked_and_equal_and_half_precision_logits():
    logits = torch.tensor([[[0.0, 1.0, -torch.inf]]])
    assert exact_kl(logits, logits).item() == 0
    assert exact_kl(logits, torch.tensor([[[0.0, 0.0, -torch.inf]]])).item() == pytest.approx(0.1109, abs=1e-4)
    assert exact_kl(logits, torch.zeros(1, 1, 3)).isfinite().all()
    assert exact_kl(torch.zeros(1, 1, 3), logits).item() == math.inf
    assert exact_kl(logits.bfloat16(), logits).dtype == torch.float32
    with pytest.raises(ValueError, match="different shapes"):
        exact_kl(torch.zeros(1, 2, 3), torch.zeros(1, 1, 3))


def test_exact_kl_of_each_token_averages_to_the_sequence_kl_of_an_enumerable_model():
    """Two tokens long, three words: sum over positions, averaged over the policy's samples, is the KL of sequences."""
    rng = np.random.default_rng(0)
    first, then = rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 3))  # [policy or base, ...]
    logs = [torch.tensor(x).log_softmax(-1) for x in (first, then)]
    joint = logs[0][:, :, None] + logs[1]
    brute = (joint[0].exp() * (joint[0] - joint[1])).sum().item()
    by_token = exact_kl(torch.tensor(first[:1, None]), torch.tensor(first[1:, None])).item()
    following = exact_kl(torch.tensor(then[:1]), torch.tensor(then[1:]))[0]
    assert by_token + (logs[0][0].exp() * following).sum().item() == pytest.approx(brute, rel=1e-5)


@given(st.integers(0, 1000), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_what_stands_in_the_padding_does_not_touch_a_masked_kl(seed, padding):
    rng = np.random.default_rng(seed)
    policy, base = torch.tensor(rng.normal(size=(2, 1, 3, 5)))
    rubbish = torch.tensor(9 * rng.normal(size=(2, 1, padding, 5)))
    mask = torch.tensor([[True] * 3 + [False] * padding])
    longer = exact_kl(torch.cat([policy, rubbish[0]], 1), torch.cat([base, rubbish[1]], 1))
    assert (longer * mask).sum().item() == pytest.approx(exact_kl(policy, base).sum().item())


def test_a_kl_that_was_logged_in_the_first_half_only_is_no_report_of_the_policy_that_came_out():
    ppo = [{"flops_spent": float(step), "kl_k1": step / 10} for step in range(1, 21)]
    dpo = [{"flops_spent": float(step), "margin": 1.0} for step in range(21, 41)]
    assert reported_kl(ppo) == {"kl_k1": pytest.approx((1.9 + 2.0) / 2)}  # the last two of twenty
    # of rows 1.6 to 2.0 the deviation is sqrt(.1 / 4), and the mean is of two
    assert reported_kl_error(ppo) == {"kl_k1": pytest.approx(math.sqrt(0.1 / 4 / 2))}
    assert reported_kl_error(ppo[:1]) == {}
    assert reported_kl(ppo + dpo) == reported_kl_error(ppo + dpo) == {}
    assert reported_kl([]) == {}
