"""vLLM, in this process and beside the model that is trained, whose weights it gets before it samples."""

from __future__ import annotations

import gc
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from isoalign.core.errors import MachineFailed
from isoalign.core.lazy import vllm
from isoalign.core.randomness import own_random_state
from isoalign.models.decoding import GREEDY
from isoalign.models.language import LanguageModel
from isoalign.models.samplers.answers import Answer

MEMORY = 0.3  # share of a GPU's memory that the engine takes for its weights and cache
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process its weights can be written
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}


class VLLMSampler:
    """Samples by vLLM's ``LLM``. ``tokens``: the most that a prompt has with its answer.

    Answers have a seed each, made of their random numbers: they are the same again by the same version on the same device.
    """

    def __init__(self, model: LanguageModel, tokens: int) -> None:
        self.model = model
        os.environ.update(ENVIRONMENT)
        on_cpu = model.device.type == "cpu"
        if on_cpu:
            vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm = _leave_unpacked
        with tempfile.TemporaryDirectory() as folder, own_random_state():
            model.inner.config.save_pretrained(folder)
            self.llm: Any = vllm.LLM(
                model=folder, skip_tokenizer_init=True, load_format="dummy", generation_config="vllm", seed=0,
                dtype="bfloat16" if model.autocast or model.dtype == torch.bfloat16 else "float32",
                max_model_len=tokens, gpu_memory_utilization=MEMORY, logprobs_mode="processed_logprobs",
                enforce_eager=on_cpu,  # compiling takes longer there than it saves
            )  # fmt: skip

    def answer(self, prompts: list[list[int]], uniforms: Tensor) -> list[Answer]:
        """An answer to each prompt, by the weights that the model has now."""
        self._load_weights()
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        with own_random_state():
            outputs = self.llm.generate(asked, self._sampling(uniforms), use_tqdm=False)
        return [_answer(output.outputs[0]) for output in outputs]

    def close(self) -> None:
        """Free the memory of the engine, which is of no use from then on."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        if self.model.device.type != "cpu":
            torch.accelerator.empty_cache()

    def _load_weights(self) -> None:
        """Copy the weights, and have the engine forget what it has computed by older ones."""
        with torch.no_grad():
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(self.model.inner)})
        if self.llm.reset_prefix_cache() is False:
            raise MachineFailed(
                "vLLM keeps its cache of prompts, which older weights have computed; set task.model.sampler=own"
            )

    def _sampling(self, uniforms: Tensor) -> list[Any]:
        """How each answer is sampled."""
        model, allowed = self.model, None
        if len(model.banned):
            kept = torch.ones(model.vocabulary, dtype=torch.bool)
            kept[model.banned.cpu()] = False
            allowed = kept.nonzero().squeeze(1).tolist()
        greedy, steps = bool((uniforms == GREEDY).all()), uniforms.shape[1]
        ends = model.end_ids.tolist() if model.ends else []
        return [
            vllm.SamplingParams(
                temperature=0.0 if greedy else 1.0, seed=None if greedy else seed_of(row), max_tokens=steps, ignore_eos=True,
                stop_token_ids=ends, allowed_token_ids=allowed, logprobs=0, detokenize=False,
            )
            for row in uniforms
        ]  # fmt: skip


def _leave_unpacked(layer: Any, remove_weight: bool) -> None:
    """Have a layer of vLLM's multiply by its weights. On a processor it goes on with the packed copy of those that it started
    with, whatever weights it is given later."""
    layer.cpu_linear = torch.nn.functional.linear


def seed_of(uniforms: Tensor) -> int:
    """A seed that the random numbers [T] of an answer determine: 0 to 2^63 - 1."""
    return int.from_bytes(hashlib.sha256(uniforms.cpu().numpy().tobytes()).digest()[:8]) >> 1


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights by the names that the model has without its adapter, which is merged into copies of them."""
    for name, weight in model.named_parameters():
        owner, _, own = name.partition(".base_layer.")
        if own == "weight":
            layer = model.get_submodule(owner)
            yield f"{owner}.weight", weight + sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
        elif own:
            yield f"{owner}.{own}", weight
        elif ".lora_" not in name:
            yield name, weight


def _answer(completion: Any) -> Answer:
    ids = list(completion.token_ids)
    return Answer(ids, [at[token].logprob for token, at in zip(ids, completion.logprobs, strict=True)])
