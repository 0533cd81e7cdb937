"""IPO, conservative and robust DPO: losses against numbers worked by hand, and TRL's on the same batch and models."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from isoalign.baselines.cdpo import CDPO
from isoalign.baselines.dpo import DPO
from isoalign.baselines.ipo import IPO
from isoalign.baselines.robust_dpo import RobustDPO
from isoalign.data.preferences import Feedback
from isoalign.training.lab import session_of
from workbench import (
    Bench,
    assert_same_gradients,
    loss_of_ratios,
    make_feedback,
    nudge,
    open_vocabulary,
    trl_trainer,
)

MARGINS = ([3.0, -1.0], [-1.0, 3.0])  # of 4 and -4 nats; at beta .5 DPO loses .126928 and 2.126928 by them


def slope(algorithm: Any, margin: float) -> float:
    """How the loss changes with a nat of margin."""
    x = torch.tensor([margin], dtype=torch.float64, requires_grad=True)

    class Lab:
        def log_ratio(self, side: str) -> torch.Tensor:
            return x if side == "chosen" else torch.zeros(1, dtype=torch.float64)

        def log(self, **_: Any) -> None:
            pass

    class Sides:
        chosen, rejected = "chosen", "rejected"

    algorithm.loss(Lab(), Sides()).sum().backward()
    assert x.grad is not None
    return x.grad.item()


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_ipo_draws_the_margin_to_half_of_one_over_beta_and_no_further() -> None:
    # beta .1 aims at 5: margins of 1, 5 and 9 miss it by 4, 0 and 4
    assert loss_of_ratios(IPO(beta=0.1), [1.0, 6.0, 9.0], [0.0, 1.0, 0.0]) == pytest.approx([16.0, 0.0, 16.0])


def test_cdpo_believes_a_verdict_by_all_but_its_smoothing() -> None:
    # .9 * .126928 + .1 * 2.126928 and .9 * 2.126928 + .1 * .126928
    found = loss_of_ratios(CDPO(beta=0.5, label_smoothing=0.1), *MARGINS)
    assert found == pytest.approx([0.326928, 1.926928], abs=1e-6)


def test_cdpo_stops_where_the_policy_is_as_sure_as_the_labels_are() -> None:
    algorithm = CDPO(beta=0.5, label_smoothing=0.2)
    rest = math.log(0.8 / 0.2) / 0.5  # sigmoid(.5 * rest) = .8
    assert slope(algorithm, rest) == pytest.approx(0, abs=1e-9)
    assert slope(algorithm, rest - 0.1) < 0 < slope(algorithm, rest + 0.1)


def test_robust_dpo_subtracts_what_flipped_verdicts_add() -> None:
    # (.9 * .126928 - .1 * 2.126928) / .8 and (.9 * 2.126928 - .1 * .126928) / .8
    found = loss_of_ratios(RobustDPO(beta=0.5, flip_rate=0.1), *MARGINS)
    assert found == pytest.approx([-0.123072, 2.376928], abs=1e-6)


@pytest.mark.parametrize("margin", [-3.0, 0.0, 0.7, 12.0])
def test_robust_dpo_is_dpo_on_true_verdicts_in_the_mean_over_flips(margin: float) -> None:
    robust = RobustDPO(beta=0.5, flip_rate=0.2)
    (kept, flipped) = loss_of_ratios(robust, [margin, 0.0], [0.0, margin])
    assert 0.8 * kept + 0.2 * flipped == pytest.approx(loss_of_ratios(DPO(beta=0.5), [margin], [0.0])[0], abs=1e-5)
    assert 0.8 * slope(robust, margin) - 0.2 * slope(robust, -margin) == pytest.approx(slope(DPO(beta=0.5), margin))


def test_only_robust_dpo_has_an_unbounded_margin_without_contradicting_verdicts_so_it_declares_no_kl_coefficient() -> None:
    # far out DPO's slope is 0 and cDPO's turns back; robust DPO's stays at -beta * .1 / .8
    assert slope(RobustDPO(beta=0.5, flip_rate=0.1), 1e3) == pytest.approx(-0.0625)
    assert slope(DPO(beta=0.5), 1e3) == pytest.approx(0)
    assert slope(CDPO(beta=0.5, label_smoothing=0.1), 1e3) == pytest.approx(0.05)
    assert not RobustDPO.kl_price


@pytest.mark.parametrize("algorithm", [CDPO(beta=0.5, label_smoothing=0.0), RobustDPO(beta=0.5, flip_rate=0.0)])
def test_without_noise_both_are_dpo(algorithm: Any) -> None:
    assert loss_of_ratios(algorithm, *MARGINS) == pytest.approx(loss_of_ratios(DPO(beta=0.5), *MARGINS))


@pytest.mark.parametrize("algorithm", [CDPO(beta=1.0), RobustDPO(beta=1.0)])
def test_an_absurd_margin_gives_no_infinity(algorithm: Any) -> None:
    assert all(map(math.isfinite, loss_of_ratios(algorithm, [-1e4, 1e4], [0.0, 0.0])))


@pytest.mark.parametrize("rate", [-0.1, 0.5, 1.0])
def test_verdicts_that_are_wrong_as_often_as_right_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 0.5\)"):
        CDPO(label_smoothing=rate)
    with pytest.raises(ValueError, match=r"flip_rate must lie in \[0, 0.5\)"):
        RobustDPO(flip_rate=rate)


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_ipo_without_a_positive_beta_is_refused_because_its_margin_is_unbounded(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be positive"):
        IPO(beta=beta)


# -- against TRL -------------------------------------------------------------------------------------------------------


def rows(feedback: Feedback, swapped: bool = False) -> list[dict[str, Any]]:
    """Every verdict as TRL's collator reads it."""
    sides = (feedback.rejected, feedback.chosen) if swapped else (feedback.chosen, feedback.rejected)
    return [
        {"prompt_ids": prompt, "chosen_ids": first, "rejected_ids": second}
        for prompt, first, second in zip(feedback.prompts, *sides, strict=True)
    ]


