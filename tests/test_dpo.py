"""DPO's loss against numbers worked by hand, and against TRL's on the same batch and models."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import Bench, nudge, open_vocabulary, trl_arguments

from baselines.dpo import DPO
from bench.lab import Lab
from bench.types import Pairs


class FixedRatios:
    """A lab of which only the log-ratios matter."""

    def __init__(self, chosen: list[float], rejected: list[float]) -> None:
        self.ratios = {"chosen": torch.tensor(chosen), "rejected": torch.tensor(rejected)}
        self.logged: dict[str, float] = {}

    def log_ratio(self, side: str) -> torch.Tensor:
        return self.ratios[side]

    def log(self, **scalars: torch.Tensor) -> None:
        self.logged |= {name: float(value) for name, value in scalars.items()}


def loss(algorithm: DPO, chosen: list[float], rejected: list[float]) -> list[float]:
    pairs: Any = Pairs("chosen", "rejected", torch.zeros(1))  # type: ignore[arg-type]
    lab: Any = FixedRatios(chosen, rejected)
    return algorithm.loss(lab, pairs).tolist()


def test_a_policy_that_is_its_base_loses_log_two() -> None:
    assert loss(DPO(), [0.0], [0.0]) == pytest.approx([math.log(2)])


def test_the_loss_is_the_logistic_loss_of_the_margin_times_beta() -> None:
    # beta .5: margins 4 and -4 give log(1 + e^-2) = .126928 and log(1 + e^2) = 2.126928
    assert loss(DPO(beta=0.5), [3.0, -1.0], [-1.0, 3.0]) == pytest.approx([0.126928, 2.126928], abs=1e-6)


def test_an_absurd_margin_gives_no_infinity() -> None:
    assert loss(DPO(beta=1.0), [-1e4, 1e4], [0.0, 0.0]) == pytest.approx([1e4, 0.0])


def test_the_log_ratio_is_the_difference_of_both_models_sums_over_the_answer(tiny_lab: Lab) -> None:
    nudge(tiny_lab)
    batch = tiny_lab.pairs(4).chosen
    ours, base = tiny_lab._policy(batch).logp, tiny_lab._reference(batch).logp
    torch.testing.assert_close(tiny_lab.log_ratio(batch), (ours - base).sum(1))
    assert (ours - base).abs().max() > 1e-3


def test_loss_and_gradient_are_trls_on_the_same_batch(tiny_bench: Bench, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab()))
    feedback = tiny_bench.shelf.feedback("annotator")
    pairs = feedback.pairs(torch.arange(7), lab._pad)
    ours = DPO(beta=0.3).loss(lab, pairs).mean()
    ours.backward()

    words = Dataset.from_list([{"prompt": "you", "chosen": " are kind", "rejected": " idiot"}])
    model, reference = copy.deepcopy(lab._policy.inner), copy.deepcopy(lab._reference.inner)
    model.zero_grad()
    trainer = DPOTrainer(
        model, reference, args=DPOConfig(**trl_arguments(tmp_path), beta=0.3, max_length=None), train_dataset=words,
        processing_class=lab._policy.tokenizer,
    )  # fmt: skip
    rows = [
        {"prompt_ids": feedback.prompts[i], "chosen_ids": feedback.chosen[i], "rejected_ids": feedback.rejected[i]}
        for i in range(7)
    ]
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(ours.item() - math.log(2)) > 0.01
    for mine, other in zip(lab._policy.inner.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)
