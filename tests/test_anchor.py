"""The anchor, a copy of the policy that an algorithm moves, and the methods whose reference it is: TR-DPO and DICE."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign.baselines.dice import DICE
from isoalign.baselines.tr_dpo import TRDPO
from isoalign.config.training import TrainConfig
from isoalign.core.batches import Pairs, Rollouts, Step
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.data.preferences import rollouts
from isoalign.training.lab import Lab, session_of
from isoalign.training.trainer import Trainer
from workbench import Bench, nudge, small, weights

LORA = pytest.mark.parametrize("lora", [0, 4])


def trained(lab: Lab) -> list[Tensor]:
    return [p for p in session_of(lab).policy.inner.parameters() if p.requires_grad]


def shift(lab: Lab, seed: int) -> None:
    """Move what is trained, as an optimizer does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(lab):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@LORA
@torch.no_grad()
def test_the_anchor_is_the_policy_when_it_was_taken_until_it_moves_and_then_lies_between(tiny_bench: Bench, lora: int) -> None:
    lab = tiny_bench.replace(lora=lora).lab()
    shift(lab, 1)
    pairs, before = lab.pairs(5).chosen, [p.clone() for p in trained(lab)]
    first = lab.policy(pairs).logp
    assert torch.equal(lab.anchor(pairs).logp, first)
    shift(lab, 2)
    assert (lab.policy(pairs).logp - first).abs().max() > 1e-3
    assert torch.equal(lab.anchor(pairs).logp, first)  # pairs that a reference would remember, read anew
    lab.move_anchor(0.25)
    own = [p.clone() for p in trained(lab)]
    for parameter, old in zip(trained(lab), before, strict=True):
        parameter.copy_(0.75 * old + 0.25 * parameter)
    between = lab.policy(pairs).logp
    for parameter, now in zip(trained(lab), own, strict=True):
        parameter.copy_(now)
    torch.testing.assert_close(lab.anchor(pairs).logp, between, atol=1e-5, rtol=0)
    lab.move_anchor()
    assert torch.equal(lab.anchor(pairs).logp, lab.policy(pairs).logp)
    assert all(torch.equal(p, now) for p, now in zip(trained(lab), own, strict=True))  # which the policy never left


