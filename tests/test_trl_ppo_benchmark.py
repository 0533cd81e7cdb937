"""The comparison with TRL 1.12's PPO: what its passes cost, what it is told, and that its models are ours."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from isoalign.baselines.ppo import PPO
from isoalign.core.records import Budget, Card, Estimate, Flag
from isoalign.models.flops import Shape
from isoalign.models.scalar_head import left_aligned
from isoalign.runs.overrides import task_named
from isoalign.training.lab import session_of
from test_card import CARD
from workbench import Bench, Size, make_bench, small

sys.path.append(str(Path(__file__).parents[1] / "scripts" / "benchmarks"))

import trl_ppo
import trl_ppo_bill
import trl_ppo_side

POLICY, REWARD = Shape(body=10, attention=1, head=3), Shape(body=11, attention=1, head=0)


def test_the_passes_of_a_rollout_cost_what_is_worked_out_by_hand() -> None:
    # Prompt of 2 tokens, answer of 3. A policy's pass over 4: 2*10*4 + 4*1*16 + 2*3*3 = 162, the value model's 2*11*4 + 64 =
    # 152, the reward model's over 5 tokens 2*11*5 + 4*25 = 210. Reading the prompt 2*10*2 + 4*4 + 2*3 = 62, and two more
    # tokens 2 * (20 + 6) + 4 * (2*2 + 3) = 80. Backward passes are twice forward ones.
    hoped = {"sample": 142, "reference": 162, "reward": 210, "value": 152, "updates": 2 * 3 * (162 + 152)}
    assert trl_ppo_bill.price(POLICY, REWARD, 2, 3, epochs=2) == hoped


@pytest.mark.usefixtures("nothing_saved")
def test_the_passes_cost_what_our_ppo_with_a_critic_is_billed_for_them(tmp_path: Path) -> None:
    """Ours reads its samples once more, where TRL takes the log-probabilities that decoding found."""
    bench = make_bench(tmp_path, Size(), [5] * 6, [4] * 6, new_tokens=4)
    algorithm = small("ppo_critic", rollouts=6, draws=1, minibatch=6, epochs=2)
    trainer = bench.trainer(algorithm, Budget(1e15, steps=2), tmp_path / "work")
    trainer.run("ppo_critic")
    items, reward = trainer.meter.items, bench.source.reward("annotator")
    bill = {name: 6 * flops for name, flops in trl_ppo_bill.price(trainer.session.policy.shape, reward.shape, 5, 4, 2).items()}
    assert items["policy", "sample"] == bill["sample"]
    assert items["reference", "forward"] == bill["reference"]
    assert items["reward", "forward"] - reward.record["flops"]["forward"] == bill["reward"]
    updates = sum(items[role, kind] for role in ("policy", "value") for kind in ("forward", "backward"))
    assert updates - (bill["reference"] + bill["value"]) == pytest.approx(bill["updates"], rel=0.001)


def test_a_budget_covers_iterations_of_prompts_of_mean_length_and_refuses_to_cover_none() -> None:
    purse = trl_ppo_bill.Purse(100_000, 1000, POLICY, REWARD, [2, 2, 2], 3)
    each = 142 + 162 + 210 + 152 + 1884
    assert purse.bill([2, 2], epochs=2) == 1000 + 2 * each
    assert purse.iterations(rollouts=4, epochs=2) == 99_000 // (4 * each) == 9
    with pytest.raises(SystemExit, match="covers no iteration"):
        replace(purse, flops=2000).iterations(4, 2)


def test_a_rate_of_a_card_that_fails_a_gate_is_not_chosen_and_an_end_is_gone_beyond() -> None:
    def card(gain: float, *gates: str) -> Card:
        return replace(
            CARD, metrics={"toxicity_reduction": Estimate(gain, None, None, 2)}, flags=[Flag("gate", g) for g in gates]
        )

    tried = {1e-4: card(0.1), 3e-4: card(0.2), 1e-3: card(0.3, "it repeats itself")}
    assert trl_ppo.best(tried) == 3e-4
    assert trl_ppo.best({1e-4: card(0.1, "broken"), 1e-3: card(0.2, "broken")}) == 1e-3
    assert [trl_ppo.beyond(rate, list(tried)) for rate in tried] == [3e-5, None, 3e-3]
    assert trl_ppo.beyond(1e-4, [1e-4]) is None


def test_equal_settings_are_ours_and_the_others_are_trls_own() -> None:
    task, ppo = task_named("nano"), PPO(kl=0.07)
    own, equal = (trl_ppo.trl_settings(ppo, task, equal) for equal in (False, True))
    assert own == {"per_device_train_batch_size": 64, "response_length": 20}
    assert equal == own | {
        "num_ppo_epochs": 2, "num_mini_batches": 2, "kl_coef": 0.07, "gamma": 1.0, "lam": 0.95, "cliprange": 0.2,
        "cliprange_value": 0.2, "vf_coef": 0.1, "temperature": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.95, "weight_decay": 0.0,
    }  # fmt: skip


def test_the_models_of_trls_side_say_what_ours_say(tiny_bench: Bench) -> None:
    """Rewards of answers and log-probabilities of their tokens; what is banned has probability 0, exactly."""
    lab, reward = tiny_bench.lab(), tiny_bench.source.reward("annotator")
    answers = lab.pairs(5).chosen
    ours = session_of(lab).reference
    theirs = trl_ppo_side.load_base(tiny_bench.model, ours.banned.tolist())
    folder = tiny_bench.model.parent / "reward-annotator"
    scores = trl_ppo_side.load_reward(folder, reward.record["mean"], reward.record["deviation"], reward.pad)
    tokens, mask = left_aligned(answers.tokens, answers.mask)
    with torch.no_grad():
        logp = theirs(input_ids=tokens, attention_mask=mask.long()).logits.log_softmax(-1)
        found = scores(input_ids=tokens.masked_fill(~mask, reward.pad), attention_mask=mask.long()).logits[:, 0]
        hoped = ours(answers).logp.sum(1)
    torch.testing.assert_close(found, reward(answers), atol=1e-5, rtol=1e-5)
    said = logp[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    for row, (start, length) in enumerate(zip(answers.mask[:, : answers.prompt_length].sum(1), mask.sum(1), strict=True)):
        assert said[row, start - 1 : length - 1].sum() == pytest.approx(hoped[row].item(), abs=1e-4)
    assert len(ours.banned)
    assert logp[..., ours.banned].exp().max() == 0


def test_each_prompt_that_trls_trainer_takes_is_noted(tiny_bench: Bench) -> None:
    collator = trl_ppo_side.Collator(tiny_bench.language_model().tokenizer)
    for rows in ([[5, 6], [7]], [[8, 9, 10]]):
        collator([{"input_ids": ids} for ids in rows])
    assert collator.read == [2, 1, 3]
