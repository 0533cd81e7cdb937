"""Supervised fine-tuning (SFT): the base from which every method starts."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoalign.config.task import ModelConfig, SFTConfig, TaskConfig
from isoalign.core import devices, world
from isoalign.core.batches import Rollouts
from isoalign.core.devices import device
from isoalign.core.errors import UserError
from isoalign.core.lazy import peft
from isoalign.core.text import opening
from isoalign.data import comments, formats, prompts
from isoalign.data.formats import Demonstration, Turn, Turns
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.rows import Fault, quoted
from isoalign.data.formats.types import REASONING, SKIPPED, UNREAD
from isoalign.data.preferences import rollouts
from isoalign.models import loading, tokens
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.language import LanguageModel
from isoalign.stages.cutting import Cutter, HeldOut, turns_of
from isoalign.stages.fitting import Fit
from isoalign.stages.overlap import UNLIKE, WORDS, count_overlap, unlike_forms

VERSION = 4
NONE = "none"  # in the place of a source of demonstrations

OVERLAP = f"evaluated prompts of which {WORDS} are in prompts of demonstrations that train"

Example = tuple[list[int], list[int]]  # token ids of a prompt and of its answer


def make_sft(work: Path, task: TaskConfig) -> None:
    """Train on openings and continuations. Saves the model, with its adapter merged, in ``work``."""
    torch.manual_seed(task.seed)
    model, _ = loading.load_model(task.model.name, dtype=task.model.dtype)
    tokenizer = loading.task_tokenizer(task.model)
    if task.sft.source == NONE:
        if world.rank():
            return
        model.save_pretrained(work)
        (work / "record.json").write_text(json.dumps({"examples": 0, "steps": 0, "loss": []}))
        return
    count = task.sft.steps * task.sft.batch_size
    losses = Counter[str]()
    rows = (
        demonstrations(tokenizer, task, count, losses)
        if task.sft.source
        else examples(tokenizer, task.model, count, task.prompts.words, task.seed)
    )
    trained, fit = train_on(rows, model.to(device()), tokenizer, task)
    state = fit.state(trained)
    if world.rank():
        return
    record = {"examples": len(rows), "steps": fit.step, "seed": task.seed, "device": devices.count_label()}
    save_trained(trained, work, record | ({"losses": dict(+losses)} if +losses else {}) | {"loss": fit.curve}, state)


def train_on(rows: list[Example], model: Any, tokenizer: Any, task: TaskConfig) -> tuple[Any, Fit]:
    """The model, or its adapter, trained on the likelihood of the answers: the mean over all tokens of a batch's answers."""
    trained = with_adapter(model, task.model.lora) if task.model.lora else model.requires_grad_(True)
    if task.training.gradient_checkpointing:
        checkpoint_layers(model)
    fit = Fit(len(rows), task.sft.batch_size, task.training.micro_batch, task.sft.lr, "task.sft.lr", task.seed)
    fit.shard, fit.longer = task.model.shard and not task.model.lora, "raise task.sft.steps"
    pad, read = int(tokenizer.pad_token_id), LanguageModel(trained, tokenizer, True, task.model.precision, bans=False)

    def gather(index: Tensor) -> Rollouts:
        chosen = [rows[place] for place in index.tolist()]
        return rollouts([prompt for prompt, _ in chosen], [answer for _, answer in chosen], pad)

    def surprise(batch: Rollouts) -> Tensor:
        return -read(batch).logp.sum(1)

    fit.run(trained.train(), gather, surprise, "SFT", weight=lambda batch: int(batch.completion_mask.sum()))
    return trained, fit


def read_demonstrations(config: SFTConfig, losses: Counter[str] | None = None) -> list[Demonstration]:
    """One's own demonstrations; what is left out of them is counted in ``losses``. Raises UserError naming file and row of one
    that cannot be read."""
    losses = Counter[str]() if losses is None else losses
    if config.opening:
        return list(_texts(config, losses))
    data = formats.read_file(config.source, config.format or None, columns=config.columns, skip=config.skip)
    losses.update({what: count for what, count in data.remarks.items() if what.startswith((SKIPPED, UNREAD, REASONING))})
    return list(data.demonstrations)