@LORA
def test_gradients_of_the_policy_do_not_notice_that_its_weights_were_lent(tiny_bench: Bench, lora: int) -> None:
    found = []
    for reads in (False, True):
        lab = tiny_bench.replace(lora=lora).lab()
        lab.move_anchor()
        shift(lab, 3)
        pairs = lab.pairs(4)
        own = lab.policy(pairs.chosen)
        base = lab.anchor(pairs.chosen).logp if reads else torch.zeros_like(own.logp)
        (own.entropy.sum() + (own.logp - 0 * base).sum()).backward()
        found.append([p.grad.clone() for p in trained(lab) if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@torch.no_grad()
def test_each_read_of_the_anchor_is_paid_as_a_pass_of_the_policy_and_moving_it_is_free(tiny_bench: Bench) -> None:
    lab = tiny_bench.replace(lora=4).lab()
    meter, pairs = session_of(lab).meter, lab.pairs(4).chosen
    before = meter.flops
    lab.policy(pairs)
    price = meter.flops - before
    lab.move_anchor()
    for _ in range(2):
        lab.anchor(pairs)
    assert meter.items["anchor", "forward"] == 2 * price
    assert meter.flops == before + 3 * price


@torch.no_grad()
def test_answers_by_the_anchor_are_those_of_the_policy_that_it_was(tiny_bench: Bench) -> None:
    lab, fresh = tiny_bench.lab(), tiny_bench.lab()
    lab.move_anchor()
    shift(lab, 4)
    theirs = lab.generate(lab.prompts(4), 2, by="anchor")
    assert torch.equal(theirs.tokens, fresh.generate(fresh.prompts(4), 2).tokens)
    assert set(session_of(lab).meter.items) == {("anchor", "sample")}


@torch.no_grad()
def test_logits_that_are_read_once_the_anchor_has_moved_are_refused(
    tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoalign.models.passes.LOGITS", 8)  # none are kept with a pass
    lab = tiny_bench.lab()
    pairs = lab.pairs(3).chosen
    outputs = lab.anchor(pairs)
    shift(lab, 5)
    lab.move_anchor()
    with pytest.raises(UserError, match="read after it has moved"):
        _ = outputs.logits


def test_moves_without_a_meaning_are_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    class Moving:
        """Moves the anchor within its loss."""

        lr = 1e-3

        def iteration(self, lab: Lab) -> Iterator[Step]:
            yield Step(lab.pairs(4).chosen, self.loss)

        def loss(self, lab: Lab, answers: Rollouts) -> Tensor:
            lab.move_anchor()
            return lab.log_ratio(answers, to="anchor")

    with pytest.raises(UserError, match="a loss cannot move the anchor"):
        tiny_bench.trainer(Moving(), Budget(1e12), tmp_path).run("moving")
    lab = tiny_bench.lab()
    for share in (0.0, 1.5):
        with pytest.raises(UserError, match=r"by a share in \(0, 1\]"):
            lab.move_anchor(share)
    with pytest.raises(UserError, match="to the reference or the anchor or the teacher, not 'policy'"):
        lab.log_ratio(lab.pairs(1).chosen, to="policy")
    with pytest.raises(UserError, match="cannot take the name 'anchor'"):
        lab.module("anchor", lambda width: torch.nn.Linear(width, 1))


# -- TR-DPO ------------------------------------------------------------------------------------------------------------


def run(bench: Bench, algorithm: Any, work: Path, steps: int, name: str = "a run") -> Trainer:
    trainer = bench.trainer(algorithm, Budget(1e15, steps=steps), work, config=TrainConfig(warmup=2))
    trainer.run(name)
    return trainer


@pytest.mark.parametrize("tau", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_tr_dpo_ends_with_the_weights_of_trls_dpo_whose_reference_is_synced(
    tiny_bench: Bench, tmp_path: Path, tau: int
) -> None:
    settings = {"lr": 3e-3, "tau": tau, "batch_size": 5}
    ours, theirs = (run(tiny_bench, small(name, **settings), tmp_path, 7) for name in ("tr_dpo", "trl_tr_dpo"))
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=0)
    assert [row["loss"] for row in theirs.log] == pytest.approx([row["loss"] for row in ours.log], rel=1e-4)
    still = run(tiny_bench, small("dpo", lr=3e-3, batch_size=5), tmp_path, 7)
    assert abs(still.log[-1]["loss"] - ours.log[-1]["loss"]) > 1e-3  # a reference that moves is another method
    base = tiny_bench.language_model()
    for trainer in (ours, theirs):  # and the base is still the base
        for mine, other in zip(trainer.session.reference.inner.parameters(), base.inner.parameters(), strict=True):
            assert torch.equal(mine, other)


def test_without_an_update_tr_dpo_is_dpo(tiny_bench: Bench, tmp_path: Path) -> None:
    ours, plain = (run(tiny_bench, each, tmp_path, 4) for each in (small("tr_dpo", tau=99), small("dpo")))
    for mine, other in zip(weights(ours), weights(plain), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)


def test_tr_dpos_reference_is_the_policy_of_the_last_update(tiny_bench: Bench, tmp_path: Path) -> None:
    """A hard update after every second step: at steps 3 and 5 the loss begins at log 2, as that of DPO does."""
    trainer = run(tiny_bench, small("tr_dpo", alpha=1.0, tau=2, lr=1e-2), tmp_path, 5)
    losses = [row["loss"] for row in trainer.log]
    ln2 = -float(logsigmoid(torch.zeros(())))
    assert [losses[0], losses[2], losses[4]] == pytest.approx([ln2] * 3, abs=1e-6)
    assert abs(losses[1] - ln2) > 1e-4
    assert abs(losses[3] - ln2) > 1e-4


def test_trls_trainers_move_no_reference_of_an_adapter(tiny_bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"move no reference of an adapter; set task\.model\.lora=0"):
        run(tiny_bench.replace(lora=4), small("trl_tr_dpo"), tmp_path, 1)


# -- DICE --------------------------------------------------------------------------------------------------------------


def test_dices_pairs_are_the_best_and_the_worst_by_the_log_ratio_to_the_base_less_a_price_per_token(tiny_bench: Bench) -> None:
    lab, again = (nudge(tiny_bench.replace(ends=True).lab()) for _ in range(2))
    dice = DICE(dpo_share=0.0, prompts=4, draws=3, batch_size=4, beta=0.5, length_penalty=0.3, replay=0)
    (step,) = dice.iteration(lab)
    answers = again.generate(again.prompts(4), 3)
    with torch.no_grad():
        reward = 0.5 * again.log_ratio(answers) - 0.3 * answers.completion_mask.sum(1)
    texts = [tuple(row.tolist()) for row in answers.tokens]
    for chosen, rejected in zip(step.batch.chosen.tokens.tolist(), step.batch.rejected.tokens.tolist(), strict=True):
        group = texts.index(tuple(chosen)) // 3
        own = reward[3 * group : 3 * group + 3]
        assert texts[3 * group + int(own.argmax())] == tuple(chosen)
        assert texts[3 * group + int(own.argmin())] == tuple(rejected)


def test_a_later_round_of_dice_is_judged_by_the_log_ratio_to_the_policy_of_the_round_before(tiny_bench: Bench) -> None:
    lab = nudge(tiny_bench.replace(ends=True).lab())
    dice = DICE(dpo_share=0.0, prompts=4, draws=3, batch_size=4, beta=0.5, replay=0)
    list(dice.iteration(lab))
    before = [p.detach().clone() for p in trained(lab)]  # the reference of the first round, which then trains
    shift(lab, 5)
    (step,) = dice.iteration(lab)
    pairs: Any = step.batch
    now = [lab.policy(side).logp.sum(1).detach() for side in (pairs.chosen, pairs.rejected)]
    base = [lab.reference(side).logp.sum(1) for side in (pairs.chosen, pairs.rejected)]
    with torch.no_grad():
        for parameter, value in zip(trained(lab), before, strict=True):
            parameter.copy_(value)
    then = [lab.policy(side).logp.sum(1).detach() for side in (pairs.chosen, pairs.rejected)]
    gaps = (now[0] - then[0]) - (now[1] - then[1])
    assert (gaps >= 0).all()
    assert (gaps > 0).any()
    assert ((now[0] - base[0]) < (now[1] - base[1])).any(), "the base would have picked other pairs"


def test_a_round_of_dice_is_dpo_over_the_policy_at_its_start_with_given_pairs_in_between(tiny_bench: Bench) -> None:
    lab = nudge(tiny_bench.lab())
    dice = DICE(dpo_share=0.0, prompts=4, draws=2, batch_size=2, beta=0.5, replay=1)
    start = None
    given, own = [], []
    for turn, step in enumerate(dice.iteration(lab)):
        (given if turn % 2 else own).append(step)
        pairs: Pairs = step.batch  # type: ignore[assignment]
        if start is None:
            start = [p.detach().clone() for p in trained(lab)]
            losses = step.loss(lab, pairs)
            torch.testing.assert_close(losses, torch.full_like(losses, 0.693147), atol=1e-5, rtol=0)
        now = lab.policy(pairs.chosen).logp.sum(1) - lab.policy(pairs.rejected).logp.sum(1)
        kept = [p.detach().clone() for p in trained(lab)]
        with torch.no_grad():
            for parameter, value in zip(trained(lab), start, strict=True):
                parameter.copy_(value)
            then = lab.policy(pairs.chosen).logp.sum(1) - lab.policy(pairs.rejected).logp.sum(1)
            for parameter, value in zip(trained(lab), kept, strict=True):
                parameter.copy_(value)
        torch.testing.assert_close(step.loss(lab, pairs), -logsigmoid(0.5 * (now - then)), atol=1e-5, rtol=1e-4)
        shift(lab, 10 + turn)
    assert (len(own), len(given)) == (2, 2)
    assert session_of(lab).cursors.keys() == {"prompts", "pairs-annotator"}


def test_before_its_share_is_spent_dice_is_dpo(tiny_bench: Bench, tmp_path: Path) -> None:
    ours, plain = (run(tiny_bench, each, tmp_path, 3) for each in (small("dice", dpo_share=1.0), small("dpo")))
    assert all(torch.equal(a, b) for a, b in zip(weights(ours), weights(plain), strict=True))
    assert ours.meter.items == plain.meter.items


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TRDPO(alpha=0.0), r"alpha must lie in \(0, 1\]"),
        (lambda: TRDPO(tau=0), "tau be 1 or more"),
        (lambda: DICE(draws=1), "draws must be 2 or more"),
        (lambda: DICE(dpo_share=2.0), r"dpo_share must lie in \[0, 1\]"),
    ],
)
def test_settings_without_a_meaning_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_the_anchor_of_a_checkpoint_is_bitwise_what_was_saved(tiny_bench: Bench) -> None:
    lab, other = tiny_bench.lab(), tiny_bench.lab()
    shift(lab, 6)
    lab.move_anchor()
    session_of(other).anchor.restore([w.clone() for w in session_of(lab).anchor.state()])
    answer = rollouts([[0, 5, 6]], [[7, 8]], pad=1)
    with torch.no_grad():
        assert torch.equal(lab.anchor(answer).logp, other.anchor(answer).logp)
