"""DAPO, CISPO, GSPO and REINFORCE++: numbers worked by hand, and TRL's GRPO trainer on the same rollouts."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from isoalign import joined
from isoalign.baselines.cispo import CISPO
from isoalign.baselines.dapo import DAPO, overlong_penalty
from isoalign.baselines.gspo import GSPO
from isoalign.baselines.parts.groups import Grouped, by_tokens, grouped
from isoalign.baselines.parts.losses import clipped_loss
from isoalign.baselines.ppo import PPO
from isoalign.baselines.reinforce_pp import ReinforcePP
from isoalign.core.records import Budget
from isoalign.training.lab import Lab, session_of
from workbench import Bench, nudge, open_vocabulary, trl_arguments

MASK = tensor([[True, True, False], [True, False, False]])
ANSWERS: Any = SimpleNamespace(completion_mask=MASK)


def fixed(algorithm: Any, batch: Any, ratio: float = 1.5) -> list[float]:
    """The loss where the first token of either row became ``ratio`` times as likely as when it was sampled."""
    logp = math.log(ratio) * tensor([[1.0, 0.0, 9.0], [1.0, 9.0, 9.0]])  # padding must not matter
    lab: Any = SimpleNamespace(policy=lambda _: SimpleNamespace(logp=logp), new_tokens=4)
    found: list[float] = algorithm.loss(lab, batch).tolist()
    return found


def of_two_rows(length: float = 1.5) -> Any:
    return Grouped(ANSWERS, torch.zeros(2, 3), tensor([2.0, -1.0]), tensor([length, length]))


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_dapo_clips_farther_above_than_below_and_divides_by_all_tokens_of_the_step() -> None:
    # 1.28 x 2 (clipped) + 1 x 2 and 1.5 x -1 (a loss is not clipped), by 1.5 tokens a row
    assert fixed(DAPO(), of_two_rows()) == pytest.approx([-(2.56 + 2) / 1.5, 1.5 / 1.5])
    # a ratio of .5: .5 x 2 (a gain is not clipped below) + 2, and .8 x -1 (clipped)
    assert fixed(DAPO(), of_two_rows(), 0.5) == pytest.approx([-(1 + 2) / 1.5, 0.8 / 1.5])


def test_cispo_cuts_the_weight_and_keeps_the_gradient_of_every_token() -> None:
    logp = tensor([[math.log(8.0), 0.0, 0.0], [0.5, 0.0, 0.0]], requires_grad=True)
    lab: Any = SimpleNamespace(policy=lambda _: SimpleNamespace(logp=logp))
    loss = CISPO(cap=5.0).loss(lab, of_two_rows())
    assert loss.tolist() == pytest.approx([-5 * 2 * math.log(8) / 1.5, math.exp(0.5) * 0.5 / 1.5])
    loss.sum().backward()
    # minus weight x advantage, by 1.5 tokens: 5 (cut from 8) x 2, 1 x 2; e^.5 x -1
    torch.testing.assert_close(logp.grad, tensor([[-10.0, -2.0, 0.0], [math.exp(0.5), 0.0, 0.0]]) / 1.5)


def test_gspo_has_one_ratio_an_answer_the_geometric_mean_of_its_tokens() -> None:
    # s = 1.5^(1/2) = 1.2247 for two tokens and 1.5 for one; 1.1 x 2 (clipped) and 1.5 x -1
    assert fixed(GSPO(clip=0.1, clip_high=0.1), of_two_rows()) == pytest.approx([-2.2, 1.5])
    assert fixed(GSPO(clip=0.1, clip_high=0.5), of_two_rows()) == pytest.approx([-2 * math.sqrt(1.5), 1.5])


def test_the_penalty_rises_over_the_last_share_of_the_longest_answer() -> None:
    lengths = tensor([0, 8, 9, 10])
    assert overlong_penalty(lengths, 10, 0.2).tolist() == pytest.approx([0, 0, 0.5, 1])
    assert overlong_penalty(lengths, 10, 0.0).tolist() == [0, 0, 0, 0]


def test_reinforce_pp_gives_a_token_what_is_still_to_come_in_deviations_of_the_batch() -> None:
    base = tensor([[0.0, 1.0, 9.0], [2.0, 9.0, 9.0]])
    lab: Any = SimpleNamespace(
        reward=lambda _: tensor([3.0, 1.0]), policy=lambda _: SimpleNamespace(logp=torch.zeros(2, 3)), log=lambda **_: None,
        reference=lambda _: SimpleNamespace(logp=base),
    )  # fmt: skip
    found = ReinforcePP(kl=0.5).experience(lab, ANSWERS).advantages
    # rewards -.5 x (0 - base): first row 0, .5 + 3; second 1 + 1. To come: 3.5, 3.5 and 2; mean 3, biased deviation 1/sqrt(2)
    torch.testing.assert_close(found, tensor([[0.5, 0.5, 0.0], [-1.0, 0.0, 0.0]]) * math.sqrt(2), atol=1e-5, rtol=0)
    advantages = tensor([[2.0, 2.0, 0.0], [-1.0, 0.0, 0.0]])
    batch = Grouped(ANSWERS, torch.zeros(2, 3), advantages, tensor([1.5, 1.5]))
    assert fixed(ReinforcePP(), batch) == pytest.approx([-(2.4 + 2) / 2, 1.5])
    assert fixed(ReinforcePP(scale_length=False), batch) == pytest.approx([-(2.4 + 2) / 1.5, 1.5 / 1.5])


def test_reinforce_pp_is_ppo_whose_values_are_zero(tiny_bench: Bench) -> None:
    class Valueless(PPO):
        def values(self, lab: Lab, rollouts: Any, hidden: Tensor) -> Tensor:
            return torch.zeros(rollouts.completion.shape)

    lab = nudge(tiny_bench.replace(ends=True).lab())
    answers = lab.generate(lab.prompts(6), 1)
    ours = ReinforcePP(kl=0.3).experience(lab, answers)
    theirs = Valueless(kl=0.3, gae_lambda=1.0, reward_clip=1e9).experience(lab, answers)
    torch.testing.assert_close(ours.advantages, theirs.advantages)
    nudge(lab, seed=3, by=0.02)
    torch.testing.assert_close(ReinforcePP().loss(lab, ours), Valueless(value_weight=0.0).loss(lab, theirs))


# -- groups ------------------------------------------------------------------------------------------------------------


class Scores:
    """A lab whose prompts are answered by their number and whose rewards are told."""

    new_tokens = 5

    def __init__(self, bench: Bench, *told: list[float]) -> None:
        self.lab, self.told, self.asked = bench.lab(), [tensor(each, dtype=torch.float) for each in told], list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lab, name)

    def prompts(self, count: int) -> Any:
        self.asked.append(count)
        return self.lab.prompts(count)

    def reward(self, answers: Any) -> Tensor:
        return self.told.pop(0)[: len(answers)]


def test_groups_whose_answers_score_alike_are_drawn_again(tiny_bench: Bench) -> None:
    lab = Scores(tiny_bench, [1, 1, 0, 2, 3, 3], [5, 6, 4, 4], [7, 8])
    answers, score = DAPO(rollouts=6, draws=2, overlong=0.0).sample(lab)  # type: ignore[arg-type]
    assert lab.asked == [3, 2, 1]
    assert score.tolist() == [0, 2, 5, 6, 7, 8]
    assert len(answers) == 6


def test_groups_of_several_tries_keep_their_own_answers_whatever_the_lengths_of_their_prompts(tiny_bench: Bench) -> None:
    lab = tiny_bench.lab()
    answers = lab.generate(lab.prompts(8), 2)
    widths = answers.mask[:, : answers.prompt_length].sum(1)
    parts = [answers[[int(place)]].trimmed() for place in (widths.argmin(), widths.argmax())]  # each as wide as its prompt
    assert parts[0].prompt_length < parts[1].prompt_length
    for order in (parts, parts[::-1]):
        both = joined(order, 0)
        assert real_tokens(both) == [tokens for part in order for tokens in real_tokens(part)]


def real_tokens(rollouts: Any) -> list[tuple[list[int], list[int]]]:
    """Those of each prompt and of its answer."""
    start, rows = rollouts.prompt_length, zip(rollouts.tokens, rollouts.mask, strict=True)
    return [(row[:start][real[:start]].tolist(), row[start:][real[start:]].tolist()) for row, real in rows]


class Ragged(Scores):
    """The same, where every second answer is two tokens shorter."""

    def generate(self, prompts: Any, draws: int) -> Any:
        answers = self.lab.generate(prompts, draws)
        mask = answers.mask.clone()
        mask[1::2, -2:] = False
        return replace(answers, mask=mask)


def test_answers_of_one_reward_are_drawn_again_even_if_their_lengths_are_priced_differently(tiny_bench: Bench) -> None:
    """Eq. 11 asks whether answers differ in what is right, in which their length has no part."""
    lab = Ragged(tiny_bench, [1, 1, 1, 1, 0, 2], [5, 6, 4, 7])
    _, score = DAPO(rollouts=6, draws=2, overlong=1.0).sample(lab)  # type: ignore[arg-type]
    assert lab.asked == [3, 2]
    # less 5/5 for five tokens of at most five, and 3/5 for three
    assert score.tolist() == pytest.approx([0 - 1, 2 - 0.6, 5 - 1, 6 - 0.6, 4 - 1, 7 - 0.6])


@pytest.mark.parametrize("overlong", [0.0, 1.0])
def test_after_the_last_try_the_step_is_filled_with_groups_that_teach_nothing(tiny_bench: Bench, overlong: float) -> None:
    lab = Ragged(tiny_bench, [1, 1, 0, 2, 3, 3], [5, 5, 4, 4])
    _, score = DAPO(rollouts=6, draws=2, overlong=overlong, tries=2).sample(lab)  # type: ignore[arg-type]
    assert lab.asked == [3, 2]
    assert score.tolist()[2:] == [5, 5, 4, 4], "whatever their lengths"
    assert score.tolist()[:2] == pytest.approx([0 - overlong, 2 - 0.6 * overlong])
    logged = {name: values[-1][0] for name, values in session_of(lab.lab).logged.items()}
    assert logged["varied"] == pytest.approx(2 / 10), "of all answers that were sampled"
    assert logged["reward"] == pytest.approx((1 + 1 + 0 + 2 + 3 + 3 + 5 + 5 + 4 + 4) / 10)


def test_a_mean_over_rows_is_one_over_the_tokens_of_the_step_and_stays_it_in_micro_batches(tiny_bench: Bench) -> None:
    lab = nudge(tiny_bench.replace(ends=True).lab())
    answers = lab.generate(lab.prompts(3), 3)
    batch = grouped(lab, answers, torch.arange(9.0), 3)
    (first, second) = by_tokens(lab, batch, DAPO().loss, 1, 5)
    for step in (first, second):
        rows: Any = step.batch
        mask = rows.rollouts.completion_mask
        per_token = clipped_loss(lab.policy(rows.rollouts).logp - rows.logp, rows.advantages.unsqueeze(1), 0.2, 0.28)
        torch.testing.assert_close(step.loss(lab, rows).mean(), per_token[mask].mean())
    assert [len(first.batch), len(second.batch)] == [5, 4]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DAPO(draws=1), "draws must be 2 or more, not 1"),
        (lambda: DAPO(tries=0), "tries be 1 or more"),
        (lambda: DAPO(overlong=1.5), r"overlong lie in \[0, 1\]"),
        (lambda: GSPO(clip=1.0), r"clip must lie in \[0, 1\)"),
        (lambda: GSPO(draws=65), "rollouts must be at least draws, 65, not 64"),
        (lambda: CISPO(cap=0.5), "cap must be 1 or more"),
        (lambda: ReinforcePP(epochs=0), "epochs must be 1 or more, not 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# -- against TRL -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (DAPO(clip=0.05, clip_high=0.08), {"loss_type": "dapo", "epsilon": 0.05, "epsilon_high": 0.08}),
        (CISPO(cap=1.03), {"loss_type": "cispo", "epsilon_high": 1.03}),
        (
            GSPO(clip=0.01, clip_high=0.02),
            {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.01, "epsilon_high": 0.02},
        ),
    ],
    ids=["dapo", "cispo", "gspo"],
)
def test_loss_and_gradient_are_trls_on_the_same_rollouts(
    tiny_bench: Bench, tmp_path: Path, algorithm: Any, settings: dict[str, Any]
) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    lab = open_vocabulary(nudge(tiny_bench.replace(ends=True).lab()))
    answers = lab.generate(lab.prompts(3), 3)
    ends = answers.prompt_length + tensor([5, 1, 3, 2, 5, 4, 1, 2, 5])
    answers = replace(answers, mask=answers.mask & (torch.arange(answers.mask.shape[1]) < ends.unsqueeze(1)))
    whole = grouped(lab, answers, lab.reward(answers), 3)
    nudge(lab, seed=3, by=0.02)  # one step further, so that ratios are not 1
    (step,) = by_tokens(lab, whole, algorithm.loss, 1, 9)
    batch: Any = step.batch
    ours = algorithm.loss(lab, batch).mean()
    ours.backward()

    model = copy.deepcopy(session_of(lab).policy.inner)
    model.zero_grad()
    arguments = GRPOConfig(**trl_arguments(tmp_path), num_generations=2, beta=0.0, max_completion_length=5, **settings)
    trainer = GRPOTrainer(
        model, lambda **_: [0.0], args=arguments, train_dataset=Dataset.from_list([{"prompt": "you"}]),
        processing_class=session_of(lab).policy.tokenizer,
    )  # fmt: skip
    rollouts, start = batch.rollouts, batch.rollouts.prompt_length
    columns: dict[str, Tensor] = {
        "prompt_ids": rollouts.tokens[:, :start], "prompt_mask": rollouts.mask[:, :start].long(),
        "completion_ids": rollouts.completion, "completion_mask": rollouts.completion_mask.long(),
        "advantages": batch.advantages, "old_per_token_logps": batch.logp,
        "num_items_in_batch": rollouts.completion_mask.sum(),
    }  # fmt: skip
    trainer.model.eval()
    theirs = trainer._compute_loss(trainer.model, columns)
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    lengths = rollouts.completion_mask.sum(1)
    assert lengths.min() < lengths.max(), "the answers are of unequal length"
    ratios = (session_of(lab).policy(rollouts).logp - batch.logp).exp()[rollouts.completion_mask]
    assert ratios.min() < 0.95 < 1.08 < ratios.max(), "the batch has ratios that are clipped on either side"
    for mine, other in zip(session_of(lab).policy.inner.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_a_reward_that_tells_no_answers_apart_ends_in_steps_that_change_nothing(tiny_bench: Bench, tmp_path: Path) -> None:
    class Indifferent(Lab):
        def reward(self, answers: Any, labelled_by: str = "annotator") -> Tensor:
            return 0 * super().reward(answers, labelled_by)

    trainer = tiny_bench.trainer(DAPO(rollouts=4, draws=2, minibatch=4), Budget(1e15, steps=2), tmp_path)
    trainer.lab.__class__ = Indifferent
    trainer.run("dapo")
    assert [row["grad_norm"] for row in trainer.log] == [0, 0]
    assert trainer.log[0]["varied"] == 0
