"""What a machine lacks, memory or disk, is said of the machine: it costs no score and is no method's failure."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoalign.config.training import TrainConfig
from isoalign.core.batches import Pairs, Rollouts, Step
from isoalign.core.errors import MachineFailed, UserError, unforeseen
from isoalign.core.memory import OutOfMemory, by_rows, machine_failure
from isoalign.core.records import Budget
from isoalign.evaluation.scores import rewards_of
from isoalign.models import language
from isoalign.models.critic import Critic
from isoalign.models.scorers import Scorer
from isoalign.runs.blame import as_training_failure
from isoalign.training.checkpoint import save_checkpoint
from isoalign.training.lab import Lab, session_of
from isoalign.training.trainer import Trainer
from workbench import Bench, small, weights

FULL = Path("/dev/full")  # on which every write fails as on a full disk
BUDGET = Budget(1e15, steps=4)


class Fault:
    """Runs out of memory in passes of more than ``rows`` rows: before a pass, after it, or in its backward pass."""

    raised = 0  # by all, those in copies of a model too

    def __init__(self, trainer: Trainer, rows: int, where: str) -> None:
        self.rows, self.where = rows, where
        Fault.raised = 0
        self.inner = trainer.policy.inner
        self.run = self.inner.base_model.forward
        self.inner.base_model.forward = self.forward

    def forward(self, *arguments: Any, **named: Any) -> Any:
        tokens = named["input_ids"]
        wide = len(tokens) > self.rows and torch.is_grad_enabled()
        if wide and self.where == "before":
            self.fail()
        out = self.run(*arguments, **named)
        if wide and self.where == "after":
            self.fail()
        if wide and self.where == "backward":
            out.last_hidden_state.register_hook(lambda _: self.fail())
        return out

    def fail(self) -> None:
        Fault.raised += 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Draws:
    """A method that logs, samples and trains a module: what a step that is tried again must not count twice."""

    lr = 1e-3

    def iteration(self, lab: Lab) -> Iterator[Step]:
        yield Step(lab.generate(lab.prompts(6)), self.loss)

    def loss(self, lab: Lab, rollouts: Rollouts) -> Tensor:
        outputs = lab.policy(rollouts)
        head = lab.module("head", lambda width: nn.Linear(width, 1))
        lab.log(kl=outputs.logp.mean())
        return -outputs.logp.sum(1) + head(outputs.hidden)[:, 0, 0] ** 2


@pytest.mark.parametrize("where", ["before", "after", "backward"])
@pytest.mark.parametrize(
    "make", [Draws, lambda: small("dpo"), lambda: small("ppo_critic")], ids=["draws", "dpo", "ppo_critic"]
)
def test_a_step_that_runs_out_of_memory_is_tried_with_half_of_the_rows_and_ends_as_one_in_small_parts(
    tiny_bench: Bench, tmp_path: Path, where: str, make: Callable[[], Any]
) -> None:
    trainers = []
    for place, micro in (("short", 64), ("parts", 1)):
        (tmp_path / place).mkdir()
        config = TrainConfig(warmup=2, checkpoint_seconds=1e9, micro_batch=micro)
        trainer = tiny_bench.trainer(make(), BUDGET, tmp_path / place, config=config)
        if place == "short":
            Fault(trainer, 1, where)
        trainer.run("it")
        trainers.append(trainer)
        assert Fault.raised
    short, parts = trainers
    assert short.gradients.rows == 1
    assert short.config.micro_batch == 64
    for one, other in zip(weights(short), weights(parts), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert short.meter.spent() | {"seconds": 0} == parts.meter.spent() | {"seconds": 0}
    for one, other in zip(short.log, parts.log, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
    assert torch.equal(short.lab.generator.get_state(), parts.lab.generator.get_state())


class Narrow:
    """Every model of a bench runs out of memory in passes without gradients of more than one row."""

    def __init__(self, bench: Bench, trainer: Trainer) -> None:
        models = [
            trainer.policy.inner,
            trainer.session.reference.inner,
            *(each.model for each in bench.source.rewards.values()),
        ]
        self.hooks = [model.base_model.register_forward_pre_hook(self.look, with_kwargs=True) for model in models]

    def look(self, module: Any, arguments: Any, named: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() and len(named["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("name", ["grpo", "ppo_critic", "kto"])
def test_passes_without_gradients_take_fewer_rows_too_when_memory_runs_out(
    tiny_bench: Bench, tmp_path: Path, name: str
) -> None:
    trainers = []
    for place in ("wide", "narrow"):
        (tmp_path / place).mkdir()
        trainers.append(trainer := tiny_bench.trainer(small(name), BUDGET, tmp_path / place))
        hooks = Narrow(tiny_bench, trainer).hooks if place == "narrow" else []
        trainer.run(name)
        for hook in hooks:
            hook.remove()
    wide, narrow = trainers
    for one, other in zip(weights(wide), weights(narrow), strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-4)
    assert wide.meter.spent() | {"seconds": 0} == narrow.meter.spent() | {"seconds": 0}


def test_many_samples_of_one_prompt_are_drawn_in_parts(tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny_bench.language_model(), tiny_bench.source.prompts()[:2]
    uniforms = torch.rand(2 * 7, tiny_bench.new_tokens, generator=torch.Generator().manual_seed(0))
    whole = model.generate(prompts, uniforms)
    monkeypatch.setattr(language, "CACHED", 0)  # as of a large model
    model.rows, widest = 3, list[int]()
    model.inner.model.register_forward_pre_hook(lambda *given: widest.append(len(given[2]["input_ids"])), with_kwargs=True)
    assert torch.equal(model.generate(prompts, uniforms).tokens, whole.tokens)
    assert max(widest) == 3


def test_a_row_that_does_not_fit_is_said_so_and_is_no_failure_of_the_method(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = tiny_bench.trainer(small("dpo"), BUDGET, tmp_path)
    Fault(trainer, 0, "backward")
    with pytest.raises(OutOfMemory, match="too little memory for one row"), as_training_failure():
        trainer.run("dpo")


def test_rows_of_a_step_are_sorted_by_length_and_change_nothing_but_digits(tiny_bench: Bench, tmp_path: Path) -> None:
    seen: list[list[int]] = []

    class Watches:
        lr = 1e-3

        def iteration(self, lab: Lab) -> Iterator[Step]:
            yield Step(lab.pairs(7), self.loss)

        def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
            seen.append([int(a + b) for a, b in zip(pairs.chosen.mask.sum(1), pairs.rejected.mask.sum(1), strict=True)])
            return -lab.policy(pairs.chosen).logp.sum(1)

    losses, orders = [], list[list[int]]()
    for micro in (64, 3):
        trainer = tiny_bench.trainer(Watches(), BUDGET, tmp_path, config=TrainConfig(micro_batch=micro))
        seen.clear()
        losses.append(trainer.gradients.accumulate(next(trainer.steps())))
        orders.append([length for part in seen for length in part])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert orders[0] != sorted(orders[0]) == orders[1]
    assert [len(part) for part in seen] == [3, 3, 1]


def raising(error: Exception, above: int) -> Callable[[Any], Tensor]:
    def probabilities(texts: Any) -> Tensor:
        if len(texts) > above:
            raise error
        return torch.tensor([len(text) / 10 for text in texts])

    return probabilities


TEXTS = ["a", "abcd", "ab", "abc", "abcde"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate")]
)
def test_a_scorer_without_memory_gives_every_score_or_none_at_all(error: Exception) -> None:
    assert Scorer("s", raising(error, 1))(TEXTS) == pytest.approx([0.1, 0.4, 0.2, 0.3, 0.5])
    with pytest.raises(OutOfMemory):
        Scorer("s", raising(error, 0))(TEXTS)


def test_a_scorer_on_a_broken_device_gives_no_scores() -> None:
    with pytest.raises(MachineFailed, match="the device failed: CUDA error: an illegal memory access"):
        Scorer("s", raising(torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"), 0))(TEXTS)


def test_a_scorer_that_fails_on_every_text_is_at_fault_itself() -> None:
    with pytest.raises(UserError, match=r"the scorer s fails on every text: RuntimeError: shapes \[3\]"):
        Scorer("s", raising(RuntimeError("shapes [3]"), 0))(TEXTS)


def test_rewards_are_read_in_parts_that_fit(tiny_bench: Bench) -> None:
    model = tiny_bench.source.rewards["annotator"]
    batch = tiny_bench.source.feedback("annotator").pairs(torch.arange(7), 1).chosen

    def short(part: Rollouts) -> Tensor:
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        rewards: Tensor = model(part)
        return rewards

    assert rewards_of(short, batch) == pytest.approx(rewards_of(model, batch), abs=2e-5)


def test_a_method_reads_rewards_of_more_rows_than_fit(tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_bench.source.rewards["annotator"], tiny_bench.source.feedback("annotator").pairs(torch.arange(7), 1)
    whole, run, seen = tiny_bench.lab().reward(batch.chosen), type(model).__call__, list[int]()

    def short(self: Any, part: Rollouts) -> Tensor:
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(part))
        rewards: Tensor = run(self, part)
        return rewards

    monkeypatch.setattr(type(model), "__call__", short)
    torch.testing.assert_close(tiny_bench.lab().reward(batch.chosen), whole, atol=1e-5, rtol=1e-5)
    assert seen == [1] * 7  # 7 rows do not fit, 3 do not, 1 does


@torch.no_grad()
def test_a_critic_reads_in_parts_that_fit(tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, lab = tiny_bench.source.feedback("annotator").pairs(torch.arange(7), 1).chosen, tiny_bench.lab()
    lab.critic(batch)  # makes it, with a head of zeros
    session_of(lab).modules["critic"].head.weight.normal_()
    whole, run, seen = lab.critic(batch), Critic.forward, list[int]()
    assert whole.std() > 0.1

    def short(self: Critic, part: Rollouts) -> Tensor:
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(part))
        return run(self, part)

    monkeypatch.setattr(Critic, "forward", short)
    real = batch.completion_mask  # on padding a value means nothing
    torch.testing.assert_close(lab.critic(batch)[real], whole[real], atol=1e-5, rtol=1e-5)
    assert seen == [1] * 7


def test_work_by_rows_takes_lists_and_passes_on_other_errors() -> None:
    assert by_rows(len, [1, 2, 3, 4, 5], 2) == [2, 2, 1]
    with pytest.raises(RuntimeError, match="shapes"):
        by_rows(raising(RuntimeError("shapes"), 0), TEXTS, 4)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/store/x"), "cannot write: .*No space left.*free some space"),
        (
            RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0"),
            "cannot wri",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "cannot write: .*quota"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot write: .*Read-only"),
        (OSError(errno.EIO, "Input/output error"), "cannot write: .*output error"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "the device failed: CUDA error"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
            "the device failed: CUDA error",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "too little memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "too little memory"),
        (MemoryError(), "too little memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a process was killed, .*worker"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "a process was killed"),
        (BrokenProcessPool("A process in the process pool was terminated abruptly"), "a process was killed"),
        (torch.OutOfMemoryError("CUDA out of memory"), "too little memory; .*task.training.micro_batch"),
    ],
)
def test_a_failure_of_the_machine_is_none_of_the_method_however_it_is_wrapped(error: Exception, said: str) -> None:
    with pytest.raises(MachineFailed, match=said), as_training_failure():
        raise error
    with pytest.raises(MachineFailed, match=said), as_training_failure():
        raise UserError("metric m: it failed") from error
    assert machine_failure(ValueError("shapes")) is None
    assert machine_failure(FileNotFoundError(errno.ENOENT, "no file")) is None


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_keeps_the_last_checkpoint_and_is_said_so(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"w": torch.ones(2)}, {"n": 1})
    [file] = (tmp_path / "checkpoint").iterdir()
    before = file.read_bytes()
    os.symlink(FULL, tmp_path / "checkpoint" / "next.tmp")
    with pytest.raises(MachineFailed, match="cannot write"), as_training_failure():
        save_checkpoint(tmp_path, {"w": torch.zeros(10**6)}, {"n": 2})
    assert list((tmp_path / "checkpoint").iterdir()) == [file]
    assert file.read_bytes() == before


def test_a_checkpoint_comes_no_oftener_than_saving_pays(tiny_bench: Bench, tmp_path: Path) -> None:
    for least, took, expected in ((60.0, 1.0, 60.0), (60.0, 30.0, 600.0), (0.0, 30.0, 0.0)):
        trainer = tiny_bench.trainer(small("dpo"), BUDGET, tmp_path, config=TrainConfig(checkpoint_seconds=least))
        trainer.save_seconds = took
        assert trainer.save_interval == expected


def test_an_error_within_the_harness_names_the_harness_and_who_called_it(tiny_bench: Bench) -> None:
    class Wrong:
        lr = 1e-3

        def loss(self, lab: Lab, rollouts: Rollouts) -> Tensor:
            return lab.policy(rollouts).logp.sum(1)

    batch = tiny_bench.source.feedback("annotator").pairs(torch.arange(3), 1).chosen
    wrong = Rollouts(batch.tokens + 10**6, batch.mask, batch.prompt_length)  # ids beyond the vocabulary
    with pytest.raises(IndexError) as caught:
        Wrong().loss(tiny_bench.lab(), wrong)
    assert "at models/passes.py:" in unforeseen(caught.value)
    assert "called by tests/test_memory.py:" in unforeseen(caught.value)
    with pytest.raises(RuntimeError) as caught:
        batch.tokens.view(-1, 10**6)
    assert "(at tests/test_memory.py:" in unforeseen(caught.value)
