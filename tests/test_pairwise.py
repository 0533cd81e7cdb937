"""Losses on pairs and on single answers beside DPO's and KTO's: numbers worked by hand, TRL's on the same batch and models,
figures of a TRL that had what it has no more, and the authors' formulas."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, tensor
from torch.nn.functional import logsigmoid

from isoalign.baselines.apo_down import APODown
from isoalign.baselines.apo_zero import APOZero
from isoalign.baselines.bco import BCO
from isoalign.baselines.beta_dpo import BetaDPO
from isoalign.baselines.dpo import DPO, margin
from isoalign.baselines.dpop import DPOP
from isoalign.baselines.exo import EXO
from isoalign.baselines.kto import Judged
from isoalign.baselines.nca import NCA
from isoalign.baselines.rpo import RPO
from isoalign.baselines.slic import SLiC
from isoalign.baselines.sppo_hard import SPPOHard
from isoalign.baselines.tdpo import TDPO, sequential
from isoalign.core.batches import Labels
from isoalign.core.records import Budget
from isoalign.data.preferences import Feedback
from isoalign.training.lab import session_of
from test_dpo_relatives import rows, slope
from test_reference_free import rows as whole_rows
from workbench import Bench, assert_same_gradients, loss_of_ratios, make_feedback, nudge, open_vocabulary, trl_trainer

OLD = json.loads((Path(__file__).parent / "golden" / "trl_1.12.json").read_text())
SIGMOID = {x: 1 / (1 + math.exp(-x)) for x in (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)}


def ragged() -> Feedback:
    """Seven verdicts on answers of one to six tokens, of unequal length within a pair."""
    return make_feedback("simulated", [2, 7, 4, 1, 5, 3, 6], [1, 4, 6, 3, 2, 5, 2])


# -- by hand: log-ratios of 3 and -1 against -1 and 3, at beta .5: rewards of 1.5 and -.5 --------------------------------


def hand(algorithm: Any) -> list[float]:
    return loss_of_ratios(algorithm, [3.0, -1.0], [-1.0, 3.0])


def test_apo_zero_moves_each_answer_by_itself() -> None:
    # 1 - .817574 + .377541 and 1 - .377541 + .817574
    assert hand(APOZero(beta=0.5)) == pytest.approx([0.559966, 1.440034], abs=1e-6)


def test_apo_down_pulls_both_down_and_the_rejected_one_more() -> None:
    # .817574 + 1 - sigmoid(2) = .880797 and .377541 + 1 - sigmoid(-2) = .119203
    assert hand(APODown(beta=0.5)) == pytest.approx([0.936777, 1.258338], abs=1e-6)


def test_nca_draws_the_chosen_reward_to_log_two() -> None:
    # -log .817574 - (log .182426 + log .622459) / 2 and -log .377541 - (log .622459 + log .182426) / 2
    assert hand(NCA(beta=0.5)) == pytest.approx([0.201413 + 1.087745, 0.974077 + 1.087745], abs=1e-5)
    (left, best, right) = loss_of_ratios(NCA(beta=1.0), [math.log(2) - 0.1, math.log(2), math.log(2) + 0.1], [0.0] * 3)
    assert best < min(left, right)


def test_exo_is_the_kl_of_the_policys_view_from_the_labels() -> None:
    # p = sigmoid(2) = .880797 against .9: .880797 ln(.880797 / .9) + .119203 ln(.119203 / .1) = .001951
    found = hand(EXO(beta=0.5, label_smoothing=0.1))
    assert found[0] == pytest.approx(0.880797 * math.log(0.880797 / 0.9) + 0.119203 * math.log(0.119203 / 0.1), abs=1e-5)
    rest = math.log(0.9 / 0.1) / 0.5
    assert slope(EXO(beta=0.5, label_smoothing=0.1), rest) == pytest.approx(0, abs=1e-9)


def test_sppo_draws_log_ratios_to_plus_and_minus_half_of_one_over_beta() -> None:
    # targets 1 and -1 at beta .5: (3 - 1)^2 + (-1 + 1)^2 and (-1 - 1)^2 + (3 + 1)^2
    assert hand(SPPOHard(beta=0.5)) == pytest.approx([4.0, 20.0])


def test_dpop_pays_for_what_the_chosen_answer_lost_and_is_dpo_where_it_lost_nothing() -> None:
    # beta .5, penalty 2: margin -4 less 2 x 1 nat: log(1 + e^3) = 3.048587
    assert hand(DPOP(beta=0.5, penalty=2.0)) == pytest.approx([hand(DPO(beta=0.5))[0], 3.048587], abs=1e-6)


@pytest.mark.parametrize("algorithm", [APOZero(beta=1.0), APODown(beta=1.0), NCA(beta=1.0), EXO(beta=1.0), DPOP(beta=1.0)])
def test_an_absurd_margin_gives_no_infinity(algorithm: Any) -> None:
    assert all(map(math.isfinite, loss_of_ratios(algorithm, [-1e4, 1e4], [0.0, 0.0])))
    for far in (-1e4, 1e4):
        assert math.isfinite(slope(algorithm, far))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EXO(label_smoothing=0.0), r"label_smoothing must lie in \(0, 0.5\)"),
        (lambda: SPPOHard(beta=0.0), "beta must be positive"),
        (lambda: SLiC(delta=-1.0), "delta and sft_weight must be 0 or more"),
        (lambda: RPO(sft_weight=-1.0), "sft_weight must be 0 or more"),
        (lambda: DPOP(penalty=-1.0), "penalty must be 0 or more"),
        (lambda: BetaDPO(batch_size=1), "batch_size must be 2 or more"),
        (lambda: BetaDPO(keep=0.0), r"keep lie in \(0, 1\]"),
        (lambda: BCO(decay=1.0), r"decay must lie in \[0, 1\)"),
    ],
)
def test_settings_without_a_meaning_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# -- against TRL -------------------------------------------------------------------------------------------------------

SAME = [
    (APOZero(beta=0.3), {"loss_type": "apo_zero"}),
    (APODown(beta=0.3), {"loss_type": "apo_down"}),
    (NCA(beta=0.3), {"loss_type": "nca_pair"}),
    (EXO(beta=0.3, label_smoothing=0.05), {"loss_type": "exo_pair", "label_smoothing": 0.05}),
    (SPPOHard(beta=0.3), {"loss_type": "sppo_hard"}),
    (DPOP(beta=0.3, penalty=0.0), {"loss_type": "sigmoid"}),
]


@pytest.mark.parametrize(("algorithm", "settings"), SAME, ids=lambda each: type(each).__name__)
def test_loss_and_gradient_are_trls_on_ragged_answers(
    tiny_bench: Bench, tmp_path: Path, algorithm: Any, settings: dict[str, Any]
) -> None:
    from trl import DPOConfig, DPOTrainer

    lab, feedback = open_vocabulary(nudge(tiny_bench.lab())), ragged()
    ours = algorithm.loss(lab, feedback.pairs(torch.arange(7), session_of(lab).pad)).mean()
    ours.backward()
    trainer = trl_trainer(DPOTrainer, DPOConfig, lab, tmp_path, beta=0.3, max_length=None, **settings)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows(feedback)))
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)


def test_rpo_is_trls_dpo_with_sft_where_the_chosen_answers_have_one_length(tiny_bench: Bench, tmp_path: Path) -> None:
    """TRL divides by the tokens of all chosen answers of the batch, the paper by those of each."""
    from trl import DPOConfig, DPOTrainer

    lab, feedback = open_vocabulary(nudge(tiny_bench.lab())), make_feedback("simulated", [2, 7, 4, 3, 5], [3] * 5)
    pairs = feedback.pairs(torch.arange(5), session_of(lab).pad)
    ours = RPO(beta=0.3, sft_weight=0.7).loss(lab, pairs).mean()
    ours.backward()
    trainer = trl_trainer(
        DPOTrainer, DPOConfig, lab, tmp_path, beta=0.3, max_length=None, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7]
    )
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows(feedback)))
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert_same_gradients(session_of(lab).policy.inner, trainer.model)
    whole = RPO(beta=0.3, sft_weight=0.7, scale_length=False).loss(lab, pairs)
    torch.testing.assert_close(whole - DPO(beta=0.3).loss(lab, pairs), -0.7 * lab.policy(pairs.chosen).logp.sum(1))


def test_slic_is_the_hinge_of_trls_cpo_times_its_margin(tiny_bench: Bench, tmp_path: Path) -> None:
    """delta * max(0, 1 - m / delta) is max(0, delta - m); TRL's likelihood is over all tokens of the batch: the sum over 7."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    lab, feedback = open_vocabulary(nudge(tiny_bench.lab())), ragged()
    ours = SLiC(delta=4.0, sft_weight=0.5).loss(lab, feedback.pairs(torch.arange(7), session_of(lab).pad)).mean()
    ours.backward()
    tokens = sum(map(len, feedback.chosen))
    settings: dict[str, Any] = {"loss_type": "hinge", "beta": 1 / 4.0, "cpo_alpha": 0.5 * tokens / 7 / 4.0}
    trainer = trl_trainer(CPOTrainer, CPOConfig, lab, tmp_path, **settings)
    theirs = 4.0 * trainer.compute_loss(trainer.model, trainer.data_collator(whole_rows(feedback)))
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for mine, other in zip(session_of(lab).policy.inner.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)


