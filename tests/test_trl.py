"""TRL's trainers inside the harness, against ours, against PyTorch's counter, and within what the harness promises."""

import dataclasses
import importlib
import json
import signal
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

from architectures import build
from isoalign.config.training import TrainConfig
from isoalign.core import stopping
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.data.preferences import rollouts
from isoalign.models.language import NEVER, LanguageModel
from isoalign.models.precision import cast_frozen_weights
from isoalign.runs.run import _meet
from isoalign.training import registry, trl
from isoalign.training.lab import Lab, session_of
from isoalign.training.meter import Meter
from isoalign.training.needs import needs_of
from isoalign.training.trainer import Trainer
from isoalign.training.trl.harness import Harness
from isoalign.training.trl.models import check_fused_head, lent, pay_passes
from test_meter import counting, even_bench, executed  # noqa: F401
from workbench import Bench, Terminal, loops, quick, same, weights
from workbench import small as cut

ALL = pytest.mark.parametrize(("name", "algorithm"), loops())
LORA = pytest.mark.parametrize("lora", [0, 4])


def small(name: str, **settings: Any) -> Any:
    """An algorithm with batches of five, where it has such."""
    fields = {field.name for field in dataclasses.fields(registry.algorithm(name))}
    return cut(name, **{key: 5 for key in ("batch_size", "num_generations") if key in fields} | settings)


def adapted(bench: Bench, algorithm: Any, lora: int) -> Bench:
    """The bench with an adapter; there is none for an algorithm that trains all weights."""
    if lora and "all_weights" in needs_of(algorithm):
        pytest.skip("it trains all weights")
    return bench.replace(lora=lora)


def run(bench: Bench, algorithm: Any, work: Path, steps: int = 6, **config: Any) -> Trainer:
    trainer = bench.trainer(algorithm, Budget(1e15, steps=steps), work, config=TrainConfig(warmup=2, **config))
    trainer.run("a run")
    return trainer


