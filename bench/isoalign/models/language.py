"""A causal language model as the harness sees it: prompts in, completions, log-probabilities and their price out."""

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
from isoalign.models.flops import Shape, shape_of

NEVER = -1e9  # the logit of a token that is masked: exactly probability 0, and no nan where infinities would meet


@dataclass(frozen=True)
class Outputs:
    """What a model says of completions: ``logp`` [B, T] of the tokens (0 on padding), ``hidden`` [B, T, D] the state that
    predicts each token, ``logits`` [B, T, V]."""

    logp: Tensor
    hidden: Tensor
    logits: Tensor

    @property
    def entropy(self) -> Tensor:
        """Entropy of the next-token distribution in nats [B, T]."""
        logp = self.logits.log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)


def load(name: str, weights: Path | None = None) -> tuple[Any, Any]:
    """Model and tokenizer by name: ``nano`` and ``smollm2`` are embedded, anything else is a folder or a hub name.

    ``weights`` is the folder of a stage that trained it further. Raises UserError when it can't be had.
    """
    reader = tokenizer(name)
    with _loading(name):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(weights or source(name)), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    model.config.pad_token_id = reader.pad_token_id
    return model.eval().requires_grad_(False), reader


def source(name: str) -> str:
    """What transformers is to load for a model's name: the folder of an embedded one, else the name itself."""
    embedded = {"nano": lambda: Path(__file__).parent / "nano", "smollm2": lambda: assets.path("smollm2")}
    return str(embedded[name]()) if name in embedded else name


def identity(name: str) -> str:
    """Digest of the weights that a model's name stands for, or its commit on the hub."""
    return ASSETS[name].sha256 if name in ASSETS else hub.identity(source(name))


def tokenizer(name: str) -> Any:
    """The tokenizer of a model, padding on the left."""
    with _loading(name):
        found = transformers.AutoTokenizer.from_pretrained(source(name), padding_side="left", trust_remote_code=False)
    if found.pad_token_id is None:
        found.pad_token = found.eos_token
    return found


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = "; a hub name needs HF_HUB_OFFLINE=0 once" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise UserError(f"cannot load the model {source(name)!r}: {reason}{hint}") from error


def clip(ids: list[int], longest: int, opening: int | None) -> list[int]:
    """A prompt's ids, the end of it kept where it is too long, behind its opening token if it has one."""
    if len(ids) <= longest:
        return ids
    start = ids[:1] if ids[0] == opening else []
    return start + ids[len(ids) - longest + len(start) :]