# -- BCO ---------------------------------------------------------------------------------------------------------------


class Sides:
    """A lab that knows log-ratios of single answers."""

    def __init__(self, ratios: Tensor) -> None:
        self.ratios = ratios

    def log_ratio(self, _: Any) -> Tensor:
        return self.ratios

    def log(self, **_: Any) -> None:
        pass


def test_bco_has_the_losses_gradients_and_shift_of_trl_1_12() -> None:
    told = OLD["bco"]
    policy = tensor(told["policy_good"] + told["policy_bad"], requires_grad=True)
    good = torch.arange(7) < 4
    lab: Any = Sides(policy - tensor(told["base_good"] + told["base_bad"]))
    labels: Any = Labels(None, good, torch.arange(7))  # type: ignore[arg-type]
    bco = BCO(beta=told["beta"], balanced=False)
    shift = bco.shift((told["beta"] * lab.ratios).detach(), labels)
    assert shift.item() == pytest.approx(told["delta"], abs=1e-6)
    losses = bco.loss(lab, Judged(labels, shift.expand(7)))
    torch.testing.assert_close(losses, tensor(told["losses"]))
    losses.mean().backward()
    torch.testing.assert_close(policy.grad, tensor(told["gradient_good"] + told["gradient_bad"]))


def test_the_shift_of_the_paper_gives_good_and_bad_answers_the_same_say_and_moves_slowly(tiny_bench: Bench) -> None:
    labels: Any = Labels(None, tensor([True, False, False, False]), torch.arange(4))  # type: ignore[arg-type]
    assert BCO().shift(tensor([4.0, 0.0, 1.0, 2.0]), labels).item() == 2.5  # (4 + 1) / 2; the mean of all is 1.75
    assert BCO(balanced=False).shift(tensor([4.0, 0.0, 1.0, 2.0]), labels).item() == 1.75
    lab = nudge(tiny_bench.lab())
    seen = []
    for _ in range(3):
        (step,) = BCO(batch_size=4, decay=0.5).iteration(lab)
        seen.append(step.batch.reference_point[0].item())
        assert lab.state["shift"] == pytest.approx(seen[-1])
    assert len(set(seen)) == 3


