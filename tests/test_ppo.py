"""PPO's parts against numbers worked by hand, then the whole experience of a real lab."""

import math

import pytest
import torch
from torch import Tensor, tensor

from isoalign.baselines.parts.advantages import gae, place_rewards, whiten
from isoalign.baselines.parts.losses import clipped_loss, row_mean
from isoalign.baselines.parts.rounding import drop_rounding
from isoalign.baselines.ppo import PPO, Experience, value_loss
from isoalign.baselines.ppo_critic import PPOCritic
from isoalign.baselines.ppo_lora import PPOLora
from isoalign.baselines.rlaif import RLAIF
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.models.tokens import decode_prompts
from isoalign.training.lab import Lab, session_of
from workbench import Bench

MASK = tensor([[True, True, True], [True, False, False]])


def close(found: Tensor, hoped: list[float] | list[list[float]]) -> None:
    torch.testing.assert_close(found, tensor(hoped), atol=1e-6, rtol=0)


def test_the_score_is_on_each_rows_last_token_and_every_nat_of_kl_is_penalised() -> None:
    drift = tensor([[0.1, -0.2, 0.3], [0.5, 0.0, 0.0]])
    close(place_rewards(tensor([2.0, -1.0]), drift, 0.5, MASK), [[-0.05, 0.1, 2 - 0.15], [-1 - 0.25, 0.0, 0.0]])


def test_advantages_follow_the_recursion() -> None:
    rewards = tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]])
    values = tensor([[0.5, 0.4, 0.2], [0.3, 0.0, 0.0]])
    # gamma .9, lambda .5. Row 1: errors .9*.4-.5 = -.14, .9*.2-.4 = -.22, 1-.2 = .8;
    # advantages .8, -.22+.45*.8 = .14, -.14+.45*.14 = -.077. Row 2: 2-.3 = 1.7.
    advantages, returns = gae(rewards, values, MASK, gamma=0.9, lam=0.5)
    close(advantages, [[-0.077, 0.14, 0.8], [1.7, 0.0, 0.0]])
    close(returns, [[0.423, 0.54, 1.0], [2.0, 0.0, 0.0]])


def test_nothing_on_padding_reaches_an_advantage() -> None:
    rewards, values = tensor([[2.0, 5.0, 7.0]]), tensor([[0.3, 9.0, 8.0]])
    advantages, returns = gae(rewards, values, MASK[1:], gamma=0.9, lam=0.5)
    close(advantages, [[1.7, 0.0, 0.0]])
    close(returns, [[2.0, 0.0, 0.0]])


def test_lambda_one_is_the_monte_carlo_return_less_the_value() -> None:
    rewards, values = tensor([[0.1, 0.2, 1.0]]), tensor([[0.5, 0.4, 0.2]])
    advantages, returns = gae(rewards, values, MASK[:1], gamma=1.0, lam=1.0)
    close(returns, [[1.3, 1.2, 1.0]])
    close(advantages, [[0.8, 0.8, 0.8]])


def test_lambda_zero_is_the_one_step_error() -> None:
    advantages, _ = gae(tensor([[0.1, 0.2, 1.0]]), tensor([[0.5, 0.4, 0.2]]), MASK[:1], gamma=1.0, lam=0.0)
    close(advantages, [[0.1 + 0.4 - 0.5, 0.2 + 0.2 - 0.4, 1 - 0.2]])


def test_whitening_sees_real_tokens_only() -> None:
    # 1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5.
    found = whiten(tensor([[1.0, 2.0, 3.0], [6.0, 50.0, 50.0]]), MASK)
    scale = math.sqrt(3.5)
    close(found, [[-2 / scale, -1 / scale, 0.0], [3 / scale, 0.0, 0.0]])


def test_a_single_advantage_is_whitened_to_zero_not_to_nan() -> None:
    close(whiten(tensor([[4.0]]), tensor([[True]])), [[0.0]])