class LanguageModel:
    """A causal LM with its tokenizer. ``banned`` tokens have probability 0, in sampling and in scoring alike."""

    def __init__(self, model: Any, tokenizer: Any, ends: bool, autocast: bool = False) -> None:
        self.model = model  # a PeftModel where the policy is an adapter
        self.tokenizer = tokenizer
        self.inner: Any = model.get_base_model() if hasattr(model, "peft_config") else model
        self.head: nn.Module = self.inner.get_output_embeddings()
        self.ends = ends
        self.autocast = autocast
        special = set(tokenizer.all_special_ids) - ({tokenizer.eos_token_id} if ends else set())
        self.banned = torch.tensor(sorted(special), device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.inner.parameters()).device

    @cached_property
    def shape(self) -> Shape:
        """What its FLOPs depend on."""
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
        """Inside, an adapter is as if it weren't there: the reference is the same weights."""
        if self.model is self.inner:
            yield
            return
        with self.model.disable_adapter():
            yield

    def encode(self, texts: Sequence[str], longest: int) -> Prompts:
        """Texts as left-padded prompts; of a text over ``longest`` tokens the end is kept, behind its opening token."""
        rows = [clip(ids, longest, self.tokenizer.bos_token_id) for ids in self.tokenizer(list(texts))["input_ids"]]
        width = max(map(len, rows))
        tokens = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for place, ids in enumerate(rows):
            tokens[place, width - len(ids) :] = torch.tensor(ids)
            mask[place, width - len(ids) :] = True
        return Prompts(tokens, mask, torch.arange(len(rows)))

    def decode(self, rollouts: Rollouts) -> list[str]:
        """The text of each completion."""
        rows = zip(rollouts.completion.tolist(), rollouts.completion_mask.tolist(), strict=True)
        ids = [[token for token, real in zip(*row, strict=True) if real] for row in rows]
        return [str(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def decode_prompts(self, rollouts: Rollouts) -> list[str]:
        """The text of each prompt."""
        rows = zip(rollouts.tokens.cpu(), rollouts.mask.cpu(), strict=True)
        split = rollouts.prompt_length
        ids = [tokens[:split][mask[:split]].tolist() for tokens, mask in rows]
        return [str(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def __call__(self, rollouts: Rollouts) -> Outputs:
        """Log-probabilities, states and logits at the completion's positions; the head is applied nowhere else."""
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
            found: Tensor = self._body(rollouts.tokens[:, :-1], rollouts.mask[:, :-1]).last_hidden_state
        return found[:, rollouts.prompt_length - 1 :]

    @torch.no_grad()
    def generate(self, prompts: Prompts, uniforms: Tensor) -> Rollouts:
        """Sample completions at T = 1 by inverse CDF.

        ``uniforms`` [B x K, T] in [0, 1) fix every choice: K completions of each prompt, T tokens each. A prompt is read
        once and its cache repeated for its K draws.
        """
        with self._precision():
            return self._decode(prompts, uniforms)

    def _decode(self, prompts: Prompts, uniforms: Tensor) -> Rollouts:
        prompts, uniforms = prompts.to(self.device), uniforms.to(self.device)
        draws, (rows, steps) = len(uniforms) // len(prompts), uniforms.shape
        cache = transformers.DynamicCache(config=self.inner.config)
        states = self._body(prompts.tokens, prompts.mask, cache).last_hidden_state[:, -1:]
        logits = self.head(states[:, -1]).repeat_interleave(draws, 0)
        cache.batch_repeat_interleave(draws)
        mask = prompts.mask.repeat_interleave(draws, 0)
        alive = torch.ones(rows, dtype=torch.bool, device=self.device)
        chosen: list[Tensor] = []
        for step in range(steps):
            token = _pick(self._ban(logits.float()), uniforms[:, step])
            chosen.append(torch.where(alive, token, self.tokenizer.pad_token_id))
            mask = torch.cat([mask, alive.unsqueeze(1)], 1)
            if self.ends:
                alive = alive & (token != self.tokenizer.eos_token_id)
            if step + 1 == steps or not alive.any():
                break
            logits = self.head(self._body(chosen[-1].unsqueeze(1), mask, cache).last_hidden_state[:, -1])
        tokens = torch.cat([prompts.tokens.repeat_interleave(draws, 0), torch.stack(chosen, 1)], 1)
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
    """A value model: a copy of a language model under a scalar head, which begins at 0."""

    def __init__(self, policy: LanguageModel) -> None:
        super().__init__()
        self.body, self.head = copy.deepcopy(policy.inner), nn.Linear(policy.width, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._model = copy.copy(policy)  # the same reading, of the copy; adapters are part of it
        self._model.model = self._model.inner = self.body

    def forward(self, rollouts: Rollouts) -> Tensor:
        """A value for each token of the completions, from the state that predicts it [B, T]."""
        values: Tensor = self.head(self._model.states(rollouts).float())
        return values.squeeze(-1)


def _pick(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF choice: logits [B, V] and uniforms [B] to tokens [B]."""
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniforms.to(cumulative.dtype).unsqueeze(-1) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return token.clamp(max=logits.shape[-1] - 1)


def prompt_lengths(rollouts: Rollouts) -> list[int]:
    """Real prompt tokens of each row."""
    return rollouts.mask[:, : rollouts.prompt_length].sum(1).tolist()


def completion_lengths(rollouts: Rollouts) -> list[int]:
    """Real completion tokens of each row."""
    return rollouts.completion_mask.sum(1).tolist()
