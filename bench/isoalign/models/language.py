"""Causal language models: sampling, log-probabilities and FLOPs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoalign.core import products, world
from isoalign.core.batches import Prompts, Rollouts, joined
from isoalign.core.errors import UserError
from isoalign.core.files import flush
from isoalign.core.memory import by_rows
from isoalign.models import tokens
from isoalign.models.decoding import (
    CROWDED,
    GREEDY,
    Beside,
    Decoder,
    Draws,
    MixedDecoder,
    Sampled,
    joined_samples,
    sample_tokens,
)
from isoalign.models.flops import Shape, shape_of
from isoalign.models.loading import without_adapter
from isoalign.models.passes import (
    LOGITS,
    Outputs,
    Predict,
    find_body,
    fits_logits,
    over_positions,
    own_logits,
    token_logp,
)
from isoalign.models.precision import in_precision
from isoalign.models.shards import Shards, whole_tree
from isoalign.models.shared_prompts import differentiates, read_states

NEVER = -1e9  # logit of a masked token: probability exactly 0, without the nan of infinities
ROWS = 64
CACHED = 2**26  # numbers of a cache that are worth more rows than ROWS: small products run at less than full speed


class LanguageModel:
    """A causal LM with its tokenizer.

    ``banned`` tokens have probability 0 in sampling and scoring, unless it is loaded without ``bans``; ``end_ids`` are those
    that end an answer, if it ``ends``.
    ``precision`` of passes: float32, tf32 or bfloat16 (see `in_precision`). ``rows``: read or sampled at a time where no
    gradients are recorded. ``shards``: of weights that the processes of a run hold together.
    """

    shards: Shards | None = None

    def __init__(
        self, model: Any, tokenizer: Any, ends: bool, precision: str = "float32", rows: int = ROWS, bans: bool = True
    ) -> None:
        self.model = model  # a PeftModel if the policy is an adapter
        self.tokenizer, self.ends, self.precision, self.rows = tokenizer, ends, precision, rows
        self.inner: Any = without_adapter(model)
        self._adapter_is_off = False
        self.head: nn.Module = self.inner.get_output_embeddings()
        with self.in_precision():
            self.body = find_body(self.inner)
        own_ends = tokens.end_ids(tokenizer, getattr(self.inner, "generation_config", None))
        self.end_ids = torch.tensor(own_ends, dtype=torch.long, device=self.device)
        banned = tokens.banned_ids(tokenizer, self.vocabulary, own_ends, ends) if bans else []
        self.banned = torch.tensor(banned, dtype=torch.long, device=self.device)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.inner.parameters()).device

    def shard(self) -> None:
        """Have each process of the run hold a part of the weights, from now on."""
        _ = self.shape  # which is found by passes
        name = next(name for name, parameter in self.inner.named_parameters() if parameter is self.head.weight)
        self.shards = Shards(self.inner, self.body.module)
        self.shares_prompts = False  # hooks gather the layers for one pass of the body
        self._cut_head = self.shards.weights[name]

    def whole(self, lend: Callable[[], AbstractContextManager[Any]] = nullcontext) -> AbstractContextManager[Any]:
        """Context in which all weights are here, for passes without gradients, those within ``lend()``. Of weights that are
        cut, all processes enter it together."""
        return self.shards.whole(lend) if self.shards else nullcontext()

    def weights(self) -> list[nn.Parameter]:
        """The parameters as optimizers see them, in whatever form a pass has them meanwhile."""
        return list(self.shards.weights.values() if self.shards else self.inner.parameters())

    def save(self, folder: Path) -> None:
        """Save the weights, or the adapter: without the place of the model under it, which is another in each store, and with
        its lists in order, which PEFT keeps as sets. Of several processes the first one writes."""
        state = whole_tree(self.model.state_dict()) if self.shards else None
        if world.rank():
            return
        self.model.save_pretrained(folder, **({"state_dict": state} if state else {}))
        if (file := folder / "adapter_config.json").exists():
            (folder / "README.md").unlink(missing_ok=True)
            settings = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
            ordered = {name: sorted(value) if isinstance(value, list) else value for name, value in settings.items()}
            file.write_text(json.dumps(ordered, indent=2), encoding="utf-8")
        flush(*folder.rglob("*"), folder)  # a checkpoint may count on it

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the output head's weights."""
        return self.head.weight.dtype  # type: ignore[return-value]

    @cached_property
    def shape(self) -> Shape:
        """The sizes that FLOPs depend on."""
        return shape_of(self.inner, self.head)

    @cached_property
    def shares_prompts(self) -> bool:
        """Whether a prompt is read once for all its completions, with gradients too."""
        with self.in_precision():
            return differentiates(self.body, self.inner.get_input_embeddings(), self.precision)

    @property
    def width(self) -> int:
        """Size of a state."""
        return int(self.head.weight.shape[1])  # type: ignore[union-attr, arg-type, index]

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.head.weight.shape[0])  # type: ignore[union-attr, arg-type, index]

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Context without the adapter, in which the model is the reference."""
        if self.model is self.inner or self._adapter_is_off:
            yield
            return
        self._adapter_is_off = True
        try:
            with self.whole(), self.model.disable_adapter():  # which turns gradients off and on: in the same form of weights
                yield
        finally:
            self._adapter_is_off = False

    def encode(self, texts: Sequence[str], longest: int) -> Prompts:
        """Texts as left-padded prompts, truncated from the left to ``longest`` tokens; the start token is kept."""
        return tokens.left_padded(tokens.encode(self.tokenizer, texts, longest), int(self.tokenizer.pad_token_id))

    def decode(self, rollouts: Rollouts) -> list[str]:
        """The text of each completion."""
        return tokens.decode(self.tokenizer, rollouts)

    def __call__(self, rollouts: Rollouts) -> Outputs:
        """Log-probabilities, states and logits at the completion's positions, the only ones where the head is applied.

        A prompt is read once for all its completions. Without gradients, ``rows`` rows are read at a time."""
        if torch.is_grad_enabled() or (self.shards and self.shards.stepping):
            return self._pass([rollouts])[0]
        parts = by_rows(lambda rows: self._pass([rows])[0], rollouts.to(self.device), self.rows)
        if len(parts) == 1:
            return parts[0]
        logp, hidden = (torch.cat([getattr(part, name) for part in parts]) for name in ("logp", "hidden"))
        return Outputs(logp, hidden, parts[0].predict, self.vocabulary)

    def read_together(self, parts: Sequence[Rollouts]) -> list[Outputs]:
        """The outputs of each part, of one pass over the rows of all if a prompt is then read once."""
        return self._pass(parts) if len(parts) > 1 and self.shares_prompts else list(map(self, parts))

    def _pass(self, parts: Sequence[Rollouts]) -> list[Outputs]:
        parts = [part.to(self.device) for part in parts]
        rows = parts[0] if len(parts) == 1 else joined(parts, int(self.tokenizer.pad_token_id))
        with self.in_precision():
            states = read_states(self.body, rows) if self.shares_prompts else self.body.read(rows)
        each = zip(parts, states.split([len(part) for part in parts]), strict=True)
        return [self._outputs(part, own[:, : part.completion.shape[1]]) for part, own in each]

    def _outputs(self, rollouts: Rollouts, states: Tensor) -> Outputs:
        hidden, predict, chosen = states.float(), self.predict_now(), rollouts.completion
        logits = predict(hidden) if fits_logits(hidden, self.vocabulary) else None
        logp = (
            over_positions(lambda *part: token_logp(predict(part[0]), part[1]), hidden, chosen, vocabulary=self.vocabulary)
            if logits is None
            else token_logp(logits, chosen)
        )
        outputs = Outputs(logp.masked_fill(~rollouts.completion_mask, 0.0), hidden, predict, self.vocabulary)
        return outputs if logits is None else outputs.with_logits(logits)

    def predict_now(self) -> Predict:
        """The function from states [B, T, D] to logits [B, T, V] in fp32. Whenever it is called, gradients are recorded and
        the adapter is on as they are now. It raises UserError once the weights have changed: states of old weights say
        nothing to a new head."""
        recorded, head = torch.is_grad_enabled(), self._cut_head if self.shards else self.head.weight
        version = head._version
        adapter = self.adapter_off if self._adapter_is_off else nullcontext

        def predict(states: Tensor) -> Tensor:
            if head._version != version:
                raise UserError(
                    "logits or entropy of a pass are read after an optimizer step has changed the weights; read them before it"
                )
            with torch.set_grad_enabled(recorded), self.whole(), adapter(), self.in_precision():
                logits = own_logits(self.inner, self.body, states if self.autocast else states.to(self.dtype))
            return self.ban(logits.float())

        return predict

    @torch.no_grad()
    def generate(self, prompts: Prompts, uniforms: Tensor, beside: Beside | None = None) -> Rollouts:
        """Sample completions at T = 1 by inverse CDF, about ``rows`` at a time, up to four times as many of a small model.

        ``uniforms`` [B x K, T] in [0, 1) fix every choice: K completions of each prompt, T tokens each. A prompt is read
        once and its cache repeated for its K samples. ``beside``: a model that is mixed in.
        """
        return self.sample(prompts, uniforms, beside).rollouts

    @torch.no_grad()
    def sample(self, prompts: Prompts, uniforms: Tensor, beside: Beside | None = None) -> Sampled:
        """The same with the states that predicted each token, which another pass over the completions would compute again."""
        draws = Draws(prompts, uniforms.view(len(prompts), -1, uniforms.shape[-1])).to(self.device)
        rows = self.decoded_rows(prompts.tokens.shape[1] + uniforms.shape[-1])

        def decode(draws: Draws) -> Sampled:
            prompts, uniforms = draws.prompts, draws.uniforms.flatten(0, 1)
            if len(prompts) > 1:
                return self._decode(prompts, uniforms, beside)
            parts = by_rows(
                lambda part: self._decode(prompts, part, beside), uniforms, rows
            )  # many samples of a single prompt
            return joined_samples(parts, int(self.tokenizer.pad_token_id))

        with self.in_precision(), products.packed(self.inner, min(rows, len(uniforms))):
            parts = by_rows(decode, draws, max(1, rows * len(prompts) // len(uniforms)))
        return joined_samples(parts, int(self.tokenizer.pad_token_id))

    def decoded_rows(self, tokens: int) -> int:
        """Rows of ``tokens`` tokens that are sampled at a time: more than ``rows`` where their cache is small for certain."""
        layers = getattr(self.inner.config.get_text_config(), "num_hidden_layers", None)
        if not layers:
            return self.rows
        small = min(CACHED // (2 * layers * self.width * tokens), LOGITS // self.vocabulary)
        return max(self.rows, min(4 * self.rows, small))

    def _decoder(self, prompts: Prompts, repeats: int, steps: int) -> Decoder:
        return Decoder(self.body, self.predict_now(), prompts, repeats, steps, int(self.tokenizer.pad_token_id))

    def _decode(self, prompts: Prompts, uniforms: Tensor, beside: Beside | None) -> Sampled:
        rows, steps = uniforms.shape
        pad, repeats = int(self.tokenizer.pad_token_id), rows // len(prompts)
        decoder: Decoder | MixedDecoder = self._decoder(prompts, repeats, steps)
        if beside is not None:
            model: LanguageModel = beside.model
            with model.adapter_off():
                other = model._decoder(prompts, repeats, steps)
            decoder = MixedDecoder(own=decoder, other=other, share=beside.share, context=model.adapter_off)  # type: ignore[arg-type]
        alive = torch.ones(rows, dtype=torch.bool, device=self.device)
        greedy = bool((uniforms == GREEDY).all())  # looked at once: a choice costs nothing more at each token
        for step in range(steps):
            logits = decoder.logits
            token = logits.argmax(-1) if greedy else sample_tokens(logits, uniforms[decoder.rows, step])
            decoder.append(torch.where(alive, token, pad), alive)
            if self.ends:
                alive = alive & ~torch.isin(token, self.end_ids)
            if step + 1 == steps:
                break
            if self._looks(step):
                unfinished = int(alive.sum())
                if not unfinished:
                    break
                if unfinished <= CROWDED * len(alive):
                    decoder.leave(alive)
                    alive = alive[alive]
            decoder.advance()
        return decoder.samples()

    def _looks(self, step: int) -> bool:
        """Whether to look how many rows are unfinished: an accelerator would wait for the answer at every token."""
        return self.ends and (self.device.type == "cpu" or step % 16 == 15)

    @property
    def autocast(self) -> bool:
        """Whether passes run under autocast to bf16."""
        return self.precision == "bfloat16"

    def in_precision(self) -> AbstractContextManager[Any]:
        """Context of every pass, by ``precision``."""
        return in_precision(self.precision, self.device)

    def ban(self, logits: Tensor) -> Tensor:
        """Logits with probability 0 for banned tokens."""
        return logits.index_fill(-1, self.banned, NEVER) if len(self.banned) else logits