def _texts(config: SFTConfig, losses: Counter[str]) -> Iterator[Demonstration]:
    """Texts as openings and continuations; those that are no longer than an opening are left out."""
    column = (config.columns or {}).get("text", "text")
    for row in iterate_rows(config.source):
        if isinstance(row, Fault):
            raise UserError(f"{config.source}: {row}") from row
        try:
            if not isinstance(value := row.get(column), str):
                raise row.fault(f"{column} must be a text, not {quoted(value)}")
            text = row.valid_text(column, value)
        except Fault as fault:
            raise UserError(f"{config.source}: {fault}; columns={{text: NAME}} names the column of the texts") from fault
        words = text.split()
        if len(words) <= config.opening:
            losses["left out as they are no longer than their opening"] += 1
        else:
            head, rest = " ".join(words[: config.opening]), " ".join(words[config.opening :])
            yield Demonstration((Turn("", head),), (Turn("", f" {rest}"),), row.number, row.source)


def demonstrations(tokenizer: Any, task: TaskConfig, count: int, losses: Counter[str]) -> list[Example]:
    """``count`` of one's own demonstrations in a seeded order, and again from the first where there are fewer. Those of
    prompts that are evaluated are left out, and counted in ``losses``. The loss is on the answer only."""
    cut, pool = Cutter(tokenizer, task.model), read_demonstrations(task.sft, losses)
    if not pool:
        raise UserError(
            f"task.sft.source {task.sft.source} holds feedback, no demonstrations: prompts with one answer each; "
            "task.sft.format=demonstrations learns from all answers, where each row has one"
        )
    evaluated = [turns_of(each) for split in ("validation", "test") for each in prompts.load_split(task.prompts, split)]
    held_out, trained = HeldOut(cut, evaluated), list[Turns]()
    random.Random(task.seed).shuffle(pool)
    rows: list[Example] = []
    for each in pool:
        if each.prompt in held_out:
            losses["left out as their prompt is evaluated"] += 1
            continue
        if (prompt := cut.prompt(each.prompt)) is None:
            losses["left out as their last turn is too long"] += 1
            continue
        if not (answer := cut.answer(each.completion)):
            losses["left out as their answer has no tokens"] += 1
            continue
        losses["answers cut"] += cut.is_cut(each.completion)
        rows.append((prompt, answer))
        trained.append(each.prompt)
    for form, number in unlike_forms(cut, evaluated, trained[:count]).items():
        losses[f"prompts that are {form}, {UNLIKE}"] += number
    losses[OVERLAP] += count_overlap(evaluated, trained[:count])
    if not rows:
        raise UserError(
            f"task.sft.source {task.sft.source} holds no demonstration with an answer that fits task.model.prompt_tokens"
        )
    return [rows[place % len(rows)] for place in range(count)]


def examples(tokenizer: Any, model: ModelConfig, count: int, words: int, seed: int) -> list[Example]:
    """``count`` comments, each as an opening and a continuation of up to ``new_tokens`` tokens (with EOS if the task has an
    open end and the comment ends there). The loss is on the continuation only."""
    pool = [comment.text for comment in comments.load_comments("sft")]
    random.Random(seed).shuffle(pool)
    rows: list[Example] = []
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
        rows.append((prompt, answer))
    raise UserError(
        f"task.sft needs {count} examples, but the comments hold {len(rows)}; lower task.sft.steps or task.sft.batch_size"
    )


def lora_config(rank: int, kind: str) -> Any:
    """A LoRA configuration on all linear layers (Hu et al. 2021), alpha = 2 x rank, no dropout. Heads are trained whole."""
    keep, heads = (["score"], r"\w*(score|classifier)") if kind == "SEQ_CLS" else (None, None)
    return peft.LoraConfig(
        task_type=kind,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=keep,
        exclude_modules=heads,
    )


def with_adapter(model: Any, rank: int, kind: str = "CAUSAL_LM") -> Any:
    """The language model, or the reward model (``SEQ_CLS``), with a LoRA adapter on all of its linear layers. Raises UserError
    where it can't have one."""
    try:
        return peft.get_peft_model(model, lora_config(rank, kind))
    except (TypeError, ValueError) as error:
        raise UserError(f"{type(model).__name__} can't have a LoRA adapter: {error}; set lora=0") from error


def save_trained(model: Any, work: Path, record: dict[str, Any], state: dict[str, Tensor] | None = None) -> None:
    """Merge the adapter, if there is one, and save the model and a record. ``state``: its weights, if not what it holds."""
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    merged.save_pretrained(work, **({"state_dict": state} if state else {}))
    (work / "record.json").write_text(json.dumps(record, indent=1))