# -- TDPO --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "fixed"), [(0.5, True), (1.0, False)])
def test_tdpo_is_the_authors_formula_on_full_distributions(tiny_bench: Bench, alpha: float, fixed: bool) -> None:
    """A second way to the same: probabilities of every token by softmax, row by row and position by position."""
    lab, other = (open_vocabulary(nudge(tiny_bench.lab())) for _ in range(2))
    pairs = ragged().pairs(torch.arange(7), session_of(lab).pad)
    ours = TDPO(beta=0.3, alpha=alpha, fix_chosen=fixed).loss(lab, pairs)
    ours.mean().backward()

    values = []
    for side in (pairs.chosen, pairs.rejected):
        mine, base = other.policy(side), other.reference(side)
        for row in range(7):
            ratio, kl = tensor(0.0), tensor(0.0)
            for place in range(int(side.completion_mask[row].sum())):
                q, p = mine.logits[row, place].softmax(-1), base.logits[row, place].softmax(-1)
                token = int(side.completion[row, place])
                ratio = ratio + q[token].log() - p[token].log()
                kl = kl + (p * (p / q).log()).sum()
            values.append((ratio, kl))
    hoped = []
    for (chosen, near), (rejected, far) in zip(values[:7], values[7:], strict=True):
        hoped.append(-logsigmoid(0.3 * (chosen - rejected - alpha * (far - (near.detach() if fixed else near)))))
    torch.testing.assert_close(ours, torch.stack(hoped), atol=1e-5, rtol=1e-5)
    torch.stack(hoped).mean().backward()
    assert_same_gradients(session_of(lab).policy.inner, session_of(other).policy.inner)


