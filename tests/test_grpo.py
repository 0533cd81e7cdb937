"""GRPO's advantages and loss against numbers worked by hand, and against TRL's on the same rollouts."""

import copy
import math
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from isoalign.baselines.grpo import GRPO, Compared
from isoalign.baselines.parts.advantages import group_advantages
from isoalign.baselines.parts.losses import k3
from isoalign.training.lab import Lab, session_of
from workbench import Bench, nudge, open_vocabulary, trl_arguments

MASK = tensor([[True, True, False], [True, False, False]])


def test_advantages_are_distances_from_the_groups_mean_in_its_deviations() -> None:
    # 1, 3: mean 2, deviation sqrt(2); 2, 2: none; 0, 8: mean 4, deviation sqrt(32)
    score, half = tensor([1.0, 3.0, 2.0, 2.0, 0.0, 8.0]), math.sqrt(0.5)
    found = group_advantages(score, 2, scale=True)
    torch.testing.assert_close(found, tensor([-half, half, 0.0, 0.0, -half, half]), atol=1e-4, rtol=0)
    torch.testing.assert_close(group_advantages(score, 2, scale=False), tensor([-1.0, 1.0, 0.0, 0.0, -4.0, 4.0]))


def test_advantages_are_those_of_trls_formula() -> None:
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    hoped = [
        (score - statistics.fmean(group)) / (statistics.stdev(group) + 1e-4) for group in scores.tolist() for score in group
    ]
    torch.testing.assert_close(group_advantages(scores.flatten(), 4, scale=True), tensor(hoped))


def test_k3_is_never_negative_and_its_mean_under_the_policy_is_the_kl() -> None:
    # p = 1/2, 1/2 and b = 1/4, 3/4: 1/2 + ln 2 - 1 = .193147 and 3/2 - ln 3/2 - 1 = .094535, whose mean is .143841,
    # and the KL is ln(2) / 2 + ln(2/3) / 2 = .143841
    found = k3(tensor([0.5, 0.5]).log(), tensor([0.25, 0.75]).log())
    torch.testing.assert_close(found, tensor([0.193147, 0.094535]), atol=1e-6, rtol=0)
    assert found.mean().item() == pytest.approx(math.log(2) / 2 + math.log(2 / 3) / 2)
    assert k3(tensor([-1.0]), tensor([-1.0])) == 0


def test_the_gradient_of_k3_is_that_of_the_kl_from_base_to_policy() -> None:
    logits = tensor([0.5, 0.5]).log().requires_grad_()
    logp = logits.log_softmax(0)
    (logp.detach().exp() * k3(logp, tensor([0.25, 0.75]).log())).sum().backward()
    # KL(b || p) has the gradient p - b in the logits; that of KL(p || b), p (ln p/b - KL), would be .2747, -.2747
    torch.testing.assert_close(logits.grad, tensor([0.25, -0.25]))


def fixed_loss(algorithm: GRPO) -> list[float]:
    """Of a policy whose first token of either row became 1.5 times as likely; all else is as it was, and is the base."""
    zero = torch.zeros(2, 3)
    logp = zero + math.log(1.5) * tensor([[1.0, 0.0, 9.0], [1.0, 9.0, 9.0]])  # padding must not matter
    answers: Any = SimpleNamespace(completion_mask=MASK)
    lab: Any = SimpleNamespace(policy=lambda _: SimpleNamespace(logp=logp), new_tokens=4)
    return algorithm.loss(lab, Compared(answers, zero, zero, tensor([2.0, -1.0]))).tolist()


def test_the_loss_clips_gains_penalises_kl_and_averages_each_rows_tokens() -> None:
    # gains: 1.2 x 2 (clipped) and 1 x 2; 1.5 x -1 (a loss is not clipped). k3 of the first tokens: 1/1.5 + ln 1.5 - 1
    nats = 1 / 1.5 + math.log(1.5) - 1
    assert fixed_loss(GRPO(kl=0.0)) == pytest.approx([-(2.4 + 2) / 2, 1.5])
    assert fixed_loss(GRPO(kl=0.5)) == pytest.approx([-(2.4 + 2) / 2 + 0.5 * nats / 2, 1.5 + 0.5 * nats])


