"""Methods that sample their own answers and keep or pair them: rejection sampling, iterative and online DPO, PPO then DPO."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from isoalign.baselines.dpo import DPO
from isoalign.baselines.iterative_dpo import IterativeDPO
from isoalign.baselines.online_dpo import OnlineDPO
from isoalign.baselines.parts.choosing import best, best_against_worst
from isoalign.baselines.rft import RFT
from isoalign.baselines.rlhf_then_dpo import RLHFThenDPO
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.data.preferences import rollouts
from isoalign.feedback.judges.verdicts import Verdict
from isoalign.training.lab import Lab, session_of
from workbench import Bench, nudge, small

ANSWERS = rollouts([[0, 5]] * 3 + [[0, 6]] * 3, [[10], [11], [12], [20], [21], [22]], pad=1)


def answers_of(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> list[Rollouts]:
    """What the policy will be asked to sample from here on."""
    sampled: list[Rollouts] = []
    generate = lab.generate

    def watch(*request: Any, **more: Any) -> Rollouts:
        sampled.append(generate(*request, **more))
        return sampled[-1]

    monkeypatch.setattr(lab, "generate", watch)
    return sampled


def rows(batch: Rollouts) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for row in batch.tokens]


def by_prompt(sampled: Rollouts, scores: Tensor) -> dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]]:
    """Each prompt with its answers and their scores, the best first."""
    found: dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]] = {}
    for row, score in zip(rows(sampled), scores.tolist(), strict=True):
        found.setdefault(row[: sampled.prompt_length], []).append((score, row))
    return {prompt: sorted(scored, reverse=True) for prompt, scored in found.items()}


# -- what is kept, what is paired --------------------------------------------------------------------------------------


def test_the_best_of_each_prompt_is_its_highest_score_and_the_first_of_equals() -> None:
    assert best(tensor([1.0, 3.0, 2.0, 5.0, 4.0, 5.0]), 3).tolist() == [1, 3]
    assert best(tensor([1.0, 3.0, 2.0, 5.0, 4.0, 5.0]), 2).tolist() == [1, 3, 5]


def test_a_pair_is_the_best_against_the_worst_of_one_prompt() -> None:
    pairs = best_against_worst(ANSWERS, tensor([1.0, 3.0, 2.0, -5.0, -4.0, -6.0]), 3)
    assert pairs.chosen.completion.flatten().tolist() == [11, 21]
    assert pairs.rejected.completion.flatten().tolist() == [10, 22]
    assert torch.equal(pairs.chosen.tokens[:, :2], pairs.rejected.tokens[:, :2])


def test_answers_that_nothing_tells_apart_teach_nothing(tiny_lab: Lab) -> None:
    nudge(tiny_lab)
    pairs = best_against_worst(ANSWERS, tensor([2.0, 2.0, 2.0, 7.0, 7.0, 7.0]), 3)
    losses = DPO(beta=3.0).loss(tiny_lab, pairs)
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.full((2,), math.log(2)))
    assert all((p.grad == 0).all() for p in session_of(tiny_lab).policy.inner.parameters() if p.grad is not None)


def test_rejection_sampling_imitates_the_best_answer_to_each_prompt_once_an_epoch(
    tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = answers_of(tiny_lab, monkeypatch)
    steps = list(RFT(prompts=7, draws=3, epochs=2, batch_size=4).iteration(tiny_lab))
    assert [len(step.batch) for step in steps] == [4, 3, 4, 3]
    (answers,) = sampled
    hoped = sorted(scored[0][1] for scored in by_prompt(answers, tiny_lab.reward(answers)).values())
    assert len(hoped) == 7
    for epoch in (steps[:2], steps[2:]):
        assert sorted(row for step in epoch for row in rows(step.batch)) == hoped
    losses = steps[0].loss(tiny_lab, steps[0].batch)
    logp = session_of(tiny_lab).policy(steps[0].batch).logp
    torch.testing.assert_close(losses, -logp.sum(1) / 5)  # answers of five tokens, each for as much


def test_iterative_dpo_learns_from_the_best_and_worst_answer_to_each_prompt_once_an_epoch(
    tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = answers_of(tiny_lab, monkeypatch)
    steps = list(IterativeDPO(prompts=7, draws=3, epochs=2, batch_size=4).iteration(tiny_lab))
    assert [len(step.batch) for step in steps] == [4, 3, 4, 3]
    (answers,) = sampled
    groups = by_prompt(answers, tiny_lab.reward(answers)).values()
    hoped = sorted((scored[0][1], scored[-1][1]) for scored in groups)
    for epoch in (steps[:2], steps[2:]):
        found = [pair for s in epoch for pair in zip(rows(s.batch.chosen), rows(s.batch.rejected), strict=True)]
        assert sorted(found) == hoped


# -- online DPO --------------------------------------------------------------------------------------------------------


def test_the_judge_is_asked_which_of_two_fresh_answers_is_better(tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And both are charged as labels by AI; the reward model is not asked, and not paid for."""
    nudge(tiny_lab, by=0.2)
    (step,) = OnlineDPO(batch_size=8).iteration(tiny_lab)
    assert {source: len(read) for source, read in session_of(tiny_lab).meter.labels.items()} == {"ai_scores": 16}
    assert not any(role == "reward" for role, _ in session_of(tiny_lab).meter.items)
    pairs = step.batch
    assert (tiny_lab.judge(pairs.chosen, pairs.rejected) >= 0.5).all()
    assert (tiny_lab.judge(pairs.chosen, pairs.rejected) > 0.5).any()
    start = pairs.chosen.prompt_length
    assert torch.equal(pairs.chosen.tokens[:, :start], pairs.rejected.tokens[:, :start])


