"""Causal language models: sampling, log-probabilities and FLOPs."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.data import assets, hub
from isoalign.data.assets import ASSETS
from isoalign.models import tokens
from isoalign.models.flops import Shape, shape_of

NEVER = -1e9  # logit of a masked token: probability exactly 0, without the nan of infinities


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model on completions: ``logp`` [B, T] of the tokens (0 on padding), ``hidden`` [B, T, D] the state that
    predicts each token, ``logits`` [B, T, V]."""

    logp: Tensor
    hidden: Tensor
    logits: Tensor

    @property
    def entropy(self) -> Tensor:
        """Entropy of the next-token distribution in nats [B, T]."""
        logp = self.logits.log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)


def load_model(name: str, weights: Path | None = None) -> tuple[Any, Any]:
    """Model and tokenizer by name: ``nano`` and ``smollm2`` are embedded, anything else is a folder or a hub name.

    ``weights``: folder of a stage that trained it further. Raises UserError if it can't be loaded.
    """
    tokenizer = load_tokenizer(name)
    with _user_errors(name):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(weights or model_path(name)), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval().requires_grad_(False), tokenizer


def model_path(name: str) -> str:
    """The path or name that transformers loads: the folder of an embedded model, else the name itself."""
    embedded = {"nano": lambda: Path(__file__).parent / "nano", "smollm2": lambda: assets.asset_path("smollm2")}
    return str(embedded[name]()) if name in embedded else name


