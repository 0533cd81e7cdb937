"""Supervised fine-tuning (SFT): the base from which every method starts."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from isoalign.config.task import ModelConfig, SFTConfig, TaskConfig
from isoalign.core import devices
from isoalign.core.devices import device
from isoalign.core.errors import UserError
from isoalign.core.lazy import datasets, peft, transformers, trl
from isoalign.core.progress import trainer_callback
from isoalign.core.text import opening
from isoalign.data import comments, formats, prompts
from isoalign.data.formats import Demonstration, Turn
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.rows import Fault
from isoalign.data.formats.types import SKIPPED
from isoalign.models import loading, tokens
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.stages.cutting import Cutter, HeldOut, turns_of

VERSION = 2
NONE = "none"  # in the place of a source of demonstrations


def make_sft(work: Path, task: TaskConfig) -> None:
    """Train on openings and continuations with TRL's SFTTrainer. Saves the model, with adapters merged, in ``work``."""
    torch.manual_seed(task.seed)
    model, _ = loading.load_model(task.model.name, dtype=task.model.dtype)
    tokenizer = loading.task_tokenizer(task.model)
    if task.sft.source == NONE:
        model.save_pretrained(work)
        (work / "record.json").write_text(json.dumps({"examples": 0, "steps": 0, "loss": []}))
        return
    model.requires_grad_(True)
    if task.training.gradient_checkpointing:
        checkpoint_layers(model)
    count = task.sft.steps * task.sft.batch_size
    losses = Counter[str]()
    rows = (
        demonstrations(tokenizer, task, count, losses)
        if task.sft.source
        else examples(tokenizer, task.model, count, task.prompts.words, task.seed)
    )
    arguments = trl.SFTConfig(
        **trainer_arguments(
            work, task.sft.lr, task.sft.batch_size, task.training.micro_batch, task.model.bf16, task.seed, "sft"
        ),
        max_steps=task.sft.steps, max_length=None, completion_only_loss=True, packing=False,
    )  # fmt: skip
    adapter = lora_config(task.model.lora, "CAUSAL_LM") if task.model.lora else None
    trainer = trl.SFTTrainer(
        model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, peft_config=adapter
    )
    run_trainer(trainer, "SFT")
    record = {"examples": len(rows), "steps": task.sft.steps, "seed": task.seed, "device": devices.label()}
    save_trained(trainer, work, record | ({"losses": dict(+losses)} if +losses else {}))


def read_demonstrations(config: SFTConfig, losses: Counter[str] | None = None) -> list[Demonstration]:
    """One's own demonstrations; what is left out of them is counted in ``losses``. Raises UserError naming file and row of one
    that cannot be read."""
    losses = Counter[str]() if losses is None else losses
    if config.opening:
        return list(_texts(config, losses))
    data = formats.read_file(config.source, config.format or None, columns=config.columns, skip=config.skip)
    losses.update({what: count for what, count in data.remarks.items() if what.startswith(SKIPPED)})
    return list(data.demonstrations)


def _texts(config: SFTConfig, losses: Counter[str]) -> Iterator[Demonstration]:
    """Texts as openings and continuations; those that are no longer than an opening are left out."""
    column = (config.columns or {}).get("text", "text")
    for row in iterate_rows(config.source):
        if isinstance(row, Fault):
            raise UserError(f"{config.source}: {row}") from row
        try:
            text = row.valid_text(column, str(row.get(column)))
        except Fault as fault:
            raise UserError(f"{config.source}: {fault}; columns={{text: NAME}} names the column of the texts") from fault
        words = text.split()
        if len(words) <= config.opening:
            losses["left out as they are no longer than their opening"] += 1
        else:
            head, rest = " ".join(words[: config.opening]), " ".join(words[config.opening :])
            yield Demonstration((Turn("", head),), (Turn("", f" {rest}"),), row.number, row.source)