def judged(lab: Lab) -> tuple[Any, Any]:
    """A session whose log is empty, and pairs of fresh answers."""
    nudge(lab, by=0.2)
    (step,) = OnlineDPO(batch_size=8).iteration(lab)
    session_of(lab).logged.clear()
    return session_of(lab), step.batch


def test_verdicts_that_are_missing_are_ties_that_the_log_counts_and_none_at_all_end_the_run(
    tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, pairs = judged(tiny_lab)
    given: list[float | None] = [0.9, None, 0.2, None] * 2
    for verdicts in (given, [None] * 8):
        found = [Verdict(p, (p, p), 1, 1, missing="" if p else "refusal") for p in verdicts]
        monkeypatch.setattr(session.source, "comparing_judge", lambda found=found: lambda questions: found)
        if verdicts is given:
            assert tiny_lab.judge(pairs.chosen, pairs.rejected).tolist() == pytest.approx([0.9, 0.5, 0.2, 0.5] * 2)
            assert session.logged["no_verdict"] == [(0.5, 1.0)]
            assert "unpriced" not in session.logged
            continue
        with pytest.raises(UserError, match=r"no verdict on any of 8 questions \(refusal\); change its template or model"):
            tiny_lab.judge(pairs.chosen, pairs.rejected)


def test_a_judge_without_a_price_and_prompts_that_it_read_in_part_are_in_the_log(
    tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, pairs = judged(tiny_lab)
    found = [Verdict(0.9, (0.9, 0.9), None, None, cut=place < 2) for place in range(8)]
    monkeypatch.setattr(session.source, "comparing_judge", lambda: lambda questions: found)
    tiny_lab.judge(pairs.chosen, pairs.rejected)
    assert session.logged["unpriced"] == [(1.0, 1.0)]
    assert session.logged["cut_prompts"] == [(0.25, 1.0)]


def test_the_answer_that_the_judge_holds_likelier_to_be_better_is_chosen(
    tiny_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = tensor([0.9, 0.5, 0.1])
    monkeypatch.setattr(tiny_lab, "judge", lambda first, second: verdicts)
    found = best_against_worst(ANSWERS, OnlineDPO().score(tiny_lab, ANSWERS), 2)
    # the answers are 10 or 11, 12 or 20, 21 or 22; of a tie an answer meets itself
    assert found.chosen.completion.flatten().tolist() == [10, 12, 22]
    assert found.rejected.completion.flatten().tolist() == [11, 12, 21]


def test_labelled_by_the_reward_model_it_is_iterative_dpo_of_two_draws_and_one_step(tiny_bench: Bench) -> None:
    online, iterative = tiny_bench.lab(), tiny_bench.lab()
    (step,) = OnlineDPO(batch_size=6, labelled_by="reward").iteration(online)
    (other,) = IterativeDPO(batch_size=6, prompts=6, draws=2, epochs=1).iteration(iterative)
    pairs, same = [sorted(zip(rows(s.batch.chosen), rows(s.batch.rejected), strict=True)) for s in (step, other)]
    assert pairs == same
    assert session_of(online).meter.items == session_of(iterative).meter.items
    assert (online.reward(step.batch.chosen) >= online.reward(step.batch.rejected)).all()
    assert "ai_scores" not in session_of(online).meter.labels


# -- PPO, then DPO -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "by_reward"), [(0.0, 0), (0.3, 4), (1.0, 8)])
def test_it_learns_from_rewards_for_its_share_of_the_budget_and_then_from_pairs(
    tiny_bench: Bench, tmp_path: Path, share: float, by_reward: int
) -> None:
    trainer = tiny_bench.trainer(small("rlhf_then_dpo", rlhf_share=share, epochs=1), Budget(1e15, steps=8), tmp_path)
    trainer.run("rlhf_then_dpo")
    # a round of PPO is two steps: they begin at 0 and 2/8, and after the second, at 4/8, the share of .3 is spent
    assert ["chosen_log_ratio" in row for row in trainer.log] == [False] * by_reward + [True] * (8 - by_reward)
    assert (("reward", "forward") in trainer.meter.items) == (share > 0)
    assert "simulated" in trainer.meter.spent()["labels"]  # whichever way they are read


def test_its_second_stage_is_dpo_against_the_base(tiny_bench: Bench) -> None:
    labs = [nudge(tiny_bench.lab()) for _ in range(2)]
    (ours,) = RLHFThenDPO(rlhf_share=0.0, beta=0.3, batch_size=5).iteration(labs[0])
    (dpo,) = DPO(beta=0.3, batch_size=5).iteration(labs[1])
    assert torch.equal(ours.batch.index, dpo.batch.index)
    losses = ours.loss(labs[0], ours.batch)
    assert (losses - math.log(2)).abs().max() > 0.01
    torch.testing.assert_close(losses, dpo.loss(labs[1], dpo.batch))


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "bad", "line"),
    [
        (RFT, {"draws": 1}, "draws must be 2 or more"),
        (RFT, {"epochs": 0}, "must be 1 or more"),
        (IterativeDPO, {"draws": 1}, "draws must be 2 or more"),
        (IterativeDPO, {"prompts": 0}, "must be 1 or more"),
        (OnlineDPO, {"labelled_by": "annotator"}, "labelled_by must be judge or reward, not 'annotator'"),
        (RLHFThenDPO, {"rlhf_share": 1.1}, r"rlhf_share must lie in \[0, 1\]"),
        (RLHFThenDPO, {"epochs": 0}, "epochs"),
    ],
)
def test_a_setting_that_leaves_nothing_to_learn_from_is_refused(cls: type, bad: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        cls(**bad)
