"""A scalar head on the body of any causal language model, read at the last token of a text.

transformers has such classes for some architectures only, and they read at the last token that is not the padding token:
where that is the end token, the end of an answer is not read. These classes read where the attention mask ends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isoalign.core.lazy import transformers
from isoalign.models import loading


class ScalarHead:
    """What is added to an architecture's ``PreTrainedModel``: its body under ``base_model_prefix``, and the head ``score``."""

    base_model_prefix: str

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # the architecture's PreTrainedModel
        causal = transformers.AutoModelForCausalLM.from_config(config)
        setattr(self, self.base_model_prefix, getattr(causal, self.base_model_prefix))
        self.score = nn.Linear(causal.get_output_embeddings().weight.shape[1], 1, bias=False)
        self.post_init()  # type: ignore[attr-defined]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        """Rewards as ``logits`` [B, 1] at the last token of each row. ``input_ids`` and ``attention_mask`` [B, T], padded on
        either side."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        tokens, mask = left_aligned(input_ids, mask)
        body = getattr(self, self.base_model_prefix)
        scores = self.score(body(input_ids=tokens, attention_mask=mask, use_cache=False)[0])
        last = (mask.sum(1) - 1).clamp(min=0)
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=scores[torch.arange(len(last)), last])


def left_aligned(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, T] with their padding moved behind the text, where no causal model reads it and no position is shifted."""
    order = mask.argsort(dim=1, descending=True, stable=True)
    return tokens.gather(1, order), mask.gather(1, order)


def load_scalar_head(name: str) -> Any:
    """The reward model in a folder or on the hub, in fp32; on a language model's weights it gets a new head.

    A causal model reads the last token. An encoder keeps its own classifier. Raises OSError or ValueError if it can't be
    loaded or its architecture has no scalar head, and UserError if its configuration leaves weights of its body unread.
    """
    config = transformers.AutoConfig.from_pretrained(name, num_labels=1, trust_remote_code=False)
    model, info = scalar_head_kind(config).from_pretrained(
        name, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if unread := unread_weights(model, info):
        raise loading.other_model(name, unread)
    loading.settle_outputs(model)
    return model


def scalar_head_kind(config: Any) -> Any:
    """The class of reward models of a configuration: an encoder keeps transformers' own."""
    encoder = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and not encoder
    return scalar_head_class(config) if causal else transformers.AutoModelForSequenceClassification


def unread_weights(model: Any, info: dict[str, Any]) -> list[str]:
    """The weights of a body that were in the files and not read; heads and poolers of other tasks are left out."""
    unread = [key for key in info["unexpected_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    return [key for key in unread if ".pooler." not in key]


def scalar_head_class(config: Any, trained: bool = False) -> Any:
    """The class of reward models of a causal model's architecture, with the parameter names of transformers' own classes.

    ``trained``: a head that is missing where weights are loaded is told as missing.
    """
    with torch.device("meta"):
        causal = transformers.AutoModelForCausalLM.from_config(config)
    words = causal.get_input_embeddings()
    body, *heads = sorted((name for name, _ in causal.named_children()), key=lambda name: not _holds(causal, name, words))
    pretrained = [kind for kind in type(causal).__mro__ if issubclass(kind, transformers.PreTrainedModel)][-2]
    unexpected = [*(type(causal)._keys_to_ignore_on_load_unexpected or []), *(rf"^{head}\." for head in heads)]
    about = {
        "base_model_prefix": body, "_keys_to_ignore_on_load_missing": [] if trained else [r"^score\."],
        "_keys_to_ignore_on_load_unexpected": unexpected, "config_class": type(config), "__module__": type(causal).__module__,
    }  # fmt: skip
    name = type(causal).__name__.replace("ForCausalLM", "").replace("LMHeadModel", "")
    return type(f"{name}ForSequenceClassification", (ScalarHead, pretrained), about)


def _holds(model: Any, name: str, wanted: nn.Module) -> bool:
    return any(module is wanted for module in model.get_submodule(name).modules())