@pytest.mark.parametrize("value", [0.1, -2.7, 1 / 3])
def test_equal_advantages_stay_zero_when_whitened(value: float) -> None:
    equal = torch.full((640, 20), value)
    equal[:320] = torch.nextafter(equal[:320], tensor(math.inf))  # half of them, by their last bit
    mask = torch.ones_like(equal, dtype=torch.bool)
    assert whiten(equal, mask).abs().max() > 0.1, "whitening makes advantages of it"
    assert not whiten(drop_rounding(equal, mask), mask).any()
    equal[:320] += 1e-4  # is no rounding
    assert drop_rounding(equal, mask).equal(equal)


def test_the_policy_loss_clips_gains_and_never_losses() -> None:
    ratios = tensor([1.0, 1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = tensor([2.0, 2.0, -2.0, 2.0, -2.0, 1.0])
    # a gain stops at 1.2 or .8 of the advantage; where the ratio moved the wrong way the full price is paid
    close(clipped_loss(ratios.log(), advantages, 0.2, 0.2), [-2.0, -2.4, 3.0, -1.0, 1.6, -1.1])


def test_a_clipped_ratio_has_no_gradient() -> None:
    log_ratio = tensor([math.log(1.5), math.log(1.5), 0.0], requires_grad=True)
    clipped_loss(log_ratio, tensor([1.0, -1.0, 1.0]), 0.2, 0.2).sum().backward()
    assert log_ratio.grad is not None
    close(log_ratio.grad, [0.0, 1.5, -1.0])


def test_the_value_loss_takes_the_larger_of_the_clipped_and_the_plain_error() -> None:
    values, old, returns = tensor([1.0, 1.0, 0.1]), tensor([0.0, 0.0, 0.0]), tensor([2.0, 0.0, 1.0])
    # moves of 1 are clipped to .2: errors (1, 1.8) -> 1.62; (1, .2) -> .5; unclipped .1: .9 -> .405
    close(value_loss(values, old, returns, clip=0.2), [1.62, 0.5, 0.405])


def test_a_row_is_averaged_over_its_own_tokens() -> None:
    close(row_mean(tensor([[1.0, 2.0, 6.0], [5.0, 7.0, 7.0]]), MASK), [3.0, 5.0])


@pytest.mark.parametrize(
    ("kl", "price"),
    [(6.0, 0.1), (6.6, 0.1 * 1.01), (60.0, 0.1 * 1.02), (0.0, 0.1 * 0.98), (-3.0, 0.1 * 0.98), (5.4, 0.1 * 0.99)],
)
def test_an_adaptive_kl_coefficient_changes_by_two_percent_at_most(kl: float, price: float) -> None:
    assert PPO(kl=0.1, target_kl=6.0).next_price(0.1, kl) == pytest.approx(price)


def test_a_fixed_kl_coefficient_does_not_change() -> None:
    assert PPO(kl=0.1).next_price(0.1, 1e6) == 0.1


def experience_of(lab: Lab, algorithm: PPO) -> Experience:
    return algorithm.experience(lab, lab.generate(lab.prompts(6), draws=2))


def test_ratios_are_one_and_values_unmoved_before_the_first_step(tiny_lab: Lab) -> None:
    algorithm = PPO(whiten=True, value_weight=0.5)
    batch = experience_of(tiny_lab, algorithm)
    outputs, mask = tiny_lab.policy(batch.rollouts), batch.rollouts.completion_mask
    assert torch.equal(outputs.logp.detach(), batch.logp)
    values = algorithm.values(tiny_lab, batch.rollouts, outputs.hidden)
    assert torch.equal(values.detach() * mask, batch.values)
    hoped = row_mean(-batch.advantages + 0.25 * (batch.values - batch.returns) ** 2, mask)
    torch.testing.assert_close(algorithm.loss(tiny_lab, batch).detach(), hoped)


def test_the_initial_policy_has_no_kl_so_its_return_is_the_score(tiny_lab: Lab) -> None:
    algorithm = PPO(kl=10.0, gae_lambda=1.0, reward_clip=0.5, whiten=False)
    batch = experience_of(tiny_lab, algorithm)
    scores = tiny_lab.reward(batch.rollouts).clamp(-0.5, 0.5)
    assert scores.abs().max() == 0.5  # some rewards are clipped
    hoped = scores.unsqueeze(1) * batch.rollouts.completion_mask
    torch.testing.assert_close(batch.returns, hoped, atol=1e-5, rtol=0)


def test_kl_from_the_base_is_penalised_with_the_current_coefficient(tiny_bench: Bench) -> None:
    lab = tiny_bench.replace(ends=True).lab()
    with torch.no_grad():
        for parameter in session_of(lab).policy.inner.parameters():
            parameter.mul_(1.1)
    lab.state["kl"] = 0.7
    algorithm = PPO(kl=0.05, gae_lambda=1.0, whiten=False, reward_clip=1e9)
    batch = experience_of(lab, algorithm)
    with torch.no_grad():
        drift = lab.policy(batch.rollouts).logp - lab.reference(batch.rollouts).logp
    mask = batch.rollouts.completion_mask
    torch.testing.assert_close(batch.returns[:, 0], lab.reward(batch.rollouts) - 0.7 * (drift * mask).sum(1))
    assert (batch.advantages[~mask] == 0).all()


def test_an_entropy_bonus_lowers_the_loss_by_its_weight(tiny_lab: Lab) -> None:
    batch = experience_of(tiny_lab, PPO())
    entropy = row_mean(tiny_lab.policy(batch.rollouts).entropy, batch.rollouts.completion_mask)
    gap = PPO().loss(tiny_lab, batch) - PPO(entropy_weight=0.3).loss(tiny_lab, batch)
    torch.testing.assert_close(gap, 0.3 * entropy)


def test_the_first_values_are_zero_so_the_first_advantages_are_the_rewards_alone(tiny_lab: Lab) -> None:
    batch = experience_of(tiny_lab, PPO(gae_lambda=0.5, whiten=False, reward_clip=1e9))
    mask = batch.rollouts.completion_mask
    assert not batch.values.any()
    # errors are 0 but at the last token, and the policy is the base: the score, times .5 for each token ahead
    ahead = mask.sum(1, keepdim=True) - mask.cumsum(1)
    torch.testing.assert_close(batch.advantages, tiny_lab.reward(batch.rollouts)[:, None] * 0.5**ahead * mask)


def test_value_warmup_trains_the_values_alone_and_bills_no_backward_pass_of_the_policy(tiny_lab: Lab) -> None:
    algorithm, session = PPO(rollouts=4, epochs=1, minibatch=4, value_warmup=1), session_of(tiny_lab)
    trained = [p for p in session.policy.inner.parameters() if p.requires_grad]
    for warming in (True, False):
        (step,) = algorithm.iteration(tiny_lab)
        step.loss(tiny_lab, step.batch).sum().backward()
        assert (session.meter.items["policy", "backward"] == 0) is warming
        assert all(p.grad is None for p in trained) is warming
        assert session.modules["value"].weight.grad is not None
        if warming:  # values of 0 and rewards' returns: half the squared return, by value_weight
            hoped = row_mean(0.1 * 0.5 * step.batch.returns**2, step.batch.rollouts.completion_mask)
            torch.testing.assert_close(step.loss(tiny_lab, step.batch), hoped)


def test_every_epoch_visits_every_rollout_once(tiny_lab: Lab) -> None:
    steps = list(PPO(rollouts=6, draws=2, epochs=2, minibatch=4).iteration(tiny_lab))
    assert [len(step.batch) for step in steps] == [4, 2, 4, 2]
    for epoch in (steps[:2], steps[2:]):
        seen = torch.cat([step.batch.advantages for step in epoch])
        hoped = torch.cat([step.batch.advantages for step in steps[:2]])
        assert sorted(seen.tolist()) == sorted(hoped.tolist())


def test_a_reward_does_not_depend_on_its_batch_or_on_padding(tiny_bench: Bench) -> None:
    """What a saturated or collapsed reward model must not be mistaken for."""
    pairs = tiny_bench.source.verdicts["annotator"]
    reward = tiny_bench.source.reward("annotator")
    batch = pairs.pairs(torch.arange(len(pairs)), reward.pad).chosen
    alone = torch.cat([reward(pairs.pairs(torch.tensor([i]), reward.pad).chosen) for i in range(len(pairs))])
    torch.testing.assert_close(reward(batch), alone)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(reward(batch[order]), alone[order])


# -- its relatives -----------------------------------------------------------------------------------------------------


def test_ppo_critic_is_ppo_with_the_values_of_a_model_apart(tiny_lab: Lab) -> None:
    class Told(PPO):
        def values(self, lab: Lab, rollouts: Rollouts, hidden: Tensor) -> Tensor:
            return values

    answers = tiny_lab.generate(tiny_lab.prompts(4))
    values = tiny_lab.critic(answers).detach()
    ours, theirs = (kind(kl=0.3).experience(tiny_lab, answers) for kind in (PPOCritic, Told))
    torch.testing.assert_close(ours.advantages, theirs.advantages)
    losses = [kind(value_weight=1.0).loss(tiny_lab, ours) for kind in (PPOCritic, Told)]
    torch.testing.assert_close(*losses)


def test_a_critic_from_the_reward_model_values_each_token_at_the_reward_of_what_is_before_it(tiny_lab: Lab) -> None:
    answers, session = tiny_lab.generate(tiny_lab.prompts(3)), session_of(tiny_lab)
    assert not session.reward_models
    values, spent = tiny_lab.critic(answers, "reward"), session.meter.items["reward", "backward"]
    assert (session.reward_models, spent) == ({"annotator"}, 2000), "the reward model is paid for"
    for place in range(1, answers.completion.shape[1]):
        whole = answers.completion_mask[:, :place].all(1)
        end = answers.prompt_length + place
        before = Rollouts(answers.tokens[:, :end], answers.mask[:, :end], answers.prompt_length)
        torch.testing.assert_close(values[whole, place], tiny_lab.reward(before)[whole], atol=1e-4, rtol=1e-4)
    assert session.meter.items["reward", "backward"] == spent, "once"
    assert values.requires_grad


def test_a_critic_that_cannot_start_so_is_one_line(tiny_bench: Bench) -> None:
    with pytest.raises(ValueError, match="start must be policy or reward, not 'base'"):
        PPOCritic(start="base")
    lab = tiny_bench.replace(lora=4).lab()
    with pytest.raises(UserError, match="a critic starts from one trained reward model on the SFT base, without adapters"):
        lab.critic(lab.generate(lab.prompts(2)), "reward")


def test_ppo_lora_is_ppo_on_an_adapter(tiny_bench: Bench) -> None:
    lab = tiny_bench.replace(lora=4).lab()
    answers = lab.generate(lab.prompts(4))
    batch = PPO().experience(lab, answers)
    torch.testing.assert_close(PPOLora().loss(lab, batch), PPO().loss(lab, batch))
    PPOLora().loss(lab, batch).sum().backward()
    moved = {name for name, p in session_of(lab).policy.inner.named_parameters() if p.grad is not None}
    assert moved
    assert all("lora" in name for name in moved)


def test_rlaif_is_ppo_by_the_judges_reward_model_or_the_log_odds_of_its_own_score(tiny_lab: Lab) -> None:
    answers, source = tiny_lab.generate(tiny_lab.prompts(4)), session_of(tiny_lab).source
    torch.testing.assert_close(RLAIF().score(tiny_lab, answers), source.reward("judge")(answers))
    policy = session_of(tiny_lab).policy
    chance = source.scoring_judge()(policy.decode(answers), decode_prompts(policy.tokenizer, answers)).clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(RLAIF(mode="direct").score(tiny_lab, answers), (chance / (1 - chance)).log())
