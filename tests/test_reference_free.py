"""SimPO and ORPO: losses against numbers worked by hand, and TRL's on the same batch and models; neither reads a reference."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from isoalign.baselines.orpo import ORPO, log_odds
from isoalign.baselines.sft_chosen import SFTChosen
from isoalign.baselines.simpo import SimPO
from isoalign.core.batches import Pairs
from isoalign.core.records import Budget
from isoalign.data.preferences import Feedback, rollouts
from isoalign.training.lab import session_of
from workbench import (
    Bench,
    assert_same_gradients,
    make_feedback,
    nudge,
    open_vocabulary,
    small,
    trl_trainer,
)


class FixedPolicy:
    """A lab whose policy gives every token of an answer the log-probability that is asked for; padding has 0."""

    def __init__(self, *each: tuple[Any, list[list[float]]]) -> None:
        self.said = [(batch, self.padded(said)) for batch, said in each]

    @staticmethod
    def padded(said: list[list[float]]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([tensor(row) for row in said], batch_first=True)

    def policy(self, batch: Any) -> Any:
        class Outputs:
            logp = next(logp for known, logp in self.said if known is batch)

        return Outputs

    def log(self, **_: Any) -> None:
        pass


def loss(algorithm: Any, chosen: list[list[float]], rejected: list[list[float]]) -> list[float]:
    """What a loss makes of given log-probabilities of tokens; only their numbers of tokens matter of the answers."""
    sides = [rollouts([[0]] * len(said), [[5] * len(row) for row in said], pad=1) for said in (chosen, rejected)]
    lab: Any = FixedPolicy(*zip(sides, (chosen, rejected), strict=True))
    found: list[float] = algorithm.loss(lab, Pairs(*sides, torch.arange(len(chosen)))).tolist()
    return found


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_simpo_compares_mean_log_probabilities_and_asks_for_a_margin() -> None:
    # means -2 against -3, and -3 against -2; beta 2, gamma .5: gaps of 2 - .5 = 1.5 and -2 - .5 = -2.5 lose
    # log(1 + e^-1.5) = .201413 and log(1 + e^2.5) = 2.578890
    found = loss(SimPO(beta=2.0, gamma=0.5), [[-1.0, -3.0], [-3.0]], [[-2.0, -3.0, -3.0, -4.0], [-2.0, -2.0]])
    assert found == pytest.approx([0.201413, 2.578890], abs=1e-6)


def test_simpo_gives_nothing_for_length() -> None:
    """Of two answers whose tokens are equally likely, DPO without its base would take the shorter one."""
    assert loss(SimPO(gamma=0.0), [[-1.0] * 9], [[-1.0]]) == pytest.approx([math.log(2)])


def test_orpo_adds_the_odds_ratio_to_the_likelihood_by_its_weight() -> None:
    # P .8 against .5: odds 4 to 1, so -log(.8) - .5 * log(4 / 5) = 1.5 * .223144;
    # the other way round odds 1 to 4: -log(.5) - .5 * log(1 / 5) = .693147 + .804719
    sure, unsure = [math.log(0.8)] * 3, [math.log(0.5)]
    found = loss(ORPO(odds_weight=0.5), [sure, unsure], [unsure, sure])
    assert found == pytest.approx([0.334715, 1.497866], abs=1e-6)


def test_log_odds_are_right_from_next_to_nothing_to_next_to_certain() -> None:
    probabilities = [1e-30, 1e-3, 0.25, 0.5, 0.999]
    hoped = [math.log(p / (1 - p)) for p in probabilities]
    torch.testing.assert_close(log_odds(tensor([math.log(p) for p in probabilities])), tensor(hoped), rtol=1e-5, atol=1e-5)


def test_answers_that_are_certain_or_impossible_have_finite_odds_and_gradients() -> None:
    logp = tensor([0.0, 1e-7, -1e-9, -1e4], requires_grad=True)
    odds = log_odds(logp)
    odds.sum().backward()
    assert logp.grad is not None
    assert torch.isfinite(odds).all()
    assert torch.isfinite(logp.grad).all()


def test_orpo_without_its_odds_is_the_control(tiny_bench: Bench) -> None:
    lab = nudge(tiny_bench.lab())
    pairs = lab.pairs(5)
    control = SFTChosen().loss(lab, pairs.chosen)
    torch.testing.assert_close(ORPO(odds_weight=0.0).loss(lab, pairs), control)
    assert (ORPO(odds_weight=0.1).loss(lab, pairs) > control).all()


def test_a_negative_weight_of_the_odds_is_refused() -> None:
    with pytest.raises(ValueError, match="odds_weight must be 0 or more"):
        ORPO(odds_weight=-0.1)


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_an_unused_reference_is_not_charged(tiny_bench: Bench, tmp_path: Path, name: str) -> None:
    bills = []
    for method in (name, "dpo"):
        trainer = tiny_bench.trainer(small(method), Budget(1e15, steps=2), tmp_path / method)
        trainer.run(method)
        bills.append({role: flops for (role, kind), flops in trainer.meter.items.items() if kind == "forward"})
    assert "reference" not in bills[0]
    assert bills[0]["policy"] == bills[1]["policy"] == bills[1]["reference"]


# -- against TRL -------------------------------------------------------------------------------------------------------


def rows(feedback: Feedback) -> list[dict[str, list[int]]]:
    """Every verdict as the collator of TRL's older trainers reads it: labels are -100 on the prompt."""
    found = []
    for prompt, chosen, rejected in zip(feedback.prompts, feedback.chosen, feedback.rejected, strict=True):
        row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side, answer in (("chosen", chosen), ("rejected", rejected)):
            row[f"{side}_input_ids"] = prompt + answer
            row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
            row[f"{side}_labels"] = [-100] * len(prompt) + answer
        found.append(row)
    return found


