"""DPO's loss against numbers worked by hand, and against TRL's on the same batch and models."""

import math
from pathlib import Path

import pytest
import torch

from isoalign.baselines.dpo import DPO
from isoalign.training.lab import Lab, session_of
from workbench import Bench, assert_same_gradients, loss_of_ratios, nudge, open_vocabulary, trl_trainer


def test_a_policy_that_is_its_base_loses_log_two() -> None:
    assert loss_of_ratios(DPO(), [0.0], [0.0]) == pytest.approx([math.log(2)])


def test_the_loss_is_the_logistic_loss_of_the_margin_times_beta() -> None:
    # beta .5: margins 4 and -4 give log(1 + e^-2) = .126928 and log(1 + e^2) = 2.126928
    assert loss_of_ratios(DPO(beta=0.5), [3.0, -1.0], [-1.0, 3.0]) == pytest.approx([0.126928, 2.126928], abs=1e-6)


def test_an_absurd_margin_gives_no_infinity() -> None:
    assert loss_of_ratios(DPO(beta=1.0), [-1e4, 1e4], [0.0, 0.0]) == pytest.approx([1e4, 0.0])


def test_the_log_ratio_is_the_difference_of_both_models_sums_over_the_answer(tiny_lab: Lab) -> None:
    nudge(tiny_lab)
    batch = tiny_lab.pairs(4).chosen
    ours, base = session_of(tiny_lab).policy(batch).logp, session_of(tiny_lab).reference(batch).logp
    torch.testing.assert_close(tiny_lab.log_ratio(batch), (ours - base).sum(1))
    assert (ours - base).abs().max() > 1e-3


def test_loss_and_gradient_are_trls_on_the_same_batch(tiny_bench: Bench, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab()))
    feedback = tiny_bench.source.feedback("annotator")
    pairs = feedback.pairs(torch.arange(7), session_of(lab).pad)
    ours = DPO(beta=0.3).loss(lab, pairs).mean()
    ours.backward()

    trainer = trl_trainer(DPOTrainer, DPOConfig, lab, tmp_path, beta=0.3, max_length=None)
    rows = [
        {"prompt_ids": feedback.prompts[i], "chosen_ids": feedback.chosen[i], "rejected_ids": feedback.rejected[i]}
        for i in range(7)
    ]
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(ours.item() - math.log(2)) > 0.01
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)
