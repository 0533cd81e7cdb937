"""Answers of the frozen base and greedy ones, what they cost, and the methods that learn from them: ReMax and XPO."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from isoalign.baselines.reinforce import priced
from isoalign.baselines.remax import ReMax
from isoalign.baselines.xpo import XPO, Explored
from isoalign.core.errors import UserError
from isoalign.data.preferences import rollouts
from isoalign.training.lab import session_of
from workbench import Bench, nudge

OLD = json.loads((Path(__file__).parent / "golden" / "trl_1.12.json").read_text())


@pytest.mark.parametrize("lora", [0, 4])
def test_greedy_answers_are_the_likeliest_tokens_one_by_one_and_use_no_randomness(tiny_bench: Bench, lora: int) -> None:
    lab = nudge(tiny_bench.replace(lora=lora).lab())
    before = lab.generator.get_state()
    prompts = lab.prompts(3)
    answers = lab.generate(prompts, greedy=True)
    assert torch.equal(lab.generator.get_state(), before)
    for row in range(3):
        written = prompts.tokens[row][prompts.mask[row]].tolist()
        for token in answers.completion[row].tolist():
            with torch.no_grad():
                logits = lab.policy(rollouts([written], [[2]], pad=1)).logits[0, 0]
            assert token == int(logits.argmax())
            written.append(token)


@pytest.mark.parametrize("lora", [0, 4])
def test_the_base_samples_what_the_policy_sampled_before_it_was_trained_and_its_own_role_is_charged(
    tiny_bench: Bench, lora: int
) -> None:
    bench = tiny_bench.replace(lora=lora)
    fresh, trained = bench.lab(), bench.lab()
    model = session_of(trained).policy.model
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    theirs = trained.generate(trained.prompts(4), 2, by="reference")
    assert torch.equal(theirs.tokens, fresh.generate(fresh.prompts(4), 2).tokens)
    bill = session_of(trained).meter
    assert set(bill.items) == {("reference", "sample")}
    assert bill.tokens == session_of(fresh).meter.tokens == 8 * 5
    policys = session_of(fresh).meter.items["policy", "sample"]
    assert (bill.items["reference", "sample"] < policys) if lora else (bill.items["reference", "sample"] == policys)


def test_any_other_sampler_is_refused(tiny_bench: Bench) -> None:
    lab = tiny_bench.lab()
    with pytest.raises(UserError, match="samples by policy, reference, anchor or teacher, not 'judge'"):
        lab.generate(lab.prompts(1), by="judge")


# -- ReMax -------------------------------------------------------------------------------------------------------------


def test_the_advantage_is_the_penalised_reward_less_that_of_the_greedy_answer(tiny_bench: Bench) -> None:
    lab, again = nudge(tiny_bench.lab()), nudge(tiny_bench.lab())
    (step,) = ReMax(rollouts=5, kl=0.7).iteration(lab)
    prompts = again.prompts(5)
    answers, greedy = again.generate(prompts), again.generate(prompts, greedy=True)
    assert torch.equal(step.batch.rollouts.tokens, answers.tokens)
    hoped = priced(again, answers, again.reward(answers), 0.7) - again.reward(greedy)
    torch.testing.assert_close(step.batch.advantages, hoped)
    assert hoped.std() > 0.01


# -- XPO ---------------------------------------------------------------------------------------------------------------


class Told:
    """A lab whose models say what they are told of each side."""

    def __init__(self, policy: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
        self.said, self.known = policy, reference

    def policy(self, side: str) -> Any:
        return SimpleNamespace(logp=self.said[side])

    def reference(self, side: str) -> Any:
        return SimpleNamespace(logp=self.known[side])

    def log_ratio(self, side: str) -> Tensor:
        return (self.said[side] - self.known[side]).sum(1)

    def log(self, **_: Any) -> None:
        pass


def test_xpo_has_the_loss_and_gradients_of_trl_1_12() -> None:
    told = OLD["xpo"]
    said = {side: tensor(told[side], requires_grad=True) for side in ("own", "base")}
    lab: Any = Told(said, {side: tensor(told[f"reference_of_{side}"]) for side in ("own", "base")})
    batch: Any = Explored("own", "base", tensor(told["wins"]))  # type: ignore[arg-type]
    loss = XPO(beta=told["beta"], alpha=told["alpha"]).loss(lab, batch).mean()
    loss.backward()
    assert loss.item() == pytest.approx(told["loss"], rel=1e-6)
    for side in ("own", "base"):
        torch.testing.assert_close(said[side].grad, tensor(told[f"gradient_{side}"]))


@pytest.mark.parametrize("labelled_by", ["reward", "judge"])
def test_the_better_of_the_policys_and_the_bases_answer_to_a_prompt_is_the_chosen_one(
    tiny_bench: Bench, labelled_by: str
) -> None:
    lab = nudge(tiny_bench.lab())
    (step,) = XPO(batch_size=6, labelled_by=labelled_by).iteration(lab)
    batch: Any = step.batch
    start = batch.own.prompt_length
    assert torch.equal(batch.own.tokens[:, :start], batch.base.tokens[:, :start])
    scores = [lab.reward(side) if labelled_by == "reward" else lab.judge_score(side) for side in (batch.own, batch.base)]
    assert batch.wins.tolist() == (scores[0] >= scores[1]).tolist()


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="labelled_by must be judge or reward"):
        XPO(labelled_by="coin")
    with pytest.raises(ValueError, match="alpha 0 or more"):
        XPO(alpha=-1.0)
    with pytest.raises(ValueError, match="rollouts must be 1 or more"):
        ReMax(rollouts=0)
