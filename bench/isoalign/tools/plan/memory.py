"""The memory that a run takes on each device, by passes on tensors without data; of a deep model on a few of its layers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.models import loading
from isoalign.models.shards import layers_of
from isoalign.stages.footprint import policy_without_data, step_footprint

FEW = (2, 4)  # layers on which a deep model's passes are measured; each further layer takes as much as the last two do


@dataclass(frozen=True)
class Footprint:
    """Bytes. ``weights``: policy, reference and the optimizer's numbers; ``gradients``; ``beside``: reward models, critics and
    judges that are loaded while the policy is trained; ``step`` and ``reading``: what the largest pass with gradients, and
    without, takes above these. Where weights are cut, ``gathered``: weights and gradients that are whole in a step; ``whole``:
    weights of the models that are read side by side."""

    weights: int
    gradients: int
    beside: int
    step: int
    reading: int
    gathered: int
    whole: int

    def on(self, shards: int) -> int:
        """Bytes on a device, of so many that hold weights, gradients and optimizer together."""
        if shards == 1:
            return self.weights + self.gradients + self.beside + max(self.step, self.reading)
        training = -(-self.gradients // shards) + self.gathered + self.step
        return -(-self.weights // shards) + self.beside + max(training, self.whole + self.reading)


class Memory:
    """The footprints of a task's runs. ``tokenizer``: of the policy, which says what is banned."""

    def __init__(self, task: TaskConfig, tokenizer: Any) -> None:
        self.task, self.tokenizer = task, tokenizer
        self.layers = int(getattr(loading.load_config(task.model.name).get_text_config(), "num_hidden_layers", 0) or 0)

    def of(self, lora: int, trained: int, read: int, beside: int = 0, critic: bool = False, passes: int = 1) -> Footprint:
        """Of a run with an adapter of rank ``lora`` (0: all weights), ``trained`` rows in one pass with gradients and ``read``
        rows in one without. ``beside``: bytes of other models; ``critic``: a value model is trained as the policy is;
        ``passes``: of the policy in a loss, each over a part of the rows: the gradients of several are added up before FSDP
        cuts them."""
        weights, gradients, whole = self._weights(lora)
        outside, layer = self._units(lora)
        step = self._peak(lora, trained, True, passes)
        reading = self._peak(lora, read, False) if read > trained else 0  # without gradients the same rows take less
        copies, models = 1 + critic, 1 if lora else 2
        own = weights + (3 * self._size if critic else 0)
        uncut = gradients if lora or passes > 1 else min(gradients, outside + layer)
        gathered = (
            (copies + models - 1) * outside + 2 * layer + copies * uncut
        )  # one layer is read, the next one is on its way
        step = copies * max(0, step - gradients)
        return Footprint(own, copies * gradients, beside, step, reading, gathered, models * whole)

    @cache  # noqa: B019
    def _units(self, lora: int) -> tuple[int, int]:
        """Bytes of what is outside of the policy's layers, and of the largest layer."""
        model, _ = policy_without_data(self.task, lora)
        layers: list[int] = []
        with suppress(UserError):  # it has none
            layers = [_bytes(part) for part in layers_of(model)]
        return _bytes(model) - sum(layers), max(layers, default=0)

    @property
    def _size(self) -> int:
        """Bytes of the policy."""
        model, _ = policy_without_data(self.task, 0)
        return _bytes(model)

    @cache  # noqa: B019
    def _weights(self, lora: int) -> tuple[int, int, int]:
        model, weights = policy_without_data(self.task, lora)
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        return weights, trained, _bytes(model)

    @cache  # noqa: B019
    def _peak(self, lora: int, rows: int, train: bool, passes: int = 1) -> int:
        if self.layers > 2 * FEW[1]:
            with suppress(Exception):  # a model that can't be cut is measured whole
                first, second = (self._measured(lora, rows, train, passes, layers) for layers in FEW)
                return second + (self.layers - FEW[1]) * (second - first) // (FEW[1] - FEW[0])
        return self._measured(lora, rows, train, passes, 0)

    def _measured(self, lora: int, rows: int, train: bool, passes: int, layers: int) -> int:
        config = self.task.model
        model, _ = policy_without_data(self.task, lora, layers)
        [peak] = step_footprint(
            model, self.tokenizer, [rows], (config.prompt_tokens, config.new_tokens), config.precision, train, passes
        )
        return peak


def model_size(model: Any) -> int:
    """Bytes of a model in fp32."""
    return sum(parameter.numel() for parameter in model.parameters()) * torch.float32.itemsize


def _bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
