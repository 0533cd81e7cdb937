"""The lab's models, lent to a trainer: every pass is charged, and the models are restored afterwards."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from isoalign.core.errors import UserError
from isoalign.core.lazy import peft, transformers, trl
from isoalign.models.flop_rules import uncounted
from isoalign.models.language import NEVER, LanguageModel
from isoalign.models.passes import token_logp
from isoalign.training.meter import Meter


def pay_passes(model: LanguageModel, meter: Meter, before_gradients: Callable[[], None] = lambda: None) -> None:
    """Charge every pass of a model before it runs. ``before_gradients`` is called before a pass with gradients."""
    run, shape = model.inner.forward, model.shape
    places = "position_ids" in inspect.signature(type(model.inner).forward).parameters
    adapters = [module for module in model.inner.modules() if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)]
    trained = any(parameter.requires_grad for parameter in model.inner.parameters())
    ends = torch.tensor([*model.end_ids.tolist(), model.tokenizer.pad_token_id], device=model.device)

    def pay(tokens: Tensor, fused: bool, cache: Any, samples: bool) -> None:
        rows, columns = tokens.shape
        own = trained and not (adapters and adapters[0].disable_adapters)
        role = "policy" if own else "reference"
        if samples:
            past = cache.get_seq_length() if cache is not None else 0
            price = shape.decode([past] * rows, [2] * rows) if past else shape.prefill([columns] * rows)
            alive = rows - int(torch.isin(tokens[:, -1], ends).sum()) if past else rows
            meter.charge(role, "sample", price, alive)
            return
        lengths, heads = [columns] * rows, [columns - fused] * rows
        forward = shape.forward(lengths, heads, adapter=own)
        if own and torch.is_grad_enabled():
            before_gradients()
            backward = shape.backward(lengths, heads) + fused * 2 * shape.head * sum(heads)
            meter.require(forward + backward)
            meter.charge(role, "backward", backward)
        meter.charge(role, "forward", forward)

    @functools.wraps(run)
    def forward(*args: Any, **kwargs: Any) -> Any:
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        pay(tokens, kwargs.get("fused_lm_head", False), kwargs.get("past_key_values"), bool(kwargs.get("use_cache")))
        mask, told = kwargs.get("attention_mask"), kwargs.get("use_cache") or kwargs.get("position_ids") is not None
        if places and mask is not None and not told and not mask[:, 0].all():  # else positions would count the padding
            kwargs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
        with model.in_precision():  # TRL samples without autocast, which frozen weights of bf16 need
            return run(*args, **kwargs)

    model.inner.forward = forward


def check_fused_head(model: LanguageModel) -> None:
    """Refuse a model whose log-probabilities TRL, which has its own way from states to them, gets wrong. Raises UserError."""
    inner, tokens = model.inner, torch.arange(9, device=model.device).unsqueeze(0) % model.vocabulary
    limit = 0.5 if model.autocast or model.dtype != torch.float32 else 0.01  # nats
    before = vars(inner).get("forward")
    with torch.no_grad(), model.in_precision(), uncounted():  # not counted: it is no work of the trainer
        own = token_logp(inner(input_ids=tokens).logits[:, :-1].float(), tokens[:, 1:])
        trl.trainer.utils.add_fused_lm_head(inner)
        try:
            fused = inner(input_ids=tokens, labels=tokens, fused_lm_head=True).log_probs
            agrees = torch.allclose(fused.float(), own, rtol=0.0, atol=limit)
        except (AttributeError, TypeError):
            agrees = False  # its body returns something else
        finally:
            del inner.forward
            if before is not None:
                inner.forward = before
    if not agrees:
        raise UserError(
            f"TRL's trainers compute other log-probabilities of {type(inner).__name__} than its own forward; choose another "
            "algorithm or task.model.name"
        )


def _train_but_drop_nothing(module: Any, mode: bool = True) -> Any:
    """The mode of training, which trainers read, without that of the layers: some drop states where no module says so, and our
    own loops drop none."""
    torch.nn.Module.train(module, False)
    module.training = mode
    return module


@contextmanager
def lent(policy: LanguageModel, reference: LanguageModel) -> Iterator[None]:
    """Context in which the heads ban tokens by a bias, and samples end at any of the model's end tokens. Restores the models
    afterwards, whatever the trainer attached."""
    models = {id(model.inner): model for model in (policy, reference)}.values()
    for model in models:
        _ = model.shape  # computed by a pass, which must not be charged
        head: Any = model.head
        if head.bias is not None:
            raise UserError("TRL's trainers need a model whose output head has no bias; choose another task.model.name")
        check_fused_head(model)
        bias = torch.zeros(model.vocabulary, device=model.device, dtype=model.dtype).index_fill(0, model.banned, NEVER)
        del head.bias
        head.register_buffer("bias", bias, persistent=False)  # not part of a snapshot
    told = policy.inner.generation_config  # whose other fields, such as suppress_tokens, would change what is sampled
    ends, pad = policy.end_ids.tolist() or None, policy.tokenizer.pad_token_id
    plain = transformers.GenerationConfig(eos_token_id=ends, pad_token_id=pad, bos_token_id=told.bos_token_id)
    policy.inner.generation_config = plain
    for module in {id(module): module for module in (policy.model, policy.inner)}.values():
        module.train = functools.partial(_train_but_drop_nothing, module)
    try:
        yield
    finally:
        policy.inner.generation_config = told
        for model in models:
            head = model.head
            del head.bias
            head.register_parameter("bias", None)
            for module in (model.model, model.inner):
                for name in ("forward", "_original_forward", "train"):
                    module.__dict__.pop(name, None)
            model.model.eval()