@pytest.mark.parametrize("length", [1, 4])
def test_ipo_is_trls_for_answers_of_one_token_and_for_longer_ones_differs_by_their_length_alone(
    tiny_bench: Bench, tmp_path: Path, length: int
) -> None:
    """TRL's margin is in nats a token: (m / L - 1 / (2 beta L))^2 is ours over L^2."""
    from trl import DPOConfig, DPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab()))
    feedback = make_feedback("simulated", [2, 7, 4, 3, 5], [length] * 5)
    ours = IPO(beta=0.3).loss(lab, feedback.pairs(torch.arange(5), session_of(lab).pad)).mean()
    ours.backward()

    trainer = trl_trainer(DPOTrainer, DPOConfig, lab, tmp_path, loss_type="ipo", beta=0.3 * length, max_length=None)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows(feedback)))
    theirs.backward()

    assert ours.item() == pytest.approx(length**2 * theirs.item(), rel=1e-5)
    assert_same_gradients(session_of(lab).policy.inner, trainer.model, times=length**2)


def test_ipo_per_token_is_trls_on_ragged_answers(tiny_bench: Bench, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    lab, feedback = open_vocabulary(nudge(tiny_bench.lab())), make_feedback("simulated", [2, 7, 4, 3], [1, 5, 2, 4])
    ours = IPO(beta=0.3, scale_length=True).loss(lab, feedback.pairs(torch.arange(4), session_of(lab).pad)).mean()
    ours.backward()
    trainer = trl_trainer(DPOTrainer, DPOConfig, lab, tmp_path, loss_type="ipo", beta=0.3, max_length=None)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows(feedback)))
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)


def test_loss_and_gradient_of_robust_dpo_are_trls(tiny_bench: Bench, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab()))
    feedback = tiny_bench.source.feedback("annotator")
    ours = RobustDPO(beta=0.3, flip_rate=0.15).loss(lab, feedback.pairs(torch.arange(11), session_of(lab).pad)).mean()
    ours.backward()

    settings: dict[str, Any] = {"loss_type": "robust", "label_smoothing": 0.15, "beta": 0.3, "max_length": None}
    trainer = trl_trainer(DPOTrainer, DPOConfig, lab, tmp_path, **settings)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows(feedback)))
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)


def test_loss_and_gradient_of_cdpo_are_trls_dpo_on_both_orders_of_each_pair_in_the_share_of_their_probability(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    """TRL 1.16's sigmoid loss reads no label_smoothing, so the two orders are put to it one after the other."""
    from trl import DPOConfig, DPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab()))
    feedback = tiny_bench.source.feedback("annotator")
    ours = CDPO(beta=0.3, label_smoothing=0.15).loss(lab, feedback.pairs(torch.arange(11), session_of(lab).pad)).mean()
    ours.backward()

    trainer = trl_trainer(DPOTrainer, DPOConfig, lab, tmp_path, beta=0.3, max_length=None)
    orders = [trainer.data_collator(rows(feedback, swapped)) for swapped in (False, True)]
    told, flipped = (trainer.compute_loss(trainer.model, order) for order in orders)
    theirs = 0.85 * told + 0.15 * flipped
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(ours.item() - told.item()) > 1e-3, "the smoothing must matter"
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)
