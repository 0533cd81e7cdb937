"""Answers of a mixture of policy and base, and the methods that let answers play against each other: SPPO and Nash-MD."""

from typing import Any

import pytest
import torch

from isoalign.baselines.nash_md import NashMD
from isoalign.baselines.sppo import SPPO
from isoalign.core.errors import UserError
from isoalign.data.preferences import rollouts
from isoalign.models.decoding import sample_tokens
from isoalign.training.lab import session_of
from workbench import Bench, nudge


@pytest.mark.parametrize("lora", [0, 4])
@torch.no_grad()
def test_each_token_of_a_mixture_is_drawn_from_the_normalised_product_of_powers(tiny_bench: Bench, lora: int) -> None:
    lab, mix = nudge(tiny_bench.replace(lora=lora).lab(), by=0.2), 0.3
    prompts, generator = lab.prompts(4), torch.Generator().manual_seed(0)
    uniforms = torch.rand(8, lab.new_tokens, generator=generator)
    answers = session_of(lab).sample(prompts, uniforms, mix=mix)
    differ = 0
    for row in range(8):
        written = prompts.tokens[row // 2][prompts.mask[row // 2]].tolist()
        for place, token in enumerate(answers.completion[row].tolist()):
            one = rollouts([written], [[2]], pad=1)
            policy, base = lab.policy(one).logits[0, 0].softmax(-1), lab.reference(one).logits[0, 0].softmax(-1)
            mixed = policy ** (1 - mix) * base**mix
            hoped = sample_tokens(mixed.log().unsqueeze(0), uniforms[row, place].unsqueeze(0))
            assert token == int(hoped)
            differ += int(hoped != sample_tokens(policy.log().unsqueeze(0), uniforms[row, place].unsqueeze(0)))
            written.append(token)
    assert differ


def test_both_models_of_a_mixture_are_paid_and_its_tokens_count_once(tiny_bench: Bench) -> None:
    lab = nudge(tiny_bench.lab())
    lab.generate(lab.prompts(3), 2, mix=0.5)
    meter = session_of(lab).meter
    assert meter.items["policy", "sample"] == meter.items["reference", "sample"] > 0
    assert meter.tokens == 6 * 5
    for words in ({"mix": 1.0}, {"mix": 0.5, "by": "reference"}):
        with pytest.raises(UserError, match=r"mixes a share in \[0, 1\) of the reference into the policy"):
            lab.generate(lab.prompts(1), **words)  # type: ignore[arg-type]


def test_answers_of_a_mixture_that_end_leave_both_caches(tiny_bench: Bench) -> None:
    """With ends that differ from row to row, a mixture with the policy itself is the policy."""
    bench = tiny_bench.replace(ends=True, words=(40, 41, 0))
    lab, again = (bench.lab() for _ in range(2))  # policy and base are equal at first
    own, mixed = lab.generate(lab.prompts(8), 8), again.generate(again.prompts(8), 8, mix=0.5)
    assert own.completion_mask.sum(1).unique().numel() > 1
    assert torch.equal(own.tokens, mixed.tokens)


# -- SPPO --------------------------------------------------------------------------------------------------------------


class Scores:
    """A lab with rewards, or verdicts, by a table."""

    device = torch.device("cpu")

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.asked = torch.tensor(scores), 0

    def reward(self, answers: Any) -> torch.Tensor:
        return self.scores[answers]

    def judge(self, first: Any, second: Any) -> torch.Tensor:
        self.asked += len(first)
        return torch.sigmoid(self.scores[first] - self.scores[second])


@pytest.mark.parametrize("labelled_by", ["reward", "judge"])
def test_an_answer_plays_all_answers_to_its_prompt_and_itself_at_one_half(labelled_by: str) -> None:
    lab: Any = Scores([0.0, 1.0, 3.0, 2.0, 2.0, 2.0])
    found = SPPO(draws=3, labelled_by=labelled_by).chances(lab, torch.arange(6))  # type: ignore[arg-type]
    # sigmoid of 1, 2 and 3: .731059, .880797 and .952574; (.5 + .268941 + .047426) / 3 and so on
    assert found.tolist() == pytest.approx([0.272122, 0.450087, 0.777790, 0.5, 0.5, 0.5], abs=1e-5)
    assert lab.asked == (6 if labelled_by == "judge" else 0)  # three questions a prompt


def test_sppo_regresses_log_ratios_to_the_policy_of_the_iteration(tiny_bench: Bench) -> None:
    lab = nudge(tiny_bench.lab())
    (step,) = SPPO(prompts=3, draws=2, batch_size=6, beta=0.5).iteration(lab)
    batch: Any = step.batch
    torch.testing.assert_close(step.loss(lab, batch), ((batch.chances - 0.5) / 0.5) ** 2, atol=1e-5, rtol=1e-4)
    before = lab.policy(batch.rollouts).logp.sum(1).detach()
    nudge(lab, seed=2)
    ratio = lab.policy(batch.rollouts).logp.sum(1) - before
    torch.testing.assert_close(step.loss(lab, batch), (ratio - (batch.chances - 0.5) / 0.5) ** 2, atol=1e-4, rtol=1e-4)
    assert batch.chances.view(3, 2).sum(1).sub(1).abs().max() < 1e-6 or len(batch.chances) == 6


# -- Nash-MD -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled_by", ["reward", "judge"])
def test_nash_mds_return_is_the_chance_of_winning_less_a_half_less_the_price_of_the_log_ratio(
    tiny_bench: Bench, labelled_by: str
) -> None:
    lab, again = (nudge(tiny_bench.lab()) for _ in range(2))
    (step,) = NashMD(rollouts=5, kl=0.7, mix=0.4, labelled_by=labelled_by).iteration(lab)
    prompts = again.prompts(5)
    own, other = again.generate(prompts), again.generate(prompts, mix=0.4)
    chance = again.judge(own, other) if labelled_by == "judge" else torch.sigmoid(again.reward(own) - again.reward(other))
    with torch.no_grad():
        hoped = chance - 0.5 - 0.7 * again.log_ratio(own)
    batch: Any = step.batch
    assert torch.equal(batch.rollouts.tokens, own.tokens)
    torch.testing.assert_close(batch.advantages, hoped)
    assert hoped.std() > 0.01


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SPPO(labelled_by="coin"), "labelled_by must be judge or reward"),
        (lambda: SPPO(draws=1), "draws must be 2 or more"),
        (lambda: SPPO(beta=0.0), "beta positive"),
        (lambda: NashMD(mix=1.0), r"mix lie in \[0, 1\)"),
    ],
)
def test_settings_without_a_meaning_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