def demonstrations(tokenizer: Any, task: TaskConfig, count: int, losses: Counter[str]) -> list[dict[str, list[int]]]:
    """``count`` of one's own demonstrations in a seeded order, and again from the first where there are fewer. Those of
    prompts that are evaluated are left out, and counted in ``losses``. The loss is on the answer only."""
    cut, pool = Cutter(tokenizer, task.model), read_demonstrations(task.sft, losses)
    if not pool:
        raise UserError(f"task.sft.source {task.sft.source} holds feedback, no demonstrations: prompts with one answer each")
    evaluated = [prompt for split in ("validation", "test") for prompt in prompts.load_split(task.prompts, split)]
    held_out = HeldOut(cut, map(turns_of, evaluated))
    random.Random(task.seed).shuffle(pool)
    rows: list[dict[str, list[int]]] = []
    for each in pool:
        if each.prompt in held_out:
            losses["left out as their prompt is evaluated"] += 1
            continue
        if (prompt := cut.prompt(each.prompt)) is None:
            losses["left out as their last turn is too long"] += 1
            continue
        losses["answers cut"] += cut.is_cut(each.completion)
        answer = cut.answer(each.completion)
        rows.append({"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)})
    if not rows:
        raise UserError(f"task.sft.source {task.sft.source} holds no demonstration that fits task.model.prompt_tokens")
    return [rows[place % len(rows)] for place in range(count)]


def examples(tokenizer: Any, model: ModelConfig, count: int, words: int, seed: int) -> list[dict[str, list[int]]]:
    """``count`` comments, each as an opening and a continuation of up to ``new_tokens`` tokens (with EOS if the task has an
    open end and the comment ends there). The loss is on the continuation only."""
    pool = [comment.text for comment in comments.load_comments("sft")]
    random.Random(seed).shuffle(pool)
    rows: list[dict[str, list[int]]] = []
    end = [tokens.closing_id(tokenizer)] if model.eos == "open" else []
    for text in pool:
        if len(rows) == count:
            return rows
        head = opening(text, words)
        [prompt] = tokens.encode(tokenizer, [head], model.prompt_tokens)
        [answer] = tokens.encode_words(tokenizer, [text[len(head) :]])
        if not end and len(answer) < model.new_tokens:
            continue
        answer = (answer + end)[: model.new_tokens]
        rows.append({"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)})
    raise UserError(
        f"task.sft needs {count} examples, but the comments hold {len(rows)}; lower task.sft.steps or task.sft.batch_size"
    )


def lora_config(rank: int, kind: str) -> Any:
    """A LoRA configuration on all linear layers (Hu et al. 2021), alpha = 2 x rank, no dropout."""
    keep = ["score"] if kind == "SEQ_CLS" else None
    return peft.LoraConfig(
        task_type=kind, r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", modules_to_save=keep
    )


def with_adapter(model: Any, rank: int) -> Any:
    """The language model with a LoRA adapter on all of its linear layers. Raises UserError where it can't have one."""
    try:
        return peft.get_peft_model(model, lora_config(rank, "CAUSAL_LM"))
    except ValueError as error:
        raise UserError(f"{type(model).__name__} can't have a LoRA adapter: {error}; set lora=0") from error


def trainer_arguments(
    work: Path, lr: float, batch_size: int, micro_batch: int, bf16: bool, seed: int, name: str
) -> dict[str, Any]:
    """The arguments of every TRL trainer here: AdamW (.9, .95), warm-up 10%, linear decay, clipping at 1, no reports.

    A batch is read in equal parts of at most ``micro_batch`` rows.
    """
    rows = max(count for count in range(1, batch_size + 1) if batch_size % count == 0 and count <= max(1, micro_batch))
    return {
        "output_dir": str(work / f"trainer-{name}"), "learning_rate": lr, "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": batch_size // rows, "adam_beta2": 0.95, "warmup_steps": 0.1, "max_grad_norm": 1.0,
        "lr_scheduler_type": "linear", "seed": seed, "bf16": bf16, "gradient_checkpointing": False,
        "use_cpu": device() == "cpu", "report_to": "none", "save_strategy": "no", "logging_steps": 5,
        "dataloader_pin_memory": False,
    }  # fmt: skip


def run_trainer(trainer: Any, label: str) -> None:
    """Train with our progress bar instead of the trainer's output."""
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(trainer_callback(label))
    trainer.train()


def save_trained(trainer: Any, work: Path, record: dict[str, Any]) -> None:
    """Merge adapters, and save the model and a record with the loss curve."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(work)
    curve = [{"step": row["step"], "loss": row["loss"]} for row in trainer.state.log_history if "loss" in row]
    (work / "record.json").write_text(json.dumps(record | {"loss": curve}, indent=1))
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