def weights_identity(name: str) -> str:
    """Digest of a model's weights, or its commit on the hub."""
    return ASSETS[name].sha256 if name in ASSETS else hub.model_identity(model_path(name))


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model, padding on the left."""
    with _user_errors(name):
        return tokens.load(model_path(name))


@contextmanager
def _user_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = "; set HF_HUB_OFFLINE=0 once to download a hub model" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise UserError(f"cannot load the model {model_path(name)!r}: {reason}{hint}") from error


class LanguageModel:
    """A causal LM with its tokenizer. ``banned`` tokens have probability 0 in sampling and scoring; ``end_ids`` are those that
    end an answer (if ``ends``)."""

    def __init__(self, model: Any, tokenizer: Any, ends: bool, autocast: bool = False) -> None:
        self.model = model  # a PeftModel if the policy is an adapter
        self.tokenizer = tokenizer
        self.inner: Any = model.get_base_model() if hasattr(model, "peft_config") else model
        self.head: nn.Module = self.inner.get_output_embeddings()
        self.ends = ends
        self.autocast = autocast
        own_ends = tokens.end_ids(tokenizer, getattr(self.inner, "generation_config", None))
        self.end_ids = torch.tensor(own_ends, dtype=torch.long, device=self.device)
        banned = tokens.banned_ids(tokenizer, self.vocabulary, own_ends, ends)
        self.banned = torch.tensor(banned, dtype=torch.long, device=self.device)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.inner.parameters()).device

    @cached_property
    def shape(self) -> Shape:
        """The sizes that FLOPs depend on."""
        return shape_of(self.inner, self.head)

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.inner.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.head.weight.shape[0])  # type: ignore[union-attr, arg-type, index]

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Context without the adapter, in which the model is the reference."""
        if self.model is self.inner:
            yield
            return
        with self.model.disable_adapter():
            yield

    def encode(self, texts: Sequence[str], longest: int) -> Prompts:
        """Texts as left-padded prompts, truncated from the left to ``longest`` tokens; the start token is kept."""
        return tokens.left_padded(tokens.encode(self.tokenizer, texts, longest), int(self.tokenizer.pad_token_id))

    def decode(self, rollouts: Rollouts) -> list[str]:
        """The text of each completion."""
        return tokens.decode(self.tokenizer, rollouts)

    def decode_prompts(self, rollouts: Rollouts) -> list[str]:
        """The text of each prompt."""
        return tokens.decode_prompts(self.tokenizer, rollouts)

    def __call__(self, rollouts: Rollouts) -> Outputs:
        """Log-probabilities, states and logits at the completion's positions, the only ones where the head is applied."""
        rollouts = rollouts.to(self.device)
        states = self.states(rollouts)
        with self._precision():
            logits = self.head(states)
        logits = self._ban(logits.float())
        chosen = logits.gather(-1, rollouts.completion.unsqueeze(-1)).squeeze(-1)
        logp = (chosen - logits.logsumexp(-1)).masked_fill(~rollouts.completion_mask, 0.0)
        return Outputs(logp, states.float(), logits)

    def states(self, rollouts: Rollouts) -> Tensor:
        """The state that predicts each token of the completions [B, T, D]."""
        rollouts = rollouts.to(self.device)
        with self._precision():
            states: Tensor = self._body(rollouts.tokens[:, :-1], rollouts.mask[:, :-1]).last_hidden_state
        return states[:, rollouts.prompt_length - 1 :]

    @torch.no_grad()
    def generate(self, prompts: Prompts, uniforms: Tensor) -> Rollouts:
        """Sample completions at T = 1 by inverse CDF.

        ``uniforms`` [B x K, T] in [0, 1) fix every choice: K completions of each prompt, T tokens each. A prompt is read
        once and its cache repeated for its K samples.
        """
        with self._precision():
            return self._decode(prompts, uniforms)

    def _decode(self, prompts: Prompts, uniforms: Tensor) -> Rollouts:
        prompts, uniforms = prompts.to(self.device), uniforms.to(self.device)
        repeats, (rows, steps) = len(uniforms) // len(prompts), uniforms.shape
        cache = transformers.DynamicCache(config=self.inner.config)
        states = self._body(prompts.tokens, prompts.mask, cache).last_hidden_state[:, -1:]
        logits = self.head(states[:, -1]).repeat_interleave(repeats, 0)
        cache.batch_repeat_interleave(repeats)
        mask = prompts.mask.repeat_interleave(repeats, 0)
        alive = torch.ones(rows, dtype=torch.bool, device=self.device)
        chosen: list[Tensor] = []
        for step in range(steps):
            token = _sample_tokens(self._ban(logits.float()), uniforms[:, step])
            chosen.append(torch.where(alive, token, self.tokenizer.pad_token_id))
            mask = torch.cat([mask, alive.unsqueeze(1)], 1)
            if self.ends:
                alive = alive & ~torch.isin(token, self.end_ids)
            if step + 1 == steps or not alive.any():
                break
            logits = self.head(self._body(chosen[-1].unsqueeze(1), mask, cache).last_hidden_state[:, -1])
        tokens = torch.cat([prompts.tokens.repeat_interleave(repeats, 0), torch.stack(chosen, 1)], 1)
        return Rollouts(tokens, mask, prompts.tokens.shape[1])

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def _body(self, tokens: Tensor, mask: Tensor, cache: Any = None) -> Any:
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        return self.inner.base_model(
            input_ids=tokens,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )

    def _ban(self, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, self.banned, NEVER) if len(self.banned) else logits


class Critic(nn.Module):
    """A value model: a copy of a language model with a scalar head, initialised to 0."""

    def __init__(self, policy: LanguageModel) -> None:
        super().__init__()
        self.body, self.head = copy.deepcopy(policy.inner), nn.Linear(policy.width, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._model = copy.copy(policy)  # reads rollouts with the copy, adapters included
        self._model.model = self._model.inner = self.body

    def forward(self, rollouts: Rollouts) -> Tensor:
        """A value for each token of the completions, from the state that predicts it [B, T]."""
        values: Tensor = self.head(self._model.states(rollouts).float())
        return values.squeeze(-1)


def _sample_tokens(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF choice: logits [B, V] and uniforms [B] to tokens [B]."""
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniforms.to(cumulative.dtype).unsqueeze(-1) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return token.clamp(max=logits.shape[-1] - 1)


def prompt_lengths(rollouts: Rollouts) -> list[int]:
    """Number of prompt tokens of each row, without padding."""
    return rollouts.mask[:, : rollouts.prompt_length].sum(1).tolist()


def completion_lengths(rollouts: Rollouts) -> list[int]:
    """Number of completion tokens of each row, without padding."""
    return rollouts.completion_mask.sum(1).tolist()
