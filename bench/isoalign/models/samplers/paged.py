"""Continuous batching by transformers: many answers at a time over a paged cache, on the very module that is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from isoalign.core.errors import MachineFailed, unforeseen
from isoalign.core.lazy import transformers
from isoalign.core.memory import machine_failure
from isoalign.core.randomness import own_random_state
from isoalign.models.decoding import GREEDY, sample_tokens
from isoalign.models.language import LanguageModel
from isoalign.models.passes import token_logp
from isoalign.models.samplers.answers import Answer

PAGE = 32  # tokens of a page of the cache


class PagedSampler:
    """Samples by the manager behind ``generate_batch``. Tokens are chosen here, each by its own random number as in isoalign's
    own decoding, so answers depend neither on the order in which the manager works nor on what else is in a batch."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def answer(self, prompts: list[list[int]], uniforms: Tensor) -> list[Answer]:
        """An answer to each prompt; raises MachineFailed where the manager fails."""
        choice = _Choice(self.model, uniforms)
        tokens = max(map(len, prompts)) + uniforms.shape[1]
        with _silent(), own_random_state():
            manager = self.model.inner.init_continuous_batching(self._generation(uniforms.shape[1]), self._batching(tokens))
            manager.logit_processor = choice
            try:
                for row, prompt in enumerate(prompts):
                    manager.add_request(prompt, request_id=str(row))
                manager.start()
                results = _collect(manager, len(prompts))
            finally:
                manager.stop()
                manager.destroy()
        if wrong := [result.error for result in results if result.error] or ["it stopped"] * (len(results) < len(prompts)):
            cause = manager.background_thread_status.fatal_error
            raise machine_failure(cause) or MachineFailed(
                f"transformers' continuous batching failed ({unforeseen(cause) if cause else wrong[0]}); set "
                "task.model.sampler=own"
            ) from cause
        logp = choice.logp.tolist()
        ids = {int(result.request_id): result.generated_tokens for result in results}
        return [Answer(ids[row], logp[row][: len(ids[row])]) for row in range(len(prompts))]

    def close(self) -> None:
        """Nothing is held between two calls."""

    def _generation(self, steps: int) -> Any:
        ends = self.model.end_ids.tolist() if self.model.ends else -1
        pad = int(self.model.tokenizer.pad_token_id)
        return transformers.GenerationConfig(max_new_tokens=steps, eos_token_id=ends, pad_token_id=pad, do_sample=False)

    def _batching(self, tokens: int) -> Any:
        """As many answers of so many ``tokens`` at a time as own decoding has; no kernels from the hub, no graphs."""
        rows = self.model.decoded_rows(tokens)
        return transformers.ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=rows * -(-tokens // PAGE), max_batch_tokens=rows + tokens, max_requests_per_batch=rows,
            max_blocks_per_request=0, allow_block_sharing=False, use_async_batching=False, use_cuda_graph=False,
            auto_switch_to_flash=False,
        )  # fmt: skip


class _Choice:
    """Stands where the manager has its logits processors: leaves each answer one token, the one that its random number
    chooses, and keeps that token's log-probability."""

    do_processing, tensors_required = True, 0

    def __init__(self, model: LanguageModel, uniforms: Tensor) -> None:
        self._ban, self._uniforms = model.ban, uniforms.to(model.device)
        self._greedy = bool((uniforms == GREEDY).all())
        self._steps = torch.zeros(len(uniforms), dtype=torch.long, device=model.device)
        self._rows = self._steps[:0]
        self.logp = torch.zeros(uniforms.shape, device=model.device)

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Requests have no settings of their own."""

    def fill_defaults(self, storage: Tensor) -> None:
        """Nothing is stored."""

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: Tensor) -> Tensor:
        """Take down whose logits come next."""
        rows = [int(request.state.request_id) for request in requests_in_batch if request.has_new_token]
        self._rows = torch.tensor(rows, dtype=torch.long, device=self._steps.device)
        return arg_storage

    def __call__(self, tokens: Tensor, logits: Tensor, arguments: Tensor) -> Tensor:
        """Logits [B, V] of which only the chosen token's is finite. Answers whose prompt is not read to its end have none yet;
        the manager fills up with rows that it does not look at."""
        rows, steps, scores = self._rows, self._steps[self._rows], self._ban(logits[: len(self._rows)])
        chosen = scores.argmax(-1) if self._greedy else sample_tokens(scores, self._uniforms[rows, steps])
        self.logp[rows, steps] = token_logp(scores, chosen)
        self._steps[rows] += 1
        only = torch.full_like(logits, -torch.inf)
        only[torch.arange(len(rows)), chosen] = 0.0
        return only


def _collect(manager: Any, count: int) -> list[Any]:
    """What has become of so many requests; of fewer where the manager stops."""
    results: list[Any] = []
    while len(results) < count:
        if (result := manager.get_result(timeout=1)) is not None:
            results.append(result)
        elif not manager.is_running():
            break
    return results


@contextmanager
def _silent() -> Iterator[None]:
    """Context in which nothing is logged: the manager logs tracebacks of what is raised here."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
