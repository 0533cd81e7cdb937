"""Supervised training of the SFT base and of reward models: against TRL's trainers, and what ends it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import trl
from datasets import Dataset

from isoalign.config.task import ModelConfig, RewardConfig, SFTConfig, TaskConfig
from isoalign.config.training import TrainConfig
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.memory import OutOfMemory
from isoalign.data.preferences import rollouts
from isoalign.models import loading
from isoalign.models.reward import load_reward_model
from isoalign.stages import reward, sft
from isoalign.stages.fitting import BETAS, CLIP, WARMUP, Fit
from workbench import Bench

LR = 1e-2
ANSWERS = [  # ragged rows, of one-token answers too
    ([0, 5, 9, 7], [11, 12, 13]), ([0, 6], [14]), ([0, 5], [9, 9, 21, 30, 8, 0]), ([0, 40, 41], [42, 43]),
    ([0, 15, 9, 7, 8, 9], [11, 0]), ([0, 61], [14, 15, 16, 17]), ([0, 51], [19, 0]), ([0, 44], [45]),
    ([0, 13, 9], [71, 72]), ([0, 62], [74, 9, 9]), ([0, 3], [21]), ([0, 46, 41, 30, 31], [2, 43, 0]),
]  # fmt: skip


def trl_arguments(folder: Path, rows: int) -> dict[str, Any]:
    """What our loop does in TRL's words; ``train_sampling_strategy``: in the order in which it is given the rows."""
    return {
        "output_dir": str(folder / "trl"), "learning_rate": LR, "per_device_train_batch_size": rows, "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1], "warmup_steps": WARMUP, "max_grad_norm": CLIP, "lr_scheduler_type": "linear", "use_cpu": True,
        "report_to": "none", "save_strategy": "no", "logging_steps": 5, "gradient_checkpointing": False, "bf16": False,
        "max_length": None, "dataloader_pin_memory": False, "disable_tqdm": True, "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip


def in_our_order(rows: list[Any], seed: int) -> list[Any]:
    return [rows[place] for place in torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()]


def assert_same_weights(ours: Any, theirs: Any) -> None:
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("lora", "micro"), [(0, 64), (4, 1)])
def test_an_sft_base_is_that_of_trls_trainer(lora: int, micro: int, tiny_bench: Bench, tmp_path: Path) -> None:
    config = ModelConfig(str(tiny_bench.model), eos="open", new_tokens=8, lora=lora)
    task = TaskConfig(
        "tiny", config, SFTConfig(6, LR, batch_size=2), RewardConfig(4, LR), seed=7, training=TrainConfig(micro_batch=micro)
    )
    model, tokenizer = loading.load_model(config.name)
    other = copy.deepcopy(model).requires_grad_(not lora)
    torch.manual_seed(3)  # for the adapter
    ours, fit = sft.train_on(ANSWERS, model, tokenizer, task)
    torch.manual_seed(3)
    rows = [{"input_ids": p + a, "completion_mask": [0] * len(p) + [1] * len(a)} for p, a in in_our_order(ANSWERS, task.seed)]
    trainer = trl.SFTTrainer(
        sft.with_adapter(other, lora) if lora else other,
        args=trl.SFTConfig(**trl_arguments(tmp_path, 2), completion_only_loss=True, packing=False),
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert fit.step == 6
    assert_same_weights(ours, trainer.model)
    assert fit.curve[0]["loss"] == pytest.approx(trainer.state.log_history[0]["loss"], abs=1e-4)


@pytest.mark.parametrize("lora", [0, 4])
def test_a_reward_model_is_that_of_trls_trainer(lora: int, tiny_bench: Bench, tmp_path: Path) -> None:
    feedback = tiny_bench.source.verdicts["annotator"]
    config, seed = RewardConfig(pairs=8, lr=LR, batch_size=2), 5
    reward.make_reward_model(
        tmp_path, tiny_bench.model, feedback, None, ModelConfig(str(tiny_bench.model), lora=lora), config, seed
    )
    torch.manual_seed(seed)  # for head and adapter
    other, tokenizer = load_reward_model(str(tiny_bench.model), tiny_bench.model)
    rows = reward.token_rows(feedback, reward.chosen_verdicts(feedback, config, seed), None)
    trainer = trl.RewardTrainer(
        peft.get_peft_model(other, sft.lora_config(lora, "SEQ_CLS")) if lora else other.requires_grad_(True),
        args=trl.RewardConfig(**trl_arguments(tmp_path, 2)), processing_class=tokenizer,
        train_dataset=Dataset.from_list(
            [{"chosen_ids": p + up, "rejected_ids": p + down} for p, up, down in in_our_order(rows, seed)]
        ),
    )  # fmt: skip
    trainer.train()
    theirs = trainer.model.merge_and_unload() if lora else trainer.model
    assert_same_weights(load_reward_model(str(tiny_bench.model), tmp_path)[0], theirs)


# -- one parameter ------------------------------------------------------------------------------------------------------------


class Slope(torch.nn.Module):
    """A model whose loss is its weight times the length of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[int] = []
        self.fits = 64

    def losses(self, rows: Rollouts) -> torch.Tensor:
        if len(rows) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.seen.append(len(rows))
        return self.weight * rows.lengths()


def gather(index: torch.Tensor) -> Rollouts:
    """Row i is i + 2 tokens long."""
    return rollouts([[0]] * len(index), [[5] * (place + 1) for place in index.tolist()], 1)


def test_every_epoch_reads_every_row_once_and_the_last_batch_may_be_smaller() -> None:
    model, read = Slope(), list[int]()
    fit = Fit(7, 3, 64, LR, "lr", 0, epochs=2)

    def kept(index: torch.Tensor) -> Rollouts:
        read.extend(index.tolist())
        return gather(index)

    fit.run(model, kept, model.losses, "it")
    assert fit.step == fit.steps == 6
    assert model.seen == [3, 3, 1, 3, 3, 1]
    assert [point["step"] for point in fit.curve] == [5, 6]  # the mean of five steps, and of the one that is left
    assert fit.read == read
    assert sorted(read[:7]) == sorted(read[7:]) == list(range(7))
    assert read[:7] != read[7:]


def test_memory_that_runs_out_halves_the_rows_for_good_and_changes_no_figure() -> None:
    curves = []
    for fits in (64, 2):
        model, fit = Slope(), Fit(20, 8, 64, LR, "lr", 0)
        model.fits = fits
        fit.run(model, gather, model.losses, "it")
        curves.append([*(point["loss"] for point in fit.curve), model.weight.item()])
    assert fit.micro_batch == 2
    assert model.seen == [2] * 10
    assert curves[0] == pytest.approx(curves[1], rel=1e-7)


def test_one_row_that_does_not_fit_is_said() -> None:
    model = Slope()
    model.fits = 0
    with pytest.raises(OutOfMemory, match="too little memory for one row"):
        Fit(8, 4, 64, LR, "lr", 0).run(model, gather, model.losses, "it")


def test_a_single_step_which_would_train_nothing_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    feedback, config = tiny_bench.source.verdicts["annotator"], ModelConfig(str(tiny_bench.model))
    told = "8 rows in batches of 8 are one step, at which the learning rate is still 0, so nothing would be trained; "
    with pytest.raises(UserError, match=told + r"lower task\.reward\.batch_size or raise task\.reward\.epochs$"):
        reward.make_reward_model(
            tmp_path / "reward", tiny_bench.model, feedback, None, config, RewardConfig(pairs=8, lr=LR, batch_size=8), 0
        )
    model, _ = loading.load_model(str(tiny_bench.model))
    task = TaskConfig("tiny", config, SFTConfig(1, LR, batch_size=8), RewardConfig(4, LR))
    with pytest.raises(UserError, match=told + r"raise task\.sft\.steps$"):
        sft.train_on(ANSWERS[:8], model, loading.load_tokenizer(str(tiny_bench.model)), task)


def test_a_loss_that_is_not_finite_ends_the_training_in_one_line() -> None:
    model = Slope()
    with pytest.raises(UserError, match=r"^SFT: the loss or its gradient is not finite at step 2; lower task\.sft\.lr$"):
        Fit(8, 2, 64, LR, "task.sft.lr", 0).run(model, gather, lambda rows: model.losses(rows) / (len(model.seen) < 2), "SFT")


def test_the_weight_of_a_batch_divides_its_loss() -> None:
    """By tokens every batch costs the weight; by rows, the mean length."""
    for weight, expected in ((lambda rows: int(rows.lengths().sum()), 1.0), (len, 2 + 9.5)):
        model, fit = Slope(), Fit(20, 20, 3, 0.0, "lr", 0, epochs=5)
        fit.run(model, gather, model.losses, "it", weight=weight)
        assert fit.curve == [{"step": 5, "loss": pytest.approx(expected)}]
