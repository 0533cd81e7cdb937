"""The memory that a run takes on each device, by passes on tensors without data; of a deep model on a few of its layers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from isoalign.config.task import TaskConfig
from isoalign.models import loading
from isoalign.stages.footprint import policy_without_data, step_footprint

FEW = (2, 4)  # layers on which a deep model's passes are measured; each further layer takes as much as the last two do


@dataclass(frozen=True)
class Footprint:
    """Bytes. ``weights``: policy, reference and the optimizer's numbers; ``gradients``; ``beside``: reward models, critics and
    judges that are loaded while the policy is trained; ``passes``: what the largest pass takes above all of these;
    ``whole``: the weights of one model."""

    weights: int
    gradients: int
    beside: int
    passes: int
    whole: int

    def on(self, shards: int) -> int:
        """Bytes on a device, of so many that hold weights, gradients and optimizer together: those of one model are gathered
        for sampling."""
        cut = self.weights + self.gradients
        return self.passes + self.beside + (cut if shards == 1 else -(-cut // shards) + self.whole)


class Memory:
    """The footprints of a task's runs. ``tokenizer``: of the policy, which says what is banned."""

    def __init__(self, task: TaskConfig, tokenizer: Any) -> None:
        self.task, self.tokenizer = task, tokenizer
        self.layers = int(getattr(loading.load_config(task.model.name).get_text_config(), "num_hidden_layers", 0) or 0)

    def of(self, lora: int, trained: int, read: int, beside: int = 0, critic: bool = False) -> Footprint:
        """Of a run with an adapter of rank ``lora`` (0: all weights), ``trained`` rows in one pass with gradients and ``read``
        rows in one without. ``beside``: bytes of other models; ``critic``: a value model is trained as the policy is."""
        weights, gradients, whole = self._weights(lora)
        step = self._peak(lora, trained, True)
        reading = self._peak(lora, read, False) if read > trained else 0  # without gradients the same rows take less
        copies = 1 + critic
        own = weights + (3 * self._size if critic else 0)
        passes = max(copies * max(0, step - gradients), reading)
        return Footprint(own, copies * gradients, beside, passes, whole)

    @property
    def _size(self) -> int:
        """Bytes of the policy."""
        model, _ = policy_without_data(self.task, 0)
        return sum(p.numel() * p.element_size() for p in model.parameters())

    @cache  # noqa: B019
    def _weights(self, lora: int) -> tuple[int, int, int]:
        model, weights = policy_without_data(self.task, lora)
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        return weights, trained, sum(p.numel() * p.element_size() for p in model.parameters())

    @cache  # noqa: B019
    def _peak(self, lora: int, rows: int, train: bool) -> int:
        if self.layers > 2 * FEW[1]:
            with suppress(Exception):  # a model that can't be cut is measured whole
                first, second = (self._measured(lora, rows, train, layers) for layers in FEW)
                return second + (self.layers - FEW[1]) * (second - first) // (FEW[1] - FEW[0])
        return self._measured(lora, rows, train, 0)

    def _measured(self, lora: int, rows: int, train: bool, layers: int) -> int:
        config = self.task.model
        model, _ = policy_without_data(self.task, lora, layers)
        [peak] = step_footprint(
            model, self.tokenizer, [rows], (config.prompt_tokens, config.new_tokens), config.precision, train
        )
        return peak


def model_size(model: Any) -> int:
    """Bytes of a model in fp32."""
    return sum(parameter.numel() for parameter in model.parameters()) * torch.float32.itemsize
