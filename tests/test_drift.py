"""The controls for drift: rewards and verdicts that mean nothing, the same whenever they are asked for."""

import math
from typing import Any

import pytest
import torch
from torch import tensor

from isoalign.baselines.drift_dpo import DriftDPO
from isoalign.baselines.drift_rloo import DriftRLOO, random_numbers, token_reward
from isoalign.core.batches import Pairs
from isoalign.data.preferences import rollouts
from isoalign.training.lab import Lab
from workbench import FixedRatios, nudge


def test_a_token_has_its_number_wherever_it_stands() -> None:
    index = torch.arange(5)
    torch.testing.assert_close(random_numbers(index, 3)[[4, 0]], random_numbers(tensor([4, 0]), 3))
    assert not torch.equal(random_numbers(index, 3), random_numbers(index, 4))
    everything = random_numbers(torch.arange(2**18), 0)
    assert everything.mean().abs() < 0.01
    assert everything.std() == pytest.approx(1, abs=0.01)


def test_the_reward_is_the_sum_of_the_answers_weights_over_the_root_of_its_length() -> None:
    weights = random_numbers(torch.arange(10), 0).tolist()
    found = token_reward(rollouts([[9], [9, 9]], [[2, 3, 2, 5], [7]], pad=0), seed=0)
    # prompt and padding have no weight
    assert found.tolist() == pytest.approx([(2 * weights[2] + weights[3] + weights[5]) / 2, weights[7]])


def test_the_advantage_is_leave_one_out_of_reward_minus_the_price_of_drift(tiny_lab: Lab) -> None:
    nudge(tiny_lab)
    (step,) = DriftRLOO(rollouts=4, draws=2, kl=0.3).iteration(tiny_lab)
    answers = step.batch.rollouts
    with torch.no_grad():
        a, b, c, d = token_reward(answers, 0) - 0.3 * tiny_lab.log_ratio(answers)
    torch.testing.assert_close(step.batch.advantages, torch.stack([a - b, b - a, c - d, d - c]))
    assert step.batch.advantages.abs().max() > 0.01


def test_no_reward_model_is_asked(tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_lab, "reward", lambda *_: pytest.fail("a control asked for rewards"))
    assert list(DriftRLOO(rollouts=4, draws=2).iteration(tiny_lab))


def test_a_coin_turns_the_margin_of_a_verdict_or_not() -> None:
    coins = random_numbers(torch.arange(32), 1).sign()
    assert set(coins.tolist()) == {-1.0, 1.0}
    lab: Any = FixedRatios([2.0] * 32, [0.0] * 32)
    pairs: Any = Pairs("chosen", "rejected", torch.arange(32))  # type: ignore[arg-type]
    # beta .5: log(1 + e^-1) with the annotator, log(1 + e) against
    wanted = [math.log(1 + math.exp(-coin)) for coin in coins.tolist()]
    assert DriftDPO(beta=0.5, verdict_seed=1).loss(lab, pairs).tolist() == pytest.approx(wanted)
