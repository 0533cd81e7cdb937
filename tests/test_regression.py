"""RSO's rejection sampling, and the two methods that regress log-ratios to rewards: QRPO and APA."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from isoalign.baselines.apa import APA, Induced
from isoalign.baselines.parts.advantages import gae, value_head
from isoalign.baselines.qrpo import QRPO, Ranked
from isoalign.baselines.rso import RSO, accepted
from isoalign.core.batches import Rollouts
from isoalign.training.lab import session_of
from workbench import Bench, nudge

# -- RSO ---------------------------------------------------------------------------------------------------------------


def by_the_paper(rewards: list[float], kept: int, tilt: float, chance: Any) -> list[int]:
    """Algorithm 1 of Liu et al. in plain Python; ``chance(sweep, answer)`` is its uniform random number."""
    candidates, found, sweep = dict(enumerate(rewards)), list[int](), 0
    while len(found) < kept:
        largest, gone = max(candidates.values()), []
        for answer, reward in candidates.items():
            if chance(sweep, answer) >= math.exp((reward - largest) / tilt):
                continue
            found.append(answer)
            gone.append(answer)
            if len(found) == kept:
                break
        for answer in gone:
            del candidates[answer]
        sweep += 1
    return found


@pytest.mark.parametrize(("kept", "tilt"), [(1, 0.5), (3, 0.1), (5, 2.0), (7, 0.5)])
def test_the_accepted_answers_are_those_of_the_papers_algorithm(kept: int, tilt: float) -> None:
    rewards = torch.randn(6, 7, generator=torch.Generator().manual_seed(kept))
    found = accepted(rewards, kept, tilt, torch.Generator().manual_seed(3))
    again = torch.Generator().manual_seed(3)
    numbers = [torch.rand(6, 7, generator=again) for _ in range(500)]
    for row in range(6):
        hoped = by_the_paper(
            rewards[row].tolist(), kept, tilt, lambda sweep, answer, row=row: float(numbers[sweep][row, answer])
        )
        assert found[row].tolist() == hoped


def test_what_is_accepted_first_is_a_sample_of_the_tilted_base() -> None:
    """Over 20,000 prompts with three answers of rewards 0, 1 and 2 at tilt 1: e^0, e^1 and e^2 over their sum, as one of
    many answers is accepted in proportion to exp(reward); of three, the first one is biased to its place, so each order
    counts alike."""
    generator = torch.Generator().manual_seed(1)
    places = torch.rand(20000, 60, generator=generator).argsort(1) % 3  # many answers, in any order
    first = places.gather(1, accepted(places.float(), 1, 1.0, generator)).flatten()
    shares = torch.bincount(first, minlength=3) / 20000
    torch.testing.assert_close(shares, tensor([0.0, 1.0, 2.0]).softmax(0), atol=0.012, rtol=0)


def test_pairs_are_of_accepted_answers_to_one_prompt_the_better_one_first(tiny_bench: Bench) -> None:
    lab, again = (nudge(tiny_bench.lab()) for _ in range(2))
    rso = RSO(prompts=4, candidates=5, kept=4, batch_size=8)
    (step,) = rso.iteration(lab)
    answers = again.generate(again.prompts(4), 5, by="reference")
    score = again.reward(answers)
    texts = [tuple(row.tolist()) for row in answers.tokens]
    pairs: Any = step.batch
    assert len(pairs) == 8  # two of each prompt
    for chosen, rejected in zip(pairs.chosen.tokens.tolist(), pairs.rejected.tokens.tolist(), strict=True):
        better, worse = texts.index(tuple(chosen)), texts.index(tuple(rejected))
        assert better // 5 == worse // 5
        assert score[better] >= score[worse]
    assert ("reference", "sample") in session_of(lab).meter.items
    assert ("policy", "sample") not in session_of(lab).meter.items


# -- QRPO --------------------------------------------------------------------------------------------------------------


def ranked(quantile: list[float]) -> Any:
    return Ranked("answers", tensor(quantile))  # type: ignore[arg-type]


def lab_of(ratio: Tensor) -> Any:
    return SimpleNamespace(log_ratio=lambda _: ratio, log=lambda **_: None)


def test_qrpo_has_the_loss_of_the_authors_page_where_beta_is_small() -> None:
    """(quantile - beta log Z - beta log-ratio)^2 with their log Z = log beta + 1 / beta."""
    ratio, quantile, beta = tensor([0.3, -2.0, 5.0], requires_grad=True), [0.0, 0.25, 1.0], 0.05
    loss = QRPO(beta=beta).loss(lab_of(ratio), ranked(quantile))
    theirs = (tensor(quantile) - beta * (math.log(beta) + 1 / beta) - beta * ratio) ** 2
    torch.testing.assert_close(loss, theirs, atol=1e-6, rtol=1e-6)
    # at beta .05 by hand: log Z = -2.995732 + 20 = 17.004268; 0 - .850213 - .015 = -.865213, squared .748594
    assert loss[0].item() == pytest.approx(0.748594, abs=1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0, 50.0])
def test_the_log_ratios_at_which_qrpos_loss_is_zero_are_those_of_a_distribution_at_any_beta(beta: float) -> None:
    """The base's quantile is uniform: the mean over it of exp(log-ratio) must be 1."""
    quantile = (torch.arange(10000) + 0.5) / 10000
    rest = lab_of(torch.zeros(10000))
    loss = QRPO(beta=beta).loss(rest, Ranked("answers", quantile))  # type: ignore[arg-type]
    log_z = math.log(beta * (math.exp(1 / beta) - 1))
    torch.testing.assert_close(loss, (quantile - beta * log_z) ** 2, atol=1e-4, rtol=1e-3)
    assert ((quantile / beta - log_z).exp().mean()).item() == pytest.approx(1, abs=1e-3)