@LORA
@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_from_one_start_on_the_same_feedback_trls_trainer_ends_with_the_weights_of_ours(
    tiny_bench: Bench, tmp_path: Path, method: str, lora: int
) -> None:
    ours, theirs = (run(tiny_bench.replace(lora=lora), small(name, lr=1e-3), tmp_path) for name in (method, f"trl_{method}"))
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    for name in ("loss", "grad_norm", "lr"):
        assert [row[name] for row in theirs.log] == pytest.approx([row[name] for row in ours.log], rel=1e-4), name
    assert abs(ours.log[-1]["loss"] - ours.log[0]["loss"]) > 5e-4  # both went somewhere
    pairs = tiny_bench.source.feedback("annotator").pairs(torch.arange(8), 1)
    mine, other = (trainer.lab.log_ratio(pairs.chosen).detach() for trainer in (ours, theirs))
    torch.testing.assert_close(mine, other, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("nothing_saved")
@pytest.mark.parametrize("lora", [0, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "algorithm"), quick(loops(), "trl_dpo", "trl_kto", "trl_grpo"))
def test_the_bill_is_within_one_percent_of_what_was_counted(
    even_bench: Bench,  # noqa: F811
    tmp_path: Path, name: str, algorithm: Any, lora: int,
) -> None:  # fmt: skip
    bench = adapted(even_bench, algorithm, lora)
    with counting() as counted:
        trainer = run(bench, algorithm, tmp_path, steps=4)
    assert trainer.meter.steps == 4
    assert executed(trainer.meter, bench) == pytest.approx(counted(), rel=0.01)


def test_padding_and_prompts_are_on_the_bill_because_trl_computes_on_them(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = run(tiny_bench, small("trl_dpo", batch_size=1), tmp_path, steps=1)
    feedback, place = tiny_bench.source.feedback("annotator"), int(tiny_bench.lab().pairs(1).index)
    # both answers behind the prompt, padded to the longer one; the head at every token but the first
    columns = len(feedback.prompts[place]) + max(len(feedback.chosen[place]), len(feedback.rejected[place]))
    shape = trainer.policy.shape
    forward = 2 * (2 * shape.body * columns + 4 * shape.attention * columns**2 + 2 * shape.head * (columns - 1))
    recomputed = 2 * 2 * shape.head * (columns - 1)
    assert trainer.meter.items["policy", "forward"] == trainer.meter.items["reference", "forward"] == forward
    assert trainer.meter.items["policy", "backward"] == 2 * forward + recomputed


def test_the_rows_are_the_labs_tokens_without_padding(tiny_lab: Lab) -> None:
    feedback = session_of(tiny_lab).source.feedback("annotator")
    pairs = tiny_lab.pairs(7)
    for row, place in zip(trl.preferences(pairs), pairs.index.tolist(), strict=True):
        assert row["prompt_ids"] == feedback.prompts[place]
        assert row["chosen_ids"] == feedback.chosen[place]
        assert row["rejected_ids"] == feedback.rejected[place]


def test_rows_for_kto_carry_the_answer_of_the_row_before_for_the_estimate_of_kl(tiny_lab: Lab) -> None:
    feedback = session_of(tiny_lab).source.feedback("annotator")
    labels = tiny_lab.labels(7)
    ups, places = labels.desirable.tolist(), labels.index.tolist()
    answers = [(feedback.chosen if up else feedback.rejected)[place] for up, place in zip(ups, places, strict=True)]
    rows = trl.unpaired(labels)
    assert [row["prompt_ids"] for row in rows] == [feedback.prompts[place] for place in places]
    assert [row["completion_ids"] for row in rows] == answers
    assert [row["KL_completion_ids"] for row in rows] == [answers[place - 1] for place in range(7)]
    assert [row["label"] for row in rows] == ups


def test_a_trainer_is_given_the_batches_of_ours_in_the_same_order_and_pays_each_verdict_once(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    class Watched(Lab):
        seen: list[list[int]]

        def pairs(self, *args: Any, **kwargs: Any) -> Any:
            found = super().pairs(*args, **kwargs)
            self.seen.append(found.index.tolist())
            return found

    orders, bills = [], []
    for name in ("dpo", "trl_dpo"):
        trainer = tiny_bench.trainer(small(name), Budget(1e15, steps=7), tmp_path)
        trainer.lab.__class__, trainer.lab.seen = Watched, []  # type: ignore[assignment, attr-defined]
        trainer.run(name)
        orders.append(trainer.lab.seen)  # type: ignore[attr-defined]
        bills.append((trainer.meter.items["feedback", "sample"], trainer.meter.labels))
    assert orders[0] == orders[1]
    assert len(orders[0]) == 7, "none is gathered for a step that the budget forbids"
    assert bills[0] == bills[1]
    assert bills[1][0] == 11 * 10  # 7 batches of 5 walk over all 11 verdicts, at 10 FLOPs each


ONE_STEP = {"steps_per_generation": 1, "num_iterations": 1}


class Rewarded(Lab):
    """A lab that remembers what it was asked to reward."""

    seen: list[tuple[Rollouts, torch.Tensor]]

    def reward(self, answers: Rollouts, labelled_by: str = "annotator") -> torch.Tensor:
        rewards = super().reward(answers, labelled_by)
        self.seen.append((answers, rewards))
        return rewards


def rewarded(bench: Bench, algorithm: Any, work: Path, budget: Budget) -> Trainer:
    trainer = bench.trainer(algorithm, budget, work)
    trainer.lab.__class__, trainer.lab.seen = Rewarded, []  # type: ignore[assignment, attr-defined]
    trainer.run("online")
    return trainer


@LORA
@pytest.mark.parametrize("name", ["trl_rloo", "trl_grpo"])
def test_what_an_online_trainer_samples_are_answers_of_full_length_to_the_labs_prompts_without_banned_tokens(
    tiny_bench: Bench, tmp_path: Path, name: str, lora: int
) -> None:
    trainer = rewarded(tiny_bench.replace(lora=lora), small(name, batch_size=10, **ONE_STEP), tmp_path, Budget(1e15, steps=3))
    fresh = tiny_bench.lab()
    for answers, _ in trainer.lab.seen:  # type: ignore[attr-defined]
        assert answers.completion_mask.all()
        assert answers.completion.shape == (10, tiny_bench.new_tokens)
        assert not torch.isin(answers.completion, trainer.policy.banned).any()
        asked = [row["prompt"] for row in trl.contexts(fresh.prompts(2), 5)]
        assert [tokens[mask].tolist() for tokens, mask in zip(answers.tokens, answers.mask, strict=True)] == [
            prompt + answer for prompt, answer in zip(asked, answers.completion.tolist(), strict=True)
        ]
    assert trainer.meter.tokens == 3 * 10 * tiny_bench.new_tokens


@pytest.mark.parametrize("name", ["trl_rloo", "trl_grpo"])
def test_the_first_gradient_is_that_of_the_papers_estimator(tiny_bench: Bench, tmp_path: Path, name: str) -> None:
    trainer = rewarded(tiny_bench, small(name, beta=0.0, batch_size=10, **ONE_STEP), tmp_path, Budget(1e15, steps=1))
    ((answers, rewards), *_) = trainer.lab.seen  # type: ignore[attr-defined]
    groups = rewards.reshape(2, 5)
    others = (groups.sum(1, keepdim=True) - groups) / 4
    lab = tiny_bench.lab()
    if name == "trl_rloo":  # the reward less the mean of its four siblings', times the answer's log-probability
        loss = -((groups - others).flatten() * lab.policy(answers).logp.sum(1)).mean()
    else:  # the reward's distance from its group's mean in deviations, times the mean over tokens
        scaled = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        loss = -(scaled.flatten() * lab.policy(answers).logp.mean(1)).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in session_of(lab).policy.inner.parameters() if p.grad is not None])
    assert trainer.log[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert trainer.log[0]["reward"] == pytest.approx(float(rewards.mean()))


@LORA
def test_online_dpo_learns_from_its_own_two_answers_to_each_of_the_labs_prompts_by_which_is_better(
    tiny_bench: Bench, tmp_path: Path, lora: int
) -> None:
    bench = tiny_bench.replace(lora=lora)
    trainer = rewarded(bench, small("trl_online_dpo", labelled_by="reward"), tmp_path, Budget(1e15, steps=1))
    (answers, rewards), *_ = trainer.lab.seen  # type: ignore[attr-defined]
    lab = bench.lab()
    asked = [row["prompt"] for row in trl.contexts(lab.prompts(5), 1)]
    prompts = [tokens[: answers.prompt_length][mask[: answers.prompt_length]].tolist()
               for tokens, mask in zip(answers.tokens, answers.mask, strict=True)]  # fmt: skip
    assert prompts == asked * 2
    assert answers.completion_mask.all()
    assert not torch.isin(answers.completion, trainer.policy.banned).any()
    first_wins = rewards[:5] >= rewards[5:]
    ratios = lab.log_ratio(answers)
    margin = torch.where(first_wins, ratios[:5] - ratios[5:], ratios[5:] - ratios[:5])
    loss = -logsigmoid(0.1 * margin).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in session_of(lab).policy.inner.parameters() if p.grad is not None])
    assert trainer.log[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert trainer.log[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


@pytest.mark.parametrize("name", ["trl_orpo", "trl_cpo", "trl_simpo"])
def test_the_first_loss_and_gradient_are_the_papers(tiny_bench: Bench, tmp_path: Path, name: str) -> None:
    trainer = run(tiny_bench, small(name, beta=0.7), tmp_path, steps=1)
    lab = tiny_bench.lab()
    pairs = lab.pairs(5)
    sums = [lab.policy(side).logp.sum(1) for side in (pairs.chosen, pairs.rejected)]
    means = [total / side.completion_mask.sum(1) for total, side in zip(sums, (pairs.chosen, pairs.rejected), strict=True)]
    if name == "trl_simpo":
        loss = -logsigmoid(0.7 * (means[0] - means[1]) - 1.0).mean()
    elif name == "trl_cpo":
        loss = -logsigmoid(0.7 * (sums[0] - sums[1])).mean() - sums[0].sum() / pairs.chosen.completion_mask.sum()
    else:  # the likelihood is that of all tokens but the first, those of the prompt included
        rows = [row["prompt_ids"] + row["chosen_ids"] for row in trl.preferences(pairs)]
        whole = rollouts([ids[:1] for ids in rows], [ids[1:] for ids in rows], session_of(lab).pad)
        odds = [mean - torch.log1p(-mean.exp()) for mean in means]
        loss = -lab.policy(whole).logp.sum() / whole.completion_mask.sum() - 0.7 * logsigmoid(odds[0] - odds[1]).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in session_of(lab).policy.inner.parameters() if p.grad is not None])
    assert trainer.log[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert trainer.log[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert not any(role == "reference" for role, _ in trainer.meter.items)


def test_without_a_kl_coefficient_the_reference_is_not_used_and_samples_may_be_reused(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    algorithm = small("trl_grpo", beta=0.0, num_iterations=3, steps_per_generation=1, batch_size=10)
    trainer = rewarded(tiny_bench, algorithm, tmp_path, Budget(1e15, steps=6))
    assert len(trainer.lab.seen) == 2  # type: ignore[attr-defined]
    assert not any(role == "reference" for role, _ in trainer.meter.items)


@pytest.mark.parametrize("name", ["trl_dr_grpo", "trl_bnpo", "trl_dapo", "trl_cispo", "trl_gspo"])
def test_before_the_first_step_a_row_of_grpo_has_the_gradient_of_its_average(
    tiny_bench: Bench, tmp_path: Path, name: str
) -> None:
    """All ratios are 1 and all answers equally long, so that only the scale of the advantages differs."""
    trainer = rewarded(tiny_bench, small(name, batch_size=10, **ONE_STEP), tmp_path, Budget(1e15, steps=1))
    ((answers, rewards), *_) = trainer.lab.seen  # type: ignore[attr-defined]
    groups = rewards.reshape(2, 5)
    scaled = groups - groups.mean(1, keepdim=True)
    if name != "trl_dr_grpo":
        scaled = scaled / (groups.std(1, keepdim=True) + 1e-4)
    lab = tiny_bench.lab()
    (-(scaled.flatten() * lab.policy(answers).logp.mean(1)).mean()).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in session_of(lab).policy.inner.parameters() if p.grad is not None])
    assert trainer.log[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_a_round_of_sampling_that_its_tokens_do_not_cover_is_not_begun(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = rewarded(tiny_bench, small("trl_rloo", batch_size=10), tmp_path, Budget(1e15, tokens=180))
    assert len(trainer.lab.seen) == 3  # type: ignore[attr-defined]
    assert trainer.meter.tokens == 150  # the reward model's training is no part of a step's price: it is bought once


@pytest.mark.slow
@LORA
@ALL
def test_models_are_handed_back_as_they_were(tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any, lora: int) -> None:
    trainer = adapted(tiny_bench, algorithm, lora).trainer(algorithm, Budget(1e15, steps=2), tmp_path)
    models = [trainer.session.policy, trainer.session.reference]
    before = [(set(m.model.state_dict()), set(vars(m.model)) - {"training"}, set(vars(m.inner))) for m in models]
    wanted = [p.requires_grad for p in models[0].model.parameters()]
    trainer.run(name)
    for model, (names, own, inner) in zip(models, before, strict=True):
        assert set(model.model.state_dict()) == names
        assert {name for name in vars(model.model).keys() - own if not name.startswith("_")} <= {"training", "model_tags"}
        assert "forward" not in vars(model.inner).keys() - inner
        assert model.head.bias is None
        assert not any(module.training for module in model.model.modules())
    assert [p.requires_grad for p in models[0].model.parameters()] == wanted


@pytest.mark.slow
@ALL
def test_snapshots_hold_a_model_and_nothing_of_the_trainers(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any
) -> None:
    trainer = run(tiny_bench, algorithm, tmp_path, steps=5, snapshots=(0.5,), kl_snapshots=())
    (place,) = trainer.snapshots
    folder = tmp_path / "snapshots" / str(place["steps"])
    assert {file.name for file in tmp_path.iterdir()} == {"snapshots"}
    assert set(load_file(folder / "model.safetensors")) == set(load_file(tiny_bench.model / "model.safetensors"))


def test_a_step_that_is_not_finite_is_charged_and_counted_but_skipped(tiny_bench: Bench, tmp_path: Path) -> None:
    broken = small("trl_dpo", beta=float("inf"))  # times a log-ratio of 0
    trainer = tiny_bench.trainer(broken, Budget(1e15, steps=3), tmp_path)
    before = weights(trainer)
    trainer.run("broken")
    assert (trainer.skipped, trainer.meter.steps) == (3, 3)
    assert same(before, weights(trainer))
    assert ["loss" in row for row in trainer.log] == [False] * 3


def test_banned_tokens_have_probability_zero_in_trls_losses(tiny_bench: Bench, tmp_path: Path) -> None:
    lab = tiny_bench.lab()
    with lent(session_of(lab).policy, session_of(lab).reference):
        logits = session_of(lab).policy.inner(input_ids=torch.tensor([[0, 5, 9]])).logits
    assert logits.softmax(-1)[..., session_of(lab).policy.banned].abs().max() == 0
    assert session_of(lab).policy.banned.tolist() == [0, 1]
    assert (logits[..., 2:] > NEVER / 2).all()


class Killed(Exception):
    """Stands for a signal."""


class Mortal(Trainer):
    """Dies at the end of a step, within a cycle where that has several."""

    left = 0

    def log_step(self, loss: float | None, rate: float, norm: float | None) -> None:
        self.left -= 1
        if not self.left:
            raise Killed
        super().log_step(loss, rate, norm)


OFTEN = TrainConfig(warmup=2, checkpoint_seconds=0, snapshots=(0.1, 0.5))


def outcome(trainer: Trainer) -> tuple[Any, ...]:
    kept = {file.name: file.stat().st_size for file in (trainer.work / "snapshots").iterdir()}
    return trainer.log, trainer.meter.spent() | {"seconds": 0}, trainer.snapshots, trainer.skipped, kept


@pytest.mark.parametrize("lora", [0, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "algorithm"), quick(loops(), "trl_dpo", "trl_grpo"))
def test_a_run_killed_twice_ends_with_the_weights_the_bill_and_the_log_of_one_that_was_not(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any, lora: int
) -> None:
    ends = []
    for kills in ((), (6, 5)):
        work = tmp_path / str(len(kills))
        work.mkdir()
        for left in (*kills, 0):
            torch.manual_seed(left)  # the state of the process is another one each time
            trainer = adapted(tiny_bench, algorithm, lora).trainer(algorithm, Budget(1e15, steps=13), work, config=OFTEN)
            trainer.__class__ = Mortal
            trainer.left = left  # type: ignore[attr-defined]
            with pytest.raises(Killed) if left else nullcontext():
                trainer.run(name)
        ends.append(trainer)
    assert -trainer.left < 13 - 4  # type: ignore[attr-defined]  # the last one went on from a checkpoint
    assert same(weights(ends[0]), weights(ends[1]))
    assert outcome(ends[0]) == outcome(ends[1])


def test_a_signal_lets_a_trainer_of_trls_finish_its_step_and_save_it(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for number in (None, signal.SIGTERM):
        work = tmp_path / str(number)
        work.mkdir()
        monkeypatch.setattr(stopping._State, "asked", number)
        config = TrainConfig(warmup=2, checkpoint_seconds=1e6)
        if number:
            stopped = tiny_bench.trainer(small("trl_grpo"), Budget(1e15, steps=9), work, config=config)
            with pytest.raises(stopping.Stopped):
                stopped.run("stopped")
            assert 0 < stopped.meter.steps < 9
            monkeypatch.setattr(stopping._State, "asked", None)
        ends.append(tiny_bench.trainer(small("trl_grpo"), Budget(1e15, steps=9), work, config=config))
        ends[-1].run("a run")
    assert same(weights(ends[0]), weights(ends[1]))
    assert ends[0].log == ends[1].log


def test_a_checkpoint_of_another_device_is_not_resumed_where_chance_is_the_devices(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = []
    for work in (tmp_path / "whole", tmp_path / "moved"):
        work.mkdir()
        if work.name == "moved":
            trainer = tiny_bench.trainer(small("trl_rloo"), Budget(1e15, steps=5), work, config=OFTEN)
            trainer.__class__, trainer.left = Mortal, 3  # type: ignore[attr-defined]
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr(Harness, "state", lambda self: {"device": "cuda"})
                with pytest.raises(Killed):
                    trainer.run("killed")
        ends.append(run(tiny_bench, small("trl_rloo"), work, steps=5, snapshots=(0.1, 0.5)))
    assert "is of another device (cuda); training starts over" in capsys.readouterr().err
    assert same(weights(ends[0]), weights(ends[1]))
    assert ends[0].log == ends[1].log


@pytest.mark.slow
def test_a_card_names_the_loop_that_trained_it_and_bears_its_bill(furnished: Terminal) -> None:
    done = furnished(furnished.run("algorithm=trl_dpo", "algorithm.batch_size=8", "budget.flops=6e9"))
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert card["training"]["loop"] == f"trl {version('trl')} DPOTrainer"
    assert 0.5 * 6e9 < card["spent"]["flops"] <= 6e9
    assert {(item["role"], item["kind"]) for item in card["spent"]["items"]} == {
        ("feedback", "sample"), ("policy", "forward"), ("policy", "backward"), ("reference", "forward"),
    }  # fmt: skip
    assert card["curve"]


def test_a_loop_that_returns_early_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    class Tired:
        lr = 1.0

        def train(self, lab: Lab) -> None:
            lab.pairs(2)

    with pytest.raises(UserError, match="its training loop returned before the budget was spent"):
        tiny_bench.trainer(Tired(), Budget(1e15), tmp_path).run("tired")


def lower(trainer: Trainer, lora: int) -> None:
    """Put a trainer's models into bf16: the passes of an adapter's, or all weights."""
    for model in (trainer.policy, trainer.session.reference):
        if lora:
            model.precision = "bfloat16"
            cast_frozen_weights(model.inner)
        else:
            model.inner.bfloat16()


@LORA
@pytest.mark.parametrize("name", ["trl_grpo", "trl_online_dpo"])
def test_an_online_trainer_samples_from_models_in_bf16(tiny_bench: Bench, tmp_path: Path, name: str, lora: int) -> None:
    trainer = tiny_bench.replace(lora=lora).trainer(small(name), Budget(1e15, steps=2), tmp_path)
    lower(trainer, lora)
    before = weights(trainer)
    trainer.run(name)
    assert trainer.meter.steps == 2
    assert not same(before, weights(trainer))


@pytest.mark.parametrize("name", ["llama", "cohere", "gemma2", "granite", "mixtral"])
def test_the_way_of_trl_from_states_to_log_probabilities_is_the_models_own(tiny_bench: Bench, name: str) -> None:
    check_fused_head(language_model(build(name), tiny_bench))


@pytest.mark.parametrize("name", ["modernbert-decoder", "llama4_text"])
def test_a_model_whose_log_probabilities_trl_gets_wrong_is_refused(tiny_bench: Bench, name: str) -> None:
    model = build(name, **({"decoder_bias": False, "local_attention": 16} if name != "llama4_text" else {}))
    with pytest.raises(UserError, match="than its own forward"), lent(*[language_model(model, tiny_bench)] * 2):
        pass
    assert "forward" not in vars(model)
    assert model.get_output_embeddings().bias is None


def language_model(model: Any, bench: Bench) -> LanguageModel:
    return LanguageModel(model, bench.language_model().tokenizer, ends=True)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "llama"])
def test_rows_padded_on_the_left_are_read_at_their_own_positions(tiny_bench: Bench, name: str) -> None:
    """As GRPO, RLOO and online DPO pad prompts, and give no positions."""
    model = language_model(build(name), tiny_bench)
    row = torch.arange(3, 12).unsqueeze(0)
    padded, mask = torch.cat([torch.full((1, 5), 1), row], 1), torch.tensor([[0] * 5 + [1] * 9])
    with torch.no_grad():
        expected = model.inner(input_ids=row).logits
        pay_passes(model, Meter(Budget(1e15)))
        found = model.inner(input_ids=padded, attention_mask=mask).logits[:, 5:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_lent_model_drops_nothing_samples_by_no_settings_of_its_own_and_comes_back_as_it_was(tiny_bench: Bench) -> None:
    inner = build("opt", dropout=0.5, attention_dropout=0.5)
    inner.generation_config.suppress_tokens = [5, 6]
    told, model = inner.generation_config, language_model(inner, tiny_bench)
    tokens = torch.arange(3, 12).unsqueeze(0)
    with torch.no_grad(), lent(model, model):
        expected = inner(input_ids=tokens).logits
        inner.train()
        assert inner.training, "which trainers read"
        assert torch.equal(inner(input_ids=tokens).logits, expected)
        assert inner.generation_config.suppress_tokens is None
    assert inner.generation_config is told
    assert "train" not in vars(inner)
    assert not inner.training


def test_no_loss_of_trls_balances_experts_and_answers_are_scored_up_to_their_end() -> None:
    assert trl._balance(importlib.import_module("trl").DPOConfig) == {"router_aux_loss_coef": 0.0}
    assert trl._ended([7, 8, 2, 0, 0], {2}) == [7, 8, 2]
    assert trl._ended([7, 8, 0], {2}) == trl._ended([7, 8, 0], set()) == [7, 8, 0]


def test_the_precision_of_a_launcher_is_refused_in_one_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(UserError, match="ACCELERATE_MIXED_PRECISION=bf16 has no effect: launch without it"):
        _meet(OmegaConf.create({"device": "cpu", "task": {}}))
