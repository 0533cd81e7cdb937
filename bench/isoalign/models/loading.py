"""Language models and tokenizers by name: ``nano`` and ``smollm2`` are embedded, anything else is a folder or a hub name,
with ``@REVISION`` for a commit, branch or tag."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import torch

from isoalign.config.task import ModelConfig
from isoalign.core import products
from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.data import assets, hub
from isoalign.data.assets import ASSETS
from isoalign.models import tokens

EMBEDDED = {"nano": lambda: Path(__file__).parent / "nano", "smollm2": lambda: assets.asset_path("smollm2")}  # their folders


def load_model(name: str, weights: Path | None = None, dtype: str = "float32", tokenizer: Any = None) -> tuple[Any, Any]:
    """A causal language model, frozen, and its tokenizer.

    ``weights``: folder of a stage that trained it further; ``tokenizer``: its own, where that is loaded already. Raises
    UserError if it can't be loaded, is of no causal language model, or lacks weights or has other ones.
    """
    products.speed_up()
    tokenizer, config = tokenizer or load_tokenizer(name), load_config(name)
    with hub.loading_errors("the model", model_path(name)):
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(weights or model_path(name)), config=None if weights else config, dtype=dtype, use_safetensors=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(
            f"the model {name!r} lacks {len(missing)} of its weights, {missing[0]} among them, which would be random; "
            "download or save it anew"
        )
    if hasattr(model, "peft_config"):
        raise UserError(
            f"the model {name!r} has an adapter beside its weights (adapter_config.json); merge it into them with peft's "
            "merge_and_unload and save that, or take its files away"
        )
    if info["unexpected_keys"]:
        raise other_model(name, info["unexpected_keys"])
    settle_outputs(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval().requires_grad_(False), tokenizer


def without_adapter(model: Any) -> Any:
    """The model under an adapter, or the model itself; the adapter stays in its layers."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def settle_outputs(model: Any) -> None:
    """Have a model return named outputs and no attentions, which no fast kernel gives, whatever its config.json says."""
    for config in (model.config, model.config.get_text_config()):
        config.return_dict, config.output_attentions, config.output_hidden_states = True, False, False


def other_model(name: str, unread: Collection[str]) -> UserError:
    """The error of a model whose configuration leaves some of its weights ``unread``."""
    return UserError(
        f"the model {name!r} has {len(unread)} weights that its config.json has no place for, {min(unread)} among them, so it "
        "would be another model; mend its config.json, or save it anew"
    )


def load_config(name: str) -> Any:
    """The configuration of a model. Raises UserError if it can't be loaded or is of no causal language model."""
    path = Path(model_path(name))
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise UserError(
            f"the model {name!r} is an adapter without the model under it; merge it into that with peft's merge_and_unload "
            "and save the whole"
        )
    with hub.loading_errors("the model", model_path(name)):
        config = transformers.AutoConfig.from_pretrained(model_path(name), trust_remote_code=False)
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"the model {name!r} ({config.model_type}) is no causal language model; choose another task.model.name"
        )
    return config


def longest_text(config: Any) -> int | None:
    """The most tokens of a text that a model of this configuration reads as it was trained to; None without a limit.

    Where positions are scaled by the length of the longest text in a batch, those below which nothing is scaled.
    """
    text = config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None)]
    rope = getattr(text, "rope_parameters", None) or {}
    for scaling in (rope, *(each for each in rope.values() if isinstance(each, dict))):  # of all layers, or of each kind
        if scaling.get("rope_type") in ("dynamic", "longrope"):
            limits.append(scaling.get("original_max_position_embeddings"))
    return min((limit for limit in limits if limit and limit > 0), default=None)  # XLNet's -1 is none


def refuse_sparse(what: str, config: Any) -> None:
    """Refuse a classifier whose attention is sparse over long texts alone (BigBird): in a batch the longest text decides how
    all are read, and a short one switches it off for those that follow. Raises UserError."""
    if getattr(config, "attention_type", "") == "block_sparse":
        raise UserError(
            f"{what} has block-sparse attention, by which a text's score depends on the texts beside it; set attention_type "
            "to original_full in its config.json, or choose another model"
        )


def longest_read(model: Any) -> int | None:
    """The most tokens of a text that a model has positions for; RoBERTa's begin after the padding token. None without a
    limit."""
    limits = [longest_text(model.config)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min((limit for limit in limits if limit), default=None)


def count_parameters(name: str) -> int:
    """Number of a model's weights, without reading them."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(load_config(name))
    return sum(parameter.numel() for parameter in model.parameters())


def model_path(name: str) -> str:
    """The path or name that transformers loads: the folder of an embedded model or of NAME@REVISION, else the name itself."""
    return str(EMBEDDED[name]()) if name in EMBEDDED else hub.model_folder(name)


def weights_identity(name: str) -> str:
    """Digest of a model's weights, or its commit on the hub."""
    return ASSETS[name].sha256 if name in ASSETS else hub.model_identity(model_path(name))


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model, padding on the left."""
    with hub.loading_errors("the model", model_path(name)):
        tokenizer = tokens.load(model_path(name))
    _mark_turn_end(tokenizer)
    return tokenizer


def _mark_turn_end(tokenizer: Any) -> None:
    """Make the added token that closes an assistant's turn a control token where its tokenizer does not mark it as one: it
    ends answers, stands in none, and nobody can type it."""
    try:
        if not tokenizer.chat_template or tokens.turn_end(tokenizer) is not None:
            return
        tail = tokens.turn_tail(tokenizer).lstrip()
    except UserError:  # a template that fails is told where it is used
        return
    closing = [about.content for about in tokenizer.added_tokens_decoder.values() if tail.startswith(about.content)]
    if closing:
        tokenizer.add_tokens([transformers.AddedToken(max(closing), special=True)], special_tokens=True)


def saved_generation(tokenizer: Any) -> Any:
    """The generation configuration of the model beside a tokenizer, by its own file or else by its configuration; None if it
    has neither."""
    name = tokenizer.name_or_path
    try:
        return transformers.GenerationConfig.from_pretrained(name)
    except (OSError, ValueError):
        pass
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        return transformers.GenerationConfig.from_model_config(config)
    except (OSError, ValueError):
        return None


def task_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer of a task's model, with the task's chat template if that is a file.

    Raises UserError for a file that can't be read, and where every prompt needs a template and there is none.
    """
    tokenizer = load_tokenizer(model.name)
    if model.template_file:
        tokenizer.chat_template = read_template(model.template_file)
    if model.template == "always" and not tokenizer.chat_template:
        raise UserError(
            f"task.model.template=always, but the tokenizer of {model.name!r} has no chat template; name a file of one, "
            "task.model.template=FILE.jinja, or set auto or off"
        )
    return tokenizer


@cache
def read_template(file: str) -> str:
    """A chat template in Jinja. Raises UserError for a file that can't be read or holds none."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or "it is not UTF-8"
        raise UserError(f"task.model.template: cannot read {file}: {reason}") from error
    if "messages" not in text:
        raise UserError(f"task.model.template: {file} is no chat template: it does not read messages")
    return text
