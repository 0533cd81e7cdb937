"""Accuracies on pairs, and KL against brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.kl import exact_kl
from bench.metrics import kl, reward_accuracy
from bench.metrics.evidence import Evidence
from bench.types import Sample, ScoredPair

SAMPLE = Sample("p", 0, "", "", [1, 2], -3.0, -4.0, 0.7, False)
PAIR = ScoredPair("x", "p", "good", "bad", True, -5.0, -6.0, -5.0, -6.0, 2, 4, 1.0, 0.0)


def accuracies(*pairs: ScoredPair):
    named = [replace(pair, pair_id=str(i)) for i, pair in enumerate(pairs)]
    return reward_accuracy.measure(Evidence([SAMPLE], "s", {"s": [0.0]}, pairs=named))


def test_explicit_accuracy_counts_ties_half_and_missing_rewards_not_at_all():
    wins, tie = PAIR, replace(PAIR, chosen_reward=0.0)
    loses, unknown = replace(PAIR, chosen_reward=-1.0), replace(PAIR, rejected_reward=None)
    found = accuracies(wins, wins, tie, loses, unknown)["rm_accuracy"]
    assert (found.value, found.n, found.missing) == (2.5 / 4, 4, 1)


def test_against_clean_labels_a_flipped_pair_is_turned_round():
    flipped_and_seen_through = replace(PAIR, clean=False, chosen_reward=-1.0)
    found = accuracies(PAIR, flipped_and_seen_through, replace(flipped_and_seen_through, prompt_id="q"))
    assert found["rm_accuracy"].value == pytest.approx(1 / 3)
    assert found["rm_accuracy_clean"].value == 1


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
    right = [replace(PAIR, prompt_id=f"p{i % 10}", chosen_reward=float(i % 10 < 7)) for i in range(200)]
    apart = [replace(pair, prompt_id=str(i)) for i, pair in enumerate(right)]
    together, alone = accuracies(*right)["rm_accuracy"], accuracies(*apart)["rm_accuracy"]
    assert together.value == alone.value
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_no_pairs_no_figures():
    assert reward_accuracy.measure(Evidence([SAMPLE], "s", {"s": [0.0]})) == {}


def test_accuracy_stands_alone():
    found = reward_accuracy.PairAccuracy(keep_in_memory=True).compute(
        predictions=[1.0, 0.0, None], references=[0.0, 0.0, 1.0], prompt_ids=["a", "b", "c"]
    )
    assert (found["accuracy"], found["n"], found["missing"]) == (0.75, 2, 1)
    assert found["right"] == [1.0, 0.5, None]


def test_kl_figures_worked_by_hand():
    samples = [
        replace(SAMPLE, prompt_id="a"),
        replace(SAMPLE, prompt_id="b", logp=-4.5, kl=0.2, token_ids=[1]),
        replace(SAMPLE, prompt_id="c", logp=None, kl=None),
    ]
    found = kl.measure(Evidence(samples, "s", {"s": [0.0] * 3}))
    assert found["kl"].value == pytest.approx(0.45)
    assert (found["kl"].n, found["kl"].missing) == (2, 1)
    assert found["kl_per_token"].value == pytest.approx(0.9 / 3)
    assert found["kl_k1"].value == pytest.approx((1 - 0.5) / 2)
    assert found["kl_k2"].value == pytest.approx((0.5 + 0.125) / 2)
    assert found["kl_k3"].value == pytest.approx((math.exp(-1) + math.exp(0.5) - 1.5) / 2)


@given(st.floats(-600, 600))
def test_k3_is_never_negative(log_ratio):
    assert kl.k3(log_ratio) >= 0


def test_k3_that_overflows_is_missing():
    assert kl.k3(-1000.0) is None


def test_kl_stands_alone():
    found = kl.SequenceKL(keep_in_memory=True).compute(data=[-1.0, None], base_logp=[-3.0, -1.0], prompt_ids=["a", "b"])
    assert (found["kl_k1"], found["kl_k2"], found["log_ratios"]) == (2, 2, [2, None])


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