def test_unscaled_by_length_every_row_is_divided_by_the_tokens_that_it_might_have_had() -> None:
    assert fixed_loss(GRPO(kl=0.0, scale_length=False)) == pytest.approx([-(2.4 + 2) / 4, 1.5 / 4])


def test_before_the_first_step_the_loss_is_minus_the_advantage_and_the_kl_is_nothing(tiny_lab: Lab) -> None:
    first = next(GRPO(rollouts=6, draws=3, minibatch=6, kl=9.0).iteration(tiny_lab))
    torch.testing.assert_close(first.loss(tiny_lab, first.batch).detach(), -first.batch.advantages)


def test_rewards_are_compared_within_a_prompts_own_group(tiny_lab: Lab) -> None:
    algorithm = GRPO(rollouts=6, draws=3, scale_std=False)
    answers = tiny_lab.generate(tiny_lab.prompts(2), 3)
    first, second = tiny_lab.reward(answers[:3]), tiny_lab.reward(answers[3:])
    hoped = torch.cat([first - first.mean(), second - second.mean()])
    torch.testing.assert_close(algorithm.experience(tiny_lab, answers).advantages, hoped)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"draws": 1}, "draws must be 2 or more, not 1"), ({"draws": 65}, "rollouts must be at least draws, 65, not 64"),
        ({"epochs": 0}, "epochs must be 1 or more, not 0"), ({"minibatch": 0}, "minibatch must be 1 or more, not 0"),
    ],
)  # fmt: skip
def test_a_group_of_one_is_refused_and_so_is_no_epoch(bad: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GRPO(**bad)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo"])
def test_loss_and_gradient_are_trls_on_the_same_rollouts(tiny_bench: Bench, tmp_path: Path, kind: str) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.replace(ends=True).lab()))
    scaled = kind == "grpo"
    algorithm = GRPO(rollouts=8, draws=4, kl=0.3, clip=0.1, scale_std=scaled, scale_length=scaled)
    batch = algorithm.experience(lab, lab.generate(lab.prompts(2), 4))
    nudge(lab, seed=3, by=0.02)  # one step further, so that ratios are not 1
    ours = algorithm.loss(lab, batch).mean()
    ours.backward()

    model = copy.deepcopy(session_of(lab).policy.inner)
    model.zero_grad()
    arguments = GRPOConfig(  # TRL weighs k3 by the ratio, as a later paper does, unless it is told not to
        **trl_arguments(tmp_path), num_generations=2, beta=0.3, epsilon=0.1, loss_type=kind, max_completion_length=5,
        use_bias_correction_kl=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model, lambda **_: [0.0], args=arguments, train_dataset=Dataset.from_list([{"prompt": "you"}]),
        processing_class=session_of(lab).policy.tokenizer,
    )  # fmt: skip
    answers, start = batch.rollouts, batch.rollouts.prompt_length
    columns: dict[str, Tensor] = {
        "prompt_ids": answers.tokens[:, :start], "prompt_mask": answers.mask[:, :start].long(),
        "completion_ids": answers.completion, "completion_mask": answers.completion_mask.long(),
        "advantages": batch.advantages, "old_per_token_logps": batch.logp, "ref_per_token_logps": batch.base_logp,
    }  # fmt: skip
    trainer.model.eval()
    theirs = trainer._compute_loss(trainer.model, columns)
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    ratios = (session_of(lab).policy(answers).logp - batch.logp).exp()[answers.completion_mask]
    assert ratios.min() < 0.9 < 1.1 < ratios.max(), "the batch has ratios that are clipped on either side"
    for mine, other in zip(session_of(lab).policy.inner.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)