def test_a_quantile_is_the_share_of_the_bases_answers_to_the_prompt_that_are_no_better(tiny_bench: Bench) -> None:
    lab, again = (nudge(tiny_bench.lab()) for _ in range(2))
    (step,) = QRPO(prompts=3, draws=2, references=4, batch_size=6).iteration(lab)
    prompts = again.prompts(3)
    base, own = again.generate(prompts, 4, by="reference"), again.generate(prompts, 2)
    others, mine = again.reward(base).view(3, 4), again.reward(own).view(3, 2)
    hoped = {
        tuple(own.tokens[2 * p + k].tolist()): sum(float(other <= mine[p, k]) for other in others[p]) / 4
        for p in range(3)
        for k in range(2)
    }
    batch: Any = step.batch
    assert [hoped[tuple(row.tolist())] for row in batch.rollouts.tokens] == pytest.approx(batch.quantile.tolist())


def test_rewards_that_rounding_sets_apart_are_ties(tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tiny_bench.lab()
    calls = iter([tensor([0.5, 0.5]), tensor([0.5 + 3e-5, 0.5 - 3e-5, 0.4, 0.6])])  # of the policy's answers and the base's
    monkeypatch.setattr(lab, "reward", lambda answers: next(calls))
    (step,) = QRPO(prompts=1, draws=2, references=4, batch_size=2).iteration(lab)
    batch: Any = step.batch
    assert batch.quantile.tolist() == [0.75, 0.75]
    assert session_of(lab).take_logged()["ties"] == 0.5


# -- APA ---------------------------------------------------------------------------------------------------------------


def test_apa_squares_what_is_between_a_tokens_log_ratio_and_its_advantage_over_lambda() -> None:
    """Log-ratios .5 and -1, advantages 1 and 2 at lambda 2: (.5 - .5)^2 and (-1 - 1)^2, mean 2; values .5 and 1 of returns 1
    and 1: (.25 + 0) / 2 at weight .1; the second row has one token: (2 - .5)^2 and 1."""
    mask = tensor([[True, True], [True, False]])
    answers = Rollouts(torch.zeros(2, 3, dtype=torch.long), torch.cat([torch.ones(2, 1).bool(), mask], 1), 1)
    logp = tensor([[-1.0, -2.0], [-1.0, 0.0]])
    outputs = SimpleNamespace(logp=logp, hidden=tensor([[[0.5], [1.0]], [[1.0], [7.0]]]))
    lab: Any = SimpleNamespace(policy=lambda _: outputs, module=lambda *_: lambda hidden: hidden)
    batch = Induced(
        answers, tensor([[-1.5, -1.0], [-3.0, 0.0]]), tensor([[1.0, 2.0], [1.0, 0.0]]), tensor([[1.0, 1.0], [2.0, 0.0]])
    )
    assert APA(kl=2.0, value_weight=0.1).loss(lab, batch).tolist() == pytest.approx([2.0125, 2.25 + 0.1])


def test_apas_advantages_are_ppos_of_the_reward_alone(tiny_bench: Bench) -> None:
    lab, again = (nudge(tiny_bench.lab()) for _ in range(2))
    apa = APA(rollouts=4, gae_lambda=0.9)
    batch = apa.experience(lab, lab.generate(lab.prompts(4)))
    answers = again.generate(again.prompts(4))
    with torch.no_grad():
        outputs, mask = again.policy(answers), answers.completion_mask
        rewards = torch.zeros_like(outputs.logp)
        rewards[torch.arange(4), mask.sum(1) - 1] = again.reward(answers)
        values = torch.zeros_like(rewards)  # of a head that is new, and the same in both labs
        values = value_head(again, outputs.hidden) * mask
        hoped, returns = gae(rewards, values, mask, 1.0, 0.9)
    torch.testing.assert_close(batch.advantages, hoped, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch.returns, returns, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch.base_logp, again.reference(answers).logp, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RSO(kept=3), "kept must be even"),
        (lambda: RSO(tilt=0.0), "tilt must be positive"),
        (lambda: RSO(candidates=4, kept=4), "below candidates"),
        (lambda: QRPO(beta=0.0), "beta must be positive"),
        (lambda: APA(kl=0.0), "kl must be positive"),
    ],
)
def test_settings_without_a_meaning_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
