"""Passes over a causal language model by its own forward, and what is made of their logits without keeping them.

A pass has two parts: the body turns tokens into states, and the model's own forward turns states into logits. Scaling,
soft-capping and everything else that an architecture does after its body stays its own code.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.models.cache_room import make_room

LOGITS = 2**26  # that are in memory at once; more positions are worked on in parts

Predict = Callable[[Tensor], Tensor]  # states [B, T, D] to logits [B, T, V]


class Body:
    """The part of a model that turns tokens into states."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        parameters = inspect.signature(module.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._cache_name = next((name for name in ("past_key_values", "cache_params") if name in parameters), "")

    def __call__(self, tokens: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """The states of the last tokens: ``tokens`` [B, n] and the mask of them and all before [B, m] to states [B, n, D]."""
        arguments: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask.long()}
        if self._takes_positions:
            arguments["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if self._cache_name:
            arguments |= {self._cache_name: cache, "use_cache": cache is not None}
        if self._cache_name == "cache_params" and tokens.shape != mask.shape:
            del arguments["attention_mask"]  # the state has read what was before, without its padding
        states: Tensor = self.module(**arguments)[0]
        return states

    def read(self, rollouts: Rollouts) -> Tensor:
        """The state that predicts each token of the completions [B, T, D]; 0 where a column is padding in every row."""
        columns = rollouts.completion.shape[1]
        rollouts = rollouts.trimmed()
        states = self(rollouts.tokens[:, :-1], rollouts.mask[:, :-1])[:, rollouts.prompt_length - 1 :]
        states = states if states.requires_grad else states.contiguous()  # those of the prompt are freed
        return padded_states(states, columns)

    def cache(self, steps: int) -> Any:
        """An empty cache for decoding ``steps`` tokens. Raises UserError if the architecture takes none."""
        if not self._cache_name:
            raise UserError(f"{type(self.module).__name__} takes no cache of keys and values, which isoalign needs to sample")
        config: Any = self.module.config
        return make_room(_without_windows(transformers.DynamicCache(config=config)), steps)


def padded_states(states: Tensor, columns: int) -> Tensor:
    """States [B, T, D] as [B, columns, D], with 0 where a column is padding in every row."""
    return pad(states, (0, 0, 0, columns - states.shape[1])) if states.shape[1] < columns else states


def _without_windows(cache: Any) -> Any:
    """The cache, which drops no keys: what a configuration says of windows, an architecture may ignore. Masks hide what is
    beyond them."""
    layers = transformers.cache_utils
    for place, layer in enumerate(cache.layers):
        if type(layer) is layers.DynamicSlidingWindowLayer:
            cache.layers[place] = layers.DynamicLayer()
            cache.layers[place].is_sliding = True  # masks look for the first layer of their kind
    return cache


class BodyOutput(tuple[Tensor, ...]):
    """What a body returns, as far as the forward of its model reads it: the states, and nothing else."""

    last_hidden_state = property(operator.itemgetter(0))

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def find_body(model: Any) -> Body:
    """The outermost part with the input embedding that the model's own forward calls, by a pass of one token.

    Raises UserError for a model that has none.
    """
    embedding = model.get_input_embeddings()
    holders = [part for part in model.modules() if any(each is embedding for each in part.modules())]
    called: list[nn.Module] = []
    hooks = [
        part.register_forward_pre_hook(lambda module, _: called.append(module))
        for part in holders
        if part is not model and part is not embedding
    ]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=embedding.weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise UserError(f"{type(model).__name__} has no body that turns tokens into states, so isoalign cannot run it")
    return Body(called[0])


def own_logits(model: Any, body: Body, states: Tensor) -> Tensor:
    """The logits of states [B, T, V] by the model's own forward."""
    with _returning(body.module, BodyOutput((states,))):
        tokens = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        logits: Tensor = model(input_ids=tokens).logits
    return logits


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Context in which the module's forward returns an output that is known already."""
    own = vars(module).get("forward")  # where a library has put one on the module itself
    module.forward = lambda *_, **__: output  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own  # type: ignore[method-assign]


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model on completions: ``logp`` [B, T] of the tokens in nats (0 on padding), and ``hidden`` [B, T, D], the
    state that predicts each token. ``predict`` makes logits over ``vocabulary`` tokens of states."""

    logp: Tensor
    hidden: Tensor
    predict: Predict
    vocabulary: int

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the next-token distributions [B, T, V], all in memory from when they are first asked for."""
        return self.predict(self.hidden)

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy of the next-token distributions in nats [B, T], computed when it is first asked for."""
        if "logits" in vars(self):
            return entropy(self.logits)
        return over_positions(lambda states: entropy(self.predict(states)), self.hidden, vocabulary=self.vocabulary)

    def with_logits(self, logits: Tensor) -> Outputs:
        """The same outputs with their logits, which are known already."""
        outputs = replace(self)
        vars(outputs)["logits"] = logits
        return outputs

    def within(self, context: Callable[[], AbstractContextManager[Any]]) -> Outputs:
        """The same outputs, whose logits are computed within a context."""

        def predict(states: Tensor) -> Tensor:
            with context():
                return self.predict(states)

        outputs = replace(self, predict=predict)
        return outputs.with_logits(self.logits) if "logits" in vars(self) else outputs


class QuotedOutputs(Outputs):
    """Outputs whose values do not matter, for quoting the cost of a loss; nothing is computed for them."""

    @property
    def entropy(self) -> Tensor:  # type: ignore[override]
        """As many numbers as there are tokens [B, T]."""
        return self.logp


def zero_outputs(rollouts: Rollouts, width: int, vocabulary: int, device: torch.device) -> QuotedOutputs:
    """Zeros in the shapes of a pass's outputs on completions. All are views of one number."""
    shape = rollouts.completion.shape
    zero: Tensor = torch.zeros((), device=device, requires_grad=torch.is_grad_enabled())
    hidden = zero.expand(*shape, width)
    return QuotedOutputs(zero.expand(shape), hidden, lambda states: zero.expand(*states.shape[:2], vocabulary), vocabulary)


def fits_logits(states: Tensor, vocabulary: int) -> bool:
    """Whether the logits of states [B, T, D] may be in memory at once."""
    return states.shape[0] * states.shape[1] * vocabulary <= LOGITS


def over_positions(work: Callable[..., Tensor], *tensors: Tensor, vocabulary: int) -> Tensor:
    """``work(*tensors)``, from [B, T, ...] to [B, T, ...], on as many positions at a time as LOGITS allows.

    With gradients, the parts are recomputed in the backward pass instead of kept.
    """
    if fits_logits(tensors[0], vocabulary):
        return work(*tensors)
    width = max(1, LOGITS // (len(tensors[0]) * vocabulary))
    parts = zip(*(tensor.split(width, dim=1) for tensor in tensors), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(work, *part, use_reentrant=False) for part in parts], 1)
    return torch.cat([work(*part) for part in parts], 1)


def token_logp(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of tokens in nats: [B, T, V] and [B, T] to [B, T]."""
    logp: Tensor = _TokenLogp.apply(logits, tokens.unsqueeze(-1))[0]  # type: ignore[no-untyped-call]
    return logp


class _TokenLogp(torch.autograd.Function):
    """Logit minus logsumexp. The gradient is that of autograd to the bit, without its copies of the logits' size."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        total = logits.logsumexp(-1, keepdim=True)
        return logits.gather(-1, chosen).squeeze(-1) - total.squeeze(-1), total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, chosen, total = ctx.saved_tensors
        gradient = gradients[0].unsqueeze(-1)
        if torch.is_grad_enabled():  # for a gradient of the gradient
            return (logits - logits.logsumexp(-1, keepdim=True)).exp().mul(-gradient).scatter_add(-1, chosen, gradient), None
        return (logits - total).exp_().mul_(-gradient).scatter_add_(-1, chosen, gradient), None


def entropy(logits: Tensor) -> Tensor:
    """Entropy of next-token distributions in nats: [B, T, V] to [B, T]."""
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)