def test_loss_and_gradient_of_simpo_are_trls(tiny_bench: Bench, tmp_path: Path) -> None:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab()))
    feedback = tiny_bench.source.feedback("annotator")
    ours = SimPO(beta=1.5, gamma=0.7).loss(lab, feedback.pairs(torch.arange(11), session_of(lab).pad)).mean()
    ours.backward()

    settings: dict[str, Any] = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 1.5, "simpo_gamma": 0.7}
    trainer = trl_trainer(CPOTrainer, CPOConfig, lab, tmp_path, **settings)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows(feedback)))
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)


def test_loss_and_gradient_of_orpo_are_trls_where_the_prompt_is_empty(tiny_bench: Bench, tmp_path: Path) -> None:
    """TRL's likelihood counts the prompt's tokens, and long answers more than short ones: behind the opening token alone,
    and with answers of one length, it is ours."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab()))
    feedback = make_feedback("simulated", [1] * 7, [4] * 7)
    ours = ORPO(odds_weight=0.6).loss(lab, feedback.pairs(torch.arange(7), session_of(lab).pad)).mean()
    ours.backward()

    trainer = trl_trainer(ORPOTrainer, ORPOConfig, lab, tmp_path, beta=0.6)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows(feedback)))
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)


def test_the_odds_ratio_of_orpo_and_its_gradient_are_trls_for_prompts_and_answers_of_any_length(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab()))
    feedback = tiny_bench.source.feedback("annotator")
    pairs = feedback.pairs(torch.arange(11), session_of(lab).pad)
    ours = (ORPO(odds_weight=0.6).loss(lab, pairs) - ORPO(odds_weight=0.0).loss(lab, pairs)).mean()
    ours.backward()

    trainer = trl_trainer(ORPOTrainer, ORPOConfig, lab, tmp_path, beta=0.6)
    chosen, rejected, *_ = trainer.concatenated_forward(trainer.model, trainer.data_collator(rows(feedback)))
    theirs = -trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)
