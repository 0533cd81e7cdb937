"""REINFORCE and leave-one-out: numbers worked by hand, the exact gradient by enumeration, and TRL's loss."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from isoalign.baselines.parts.advantages import leave_one_out
from isoalign.baselines.parts.sampling import Weighed
from isoalign.baselines.reinforce import Reinforce, priced, reinforce_loss
from isoalign.baselines.rloo import RLOO
from isoalign.core.batches import Rollouts
from isoalign.data.preferences import rollouts
from isoalign.training.lab import Lab, session_of
from workbench import Bench, nudge, open_vocabulary, trl_arguments


def gradient(lab: Lab) -> list[Tensor]:
    return [p.grad.clone() for p in session_of(lab).policy.inner.parameters() if p.grad is not None]


@pytest.mark.parametrize(("decay", "second"), [(0.5, [1.0, 3.0]), (0.9, [2.6, 4.6]), (0.0, [-1.0, 1.0])])
def test_the_baseline_is_a_moving_average_that_starts_at_the_first_mean(
    tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch, decay: float, second: list[float]
) -> None:
    rewards = [tensor([1.0, 3.0]), tensor([5.0, 7.0])]
    monkeypatch.setattr(tiny_lab, "reward", lambda _: rewards.pop(0))
    algorithm = Reinforce(rollouts=2, decay=decay)
    found = [step.batch.advantages for _ in range(2) for step in algorithm.iteration(tiny_lab)]
    # the untouched policy has no drift. Means 2 and 6; the baseline is 2, then .5 x 2 + .5 x 6 = 4, .9 x 2 + .1 x 6 = 2.4,
    # or the batch's own 6
    torch.testing.assert_close(found[0], tensor([-1.0, 1.0]))
    torch.testing.assert_close(found[1], tensor(second))


def test_every_nat_of_a_completions_log_ratio_is_taken_off_its_reward(tiny_lab: Lab) -> None:
    nudge(tiny_lab)
    answers = tiny_lab.pairs(5).chosen
    found = priced(tiny_lab, answers, tiny_lab.reward(answers), 0.7)
    ratio = (session_of(tiny_lab).policy(answers).logp - session_of(tiny_lab).reference(answers).logp).sum(1).detach()
    assert ratio.abs().max() > 0.01
    torch.testing.assert_close(found, tiny_lab.reward(answers) - 0.7 * ratio)
    assert not found.requires_grad


@pytest.mark.parametrize("baseline", [0.0, 3.0])
def test_the_expected_gradient_is_that_of_the_penalised_reward_with_any_baseline(tiny_lab: Lab, baseline: float) -> None:
    """Over all completions of one token there are, so without sampling error."""
    lab, price = open_vocabulary(nudge(tiny_lab)), 0.7
    every = rollouts([[0, 7]] * 320, [[token] for token in range(320)], pad=1)
    reward = torch.randn(320, generator=torch.Generator().manual_seed(2))

    logp, base = session_of(lab).policy(every).logp.sum(1), session_of(lab).reference(every).logp.sum(1).detach()
    assert logp.exp().sum().item() == pytest.approx(1, abs=1e-5)
    objective = (logp.exp() * reward).sum() - price * (logp.exp() * (logp - base)).sum()
    (-objective).backward()
    exact = gradient(lab)
    session_of(lab).policy.inner.zero_grad()

    returns = reward - price * (logp - base).detach()
    losses = reinforce_loss(lab, Weighed(every, returns - baseline))
    assert losses.shape == (320,)
    (logp.detach().exp() * losses).sum().backward()
    for ours, theirs in zip(gradient(lab), exact, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)


def test_a_return_is_measured_by_the_mean_of_the_others_of_its_prompt() -> None:
    # others of 1, 2, 6: 4, 3.5, 1.5; of 0, 0, 3: 1.5, 1.5, 0
    found = leave_one_out(tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0]), 3)
    torch.testing.assert_close(found, tensor([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]))


def test_a_return_that_rises_moves_its_own_baseline_not_at_all() -> None:
    returns = torch.randn(8, generator=torch.Generator().manual_seed(0))
    higher = returns.clone()
    higher[2] += 1
    moved = leave_one_out(higher, 4) - leave_one_out(returns, 4)
    torch.testing.assert_close(moved, tensor([-1 / 3, -1 / 3, 1.0, -1 / 3, 0.0, 0.0, 0.0, 0.0]))


def test_rloo_compares_completions_of_one_prompt_with_each_other_and_no_others(tiny_lab: Lab) -> None:
    nudge(tiny_lab)
    (step,) = RLOO(rollouts=13, draws=3, kl=0.3).iteration(tiny_lab)
    answers = step.batch.rollouts
    assert len(answers) == 12
    returns = priced(tiny_lab, answers, tiny_lab.reward(answers), 0.3).tolist()
    prompts = [tuple(row.tolist()) for row in answers.tokens[:, : answers.prompt_length]]
    for row, advantage in enumerate(step.batch.advantages.tolist()):
        others = [returns[i] for i in range(12) if prompts[i] == prompts[row] and i != row]
        assert len(others) == 2
        assert advantage == pytest.approx(returns[row] - sum(others) / 2, abs=1e-5)


@pytest.mark.parametrize("bad", [{"draws": 1}, {"draws": 5, "rollouts": 4}])
def test_a_group_of_one_or_of_more_than_there_are_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"draws must be 2 or more, not 1|rollouts must be at least draws, 5, not 4"):
        RLOO(**bad)


@pytest.mark.parametrize("bad", [{"decay": 1.0}, {"decay": -0.1}, {"rollouts": 0}, {"rollouts": 1, "decay": 0}])
def test_a_baseline_that_never_moves_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)|rollouts must be 1 or more|is its own baseline"):
        Reinforce(**bad)


def as_trl(answers: Rollouts) -> dict[str, Tensor]:
    """Rollouts under the names that TRL's on-policy trainers give their columns."""
    start = answers.prompt_length
    return {
        "prompt_ids": answers.tokens[:, :start], "prompt_mask": answers.mask[:, :start].long(),
        "completion_ids": answers.completion, "completion_mask": answers.completion_mask.long(),
    }  # fmt: skip


def test_the_gradient_is_trls_rloo_on_the_same_rollouts(tiny_bench: Bench, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    lab = open_vocabulary(nudge(tiny_bench.replace(ends=True).lab()))
    answers = lab.generate(lab.prompts(4), draws=2)
    advantages = leave_one_out(priced(lab, answers, lab.reward(answers), 0.3), 2)
    reinforce_loss(lab, Weighed(answers, advantages)).mean().backward()

    model = copy.deepcopy(session_of(lab).policy.inner)
    model.zero_grad()
    trainer = RLOOTrainer(
        model, lambda **_: [0.0], args=RLOOConfig(**trl_arguments(tmp_path), num_generations=2),
        train_dataset=Dataset.from_list([{"prompt": "you"}]), processing_class=session_of(lab).policy.tokenizer,
    )  # fmt: skip
    with torch.no_grad():
        old = session_of(lab).policy(answers).logp.sum(1)
    # at the policy that sampled, TRL's clipped ratio is 1 and its gradient that of the log-probability
    trainer._compute_loss(trainer.model, as_trl(answers) | {"advantages": advantages, "old_logps": old}).backward()
    assert any(p.grad.abs().max() > 1e-3 for p in trainer.model.parameters())
    for mine, other in zip(session_of(lab).policy.inner.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)
