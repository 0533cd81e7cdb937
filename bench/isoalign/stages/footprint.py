"""The memory that training a task's model takes, by passes on tensors without data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from isoalign.config.task import TaskConfig
from isoalign.core import devices, world
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.core.peak_memory import GIB, PeakMemory
from isoalign.models import loading
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.language import LanguageModel
from isoalign.stages.sft import with_adapter

SMALL = 0.1  # of the device's memory


def check_memory(task: TaskConfig, lora: int) -> dict[str, float]:
    """What training takes in GiB. Raises UserError if the weights and a single row take more than the device has.

    A step is not looked at where the weights take a small part of the memory: when it runs out all the same, passes take fewer
    rows.
    """
    has, (model, weights) = devices.memory(), policy_without_data(task, lora)
    takes = {"weights": weights}
    if weights > SMALL * has:
        takes = training_footprint(task, lora)
    if task.model.shard:  # of which one model is gathered at a time
        takes["weights"] = weights // world.launched() + _size(model)
    least = takes["weights"] + takes.get("one row", 0)
    if least > has:
        raise UserError(
            f"training task.model.name={task.model.name} takes {least / GIB:.1f} GiB with one row at a time, and "
            f"{devices.device()} has {has / GIB:.1f} GiB; set task.model.lora=16, task.model.dtype=bfloat16, "
            "task.training.gradient_checkpointing=true, task.model.shard=true in several processes or choose a smaller model"
        )
    return {name: round(size / GIB, 3) for name, size in {**takes, "device": has}.items() if math.isfinite(size)}


def training_footprint(task: TaskConfig, lora: int) -> dict[str, int]:
    """Bytes of the ``weights`` (policy, reference and the optimizer's two numbers for each trained weight), and of a training
    step above them with ``one row`` and with ``task.training.micro_batch`` ``rows``. Rewards and judges come on top.

    ``lora``: rank of the policy's adapter, 0 if all weights are trained.
    """
    (model, weights), tokenizer = policy_without_data(task, lora), loading.task_tokenizer(task.model)
    lengths = task.model.prompt_tokens, task.model.new_tokens
    rows = 1, task.training.micro_batch
    one, all_rows = step_footprint(model, tokenizer, rows, lengths, task.model.precision)
    return {"weights": weights, "one row": one, "rows": all_rows}


def step_footprint(
    model: Any, tokenizer: Any, rows: Sequence[int], lengths: tuple[int, int], precision: str = "float32", train: bool = True,
    passes: int = 1,
) -> list[int]:  # fmt: skip
    """Bytes at the peak of a forward and backward pass, for each number of rows, of a model on the meta device; without
    ``train``, of a pass without gradients.

    ``lengths``: tokens of each prompt and of each answer. ``passes``: that a loss makes, each over a part of its rows.
    Gradients are counted, weights are not.
    """
    mode, (prompt, answer) = FakeTensorMode(), lengths
    _give_device(model, mode)
    peaks = []
    with mode, torch.set_grad_enabled(train):
        policy = LanguageModel(model, tokenizer, ends=True, precision=precision, rows=max(rows))
        for count in rows:
            shape = max(1, count // passes), prompt + answer
            batch = Rollouts(torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool), prompt)
            with PeakMemory() as memory:
                logp = [policy(batch).logp for _ in range(passes)]
                if train:
                    torch.stack([each.sum() for each in logp]).sum().backward()
            policy.inner.zero_grad()
            peaks.append(memory.peak)
    return peaks


def policy_without_data(task: TaskConfig, lora: int, layers: int = 0) -> tuple[Any, int]:
    """The policy to be trained, as tensors without data, and the bytes of all ``weights`` of a training run.

    ``layers``: of them only so many, 0 for all. Raises UserError if there is no such model.
    """
    config = task.model
    shape = loading.load_config(config.name)
    if layers:
        text = shape.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    with torch.device("meta"):
        dtype = getattr(torch, config.frozen if lora else config.dtype)
        model = transformers.AutoModelForCausalLM.from_config(shape, dtype=dtype).eval()
    if task.training.gradient_checkpointing:
        checkpoint_layers(model)
    if not lora:
        return model, 3 * _size(model) + _size(model) * _bytes(config.frozen) // _bytes(config.dtype)
    adapted = with_adapter(model.requires_grad_(False), lora)
    trained = sum(p.numel() * p.element_size() for p in adapted.parameters() if p.requires_grad)
    return adapted, _size(adapted) + 2 * trained


def _give_device(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace the tensors of a model without data by fake ones on a CPU, so that autocast works on them."""
    fakes: dict[int, Any] = {}
    for part in model.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            fake = fakes.setdefault(id(parameter), nn.Parameter(_fake(mode, parameter.data), parameter.requires_grad))
            setattr(part, name, fake)
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, _fake(mode, buffer))


def _fake(mode: FakeTensorMode, tensor: torch.Tensor) -> FakeTensor:
    return FakeTensor(mode, tensor, torch.device("cpu"))


def _size(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _bytes(dtype: str) -> int:
    return int(getattr(torch, dtype).itemsize)