def test_the_sequential_kl_is_never_negative_and_nothing_on_padding_or_for_banned_tokens(tiny_bench: Bench) -> None:
    lab = nudge(tiny_bench.lab())
    pairs = ragged().pairs(torch.arange(7), session_of(lab).pad)
    _, kl = sequential(lab, pairs.chosen)
    assert torch.isfinite(kl).all()
    assert (kl > 0).all()
    short = pairs.chosen[torch.tensor([0])].trimmed()  # one token: what is padding in the batch adds nothing
    torch.testing.assert_close(sequential(lab, short)[1], kl[:1], atol=1e-6, rtol=1e-5)


# -- beta-DPO ----------------------------------------------------------------------------------------------------------


def test_beta_follows_the_margin_of_the_kept_pairs_and_the_averages_start_at_zero(tiny_bench: Bench) -> None:
    lab, oracle = nudge(tiny_bench.lab()), nudge(tiny_bench.lab())
    algorithm = BetaDPO(batch_size=5, beta=0.2, alpha=0.6, keep=0.8, momentum=0.9)
    (step,) = algorithm.iteration(lab)
    pairs = oracle.pairs(5)
    with torch.no_grad():
        gaps = 0.2 * margin(oracle, pairs)
    kept = [int(i) for i in (step.batch.pairs.index[:, None] == pairs.index[None]).nonzero()[:, 1]]
    assert len(kept) == 4
    assert len(set(kept)) == 4
    assert lab.state["mean"] == pytest.approx(0.1 * gaps.mean().item(), rel=1e-5)
    assert lab.state["deviation"] == pytest.approx(0.1 * gaps.std().item(), rel=1e-5)
    hoped = 0.2 * (1 + 0.6 * (gaps[kept].mean().item() - lab.state["mean"]))
    assert step.batch.beta.tolist() == pytest.approx([hoped] * 4, rel=1e-5)
    torch.testing.assert_close(
        step.loss(lab, step.batch), -logsigmoid(hoped * margin(lab, step.batch.pairs)), atol=1e-6, rtol=1e-5
    )


def test_only_the_pairs_that_a_step_keeps_are_logged(tiny_bench: Bench) -> None:
    lab, oracle = nudge(tiny_bench.lab()), nudge(tiny_bench.lab())
    (step,) = BetaDPO(batch_size=5, keep=0.4).iteration(lab)
    step.loss(lab, step.batch)
    pairs = oracle.pairs(5)
    kept = (step.batch.pairs.index[:, None] == pairs.index[None]).nonzero()[:, 1]
    mean = oracle.log_ratio(pairs[kept].chosen).mean().item()
    assert session_of(lab).take_logged()["chosen_log_ratio"] == pytest.approx(mean)


def test_pairs_of_unusual_margin_are_left_out_by_the_chance_that_the_paper_gives_them() -> None:
    """Of three pairs one is kept, by weights exp(-z^2 / 2) with z of 0, 1 and 2: shares .5742, .3483 and .0777."""

    class Three:
        chosen, rejected = tensor([1.0, 2.0, 3.0]), torch.zeros(3)

        def __getitem__(self, kept: Tensor) -> Tensor:
            return kept

    counts, generator = torch.zeros(3), torch.Generator().manual_seed(0)
    lab: Any = SimpleNamespace(
        state={"mean": 1.0, "deviation": 1.0}, generator=generator, pairs=lambda _: Three(), log=lambda **_: None,
        log_ratio=lambda side: side,
    )  # fmt: skip
    algorithm = BetaDPO(batch_size=3, beta=1.0, keep=0.34, momentum=1 - 1e-12)
    for _ in range(4000):
        (step,) = algorithm.iteration(lab)
        counts[step.batch.pairs] += 1
    hoped = torch.exp(-0.5 * tensor([0.0, 1.0, 2.0]) ** 2)
    torch.testing.assert_close(counts / 4000, hoped / hoped.sum(), atol=0.03, rtol=0)


def test_a_policy_that_is_its_base_has_no_deviation_and_keeps_pairs_all_the_same(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = tiny_bench.trainer(BetaDPO(batch_size=5), Budget(1e15, steps=2), tmp_path)
    trainer.run("beta_dpo")
    assert trainer.log[0]["batch_beta"] == pytest.approx(0.1)
    assert trainer.log[0]["loss"] == pytest.approx(math.log(2))
