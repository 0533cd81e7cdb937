"""Reward models of one's own: trained sequence classifiers with one output, of which more is better.

They read prompt and answer as the messages of a conversation in their own chat template, or as one text where their tokenizer
has none. Their weights are frozen, and their sign is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.data import hub
from isoalign.data.formats import Turn, Turns
from isoalign.data.prompts import as_text
from isoalign.models import loading, tokens
from isoalign.models.flops import Shape, bill_error, shape_of
from isoalign.models.precision import in_precision
from isoalign.models.row_padding import free_padding, own_padding
from isoalign.models.scalar_head import scalar_head_class, unread_weights
from isoalign.models.scorers import HARMFUL

VERSION = 2
ROWS = 16  # texts scored together
TOLERANCE = 2e-3  # of a score in a batch from that of the text alone, relative to 1 + its size
SHARE, ROUNDING = 0.02, 1e-5  # of what tells texts apart, and of a score: how far apart scores alone and in a batch may be
ASKED: Turns = (Turn("user", "What is a reward model?"),)
ANSWERS = ("Yes.", "I am not sure what to say, but I can try to find out.", "A model that says how good an answer is.")


class Reader:
    """How a reward model's tokenizer writes prompt and answer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.chat = tokenizer, bool(tokenizer.chat_template)
        self._start, self._end = tokens.start_tokens(tokenizer), _end_tokens(tokenizer)

    def __call__(self, prompt: Turns, answer: str) -> list[int]:
        """The token ids of an answer to a prompt. Control tokens typed into either stay text.

        Raises UserError if the chat template fails.
        """
        if self.chat:
            messages = [{"role": turn.role or "user", "content": turn.content} for turn in prompt]
            text = tokens.chat_text(self.tokenizer, [*messages, {"role": "assistant", "content": answer}], answer=False)
            return tokens.encode_chat_text(self.tokenizer, text)
        [words] = tokens.encode_words(self.tokenizer, [as_text(prompt) + answer], begins=True)
        return [*self._start, *words, *self._end]


class RewardClassifier:
    """A reward model, as `load` reads it. ``name``: a folder, or a hub name with ``@REVISION``."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name, self.model, self.reader = name, model.eval().requires_grad_(False), Reader(tokenizer)
        self.longest = loading.longest_read(model)
        self._pad = own_padding(model.config, model.get_input_embeddings().weight.shape[0])

    @cached_property
    def shape(self) -> Shape:
        """Its architecture, for the price of a pass; ``head``: what is applied once a text, as an encoder's classifier is.

        Raises UserError where there is no rule for it.
        """
        whole, once = shape_of(self.model, None), _applied_once(self)
        return replace(whole, body=whole.body - once, head=once)

    def bill_error(self) -> float:
        """By how much the price of a pass differs from what PyTorch counts, relative to the count."""
        return bill_error(self.model, self.shape, (1, 1))

    def read(self, prompt: Turns, answer: str) -> list[int]:
        """Its tokens of an answer to a prompt. Raises UserError if its chat template fails, or if they are more than it reads:
        nothing is cut."""
        ids = self.reader(prompt, answer)
        self.check_length(len(ids))
        return ids

    def check_length(self, count: int) -> None:
        """Raises UserError for a text of more tokens than it reads."""
        if self.longest is not None and count > self.longest:
            raise UserError(
                f"the reward model {self.name!r} reads at most {self.longest} tokens, and a prompt with its answer has {count}"
                "; lower task.model.prompt_tokens or task.model.new_tokens, or leave such prompts out"
            )

    @torch.no_grad()
    def __call__(self, rows: Sequence[Sequence[int]], precision: str = "float32") -> Tensor:
        """Scores [B] of texts as its tokens, each the one that its own forward gives to the text alone.

        Raises UserError for a score that is not finite.
        """
        width, device = max(map(len, rows)), self.model.device
        pad = free_padding(self.model.config, (row[-1] for row in rows)) if self._pad is None else self._pad
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        with in_precision(precision, device):
            scores: Tensor = self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float()
        if not scores.isfinite().all():
            raise UserError(f"the reward model {self.name!r} gives a score that is not finite; its weights may be broken")
        return scores

    def price(self, rows: Sequence[Sequence[int]]) -> int:
        """FLOPs of reading texts as its tokens."""
        return self.shape.forward(map(len, rows), [1] * len(rows))

    def price_of(self, prompts: Sequence[Turns], answers: Sequence[str]) -> int:
        """FLOPs of scoring each answer to its prompt."""
        return self.price([self.read(*both) for both in zip(prompts, answers, strict=True)])

    def score(self, prompts: Sequence[Turns], answers: Sequence[str]) -> list[float]:
        """The score of each answer to its prompt. Batches hold texts of similar length."""
        rows = [self.read(*both) for both in zip(prompts, answers, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), rows[i]))
        scores = [0.0] * len(rows)
        for start in range(0, len(order), ROWS):
            places = order[start : start + ROWS]
            for place, score in zip(places, self([rows[i] for i in places]).tolist(), strict=True):
                scores[place] = score
        return scores


@cache
def load(name: str, device: str = "cpu") -> RewardClassifier:
    """The reward model in a folder, or on the hub with ``@REVISION``, in fp32.

    Raises UserError in one line if it can't be loaded, is no trained classifier with one output, or has no tokenizer or a
    chat template that does not show the answer.
    """
    if "#" in name and not Path(name).exists():
        raise UserError(f"the reward model {name!r}: a reward model has one output and no #label; leave the label out")
    with hub.loading_errors("the reward model", name):
        source = hub.model_folder(name)
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        kind = _kind(name, config)
        loading.refuse_sparse(f"the reward model {name!r}", config)
        loaded: Any = kind.from_pretrained(
            source, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        tokenizer = tokens.load(source)
    model, info = loaded
    loading.settle_outputs(model)
    _check_head(name, model, info)
    if (tokenizer.pad_token_id or 0) >= model.get_input_embeddings().weight.shape[0]:  # rows are padded with another token
        tokenizer.pad_token = tokenizer.eos_token
    tokens.check_tokenizer(tokenizer, model, open_ends=False)
    found = RewardClassifier(name, model.to(device), tokenizer)
    _check_template(found)
    return found


def about(name: str) -> str:
    """What cards say of a reward model: that it was trained elsewhere, and what it reads."""
    with hub.loading_errors("the reward model", name):
        source = hub.model_folder(name)
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        reader = Reader(tokens.load(source))
    form = "in its own chat template" if reader.chat else "as one text, since it has no chat template"
    last = reader(ASKED, ANSWERS[0])[-1]
    skipped = last == own_padding(config, last + 1)
    end = f", up to its last {reader.tokenizer.decode([last])!r}, which is its padding token" if skipped else ""
    return f"reward model {name}, trained elsewhere, training not billed; it reads prompt and answer {form}{end}"


def _kind(name: str, config: Any) -> Any:
    """The class of classifiers for a configuration."""
    if any(kind.startswith("AutoModel") for kind in getattr(config, "auto_map", None) or {}):
        raise UserError(f"the reward model {name!r} comes with code of its own, which is not run; choose another one")
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"the reward model {name!r} ({config.model_type}) is an encoder-decoder; choose a decoder or an encoder"
        )
    if type(config) in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return transformers.AutoModelForSequenceClassification
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return scalar_head_class(config, trained=True)
    raise UserError(f"the reward model {name!r} ({config.model_type}) is no text classifier; choose another one")


def _check_head(name: str, model: Any, info: dict[str, Any]) -> None:
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{name!r} is no trained reward model: it lacks the weights {', '.join(missing[:3])}, which would be random; a "
            "language model can be task.reward.base, on which a head is trained"
        )
    if other := sorted(key for key in info["unexpected_keys"] if key.startswith(("score", "classifier"))):
        raise UserError(f"the reward model {name!r} has {other[0]}, which {type(model).__name__} does not read; save it anew")
    if unread := unread_weights(model, info):
        raise loading.other_model(name, unread)
    labels = list(model.config.id2label.values())
    if len(labels) != 1:
        raise UserError(
            f"{name!r} has {len(labels)} outputs, and a reward model has one: for a label of a classifier set "
            f"task.reward.model='' and task.reward.classifier=hf:{name}#LABEL (or a scorer hf:{name}#LABEL), LABEL one of "
            f"{', '.join(map(str, labels))}"
        )
    if str(labels[0]).lower() in HARMFUL:
        raise UserError(
            f"{name!r} has one output, {labels[0]!r}, of which more is worse: it is no reward model; for its probability set "
            f"task.reward.model='' and task.reward.classifier=hf:{name}#{labels[0]} (or a scorer hf:{name}#{labels[0]})"
        )


def _check_template(found: RewardClassifier) -> None:
    """Refuse a chat template that fails, or that does not show what is said."""
    if not found.reader.chat:
        return
    for turns in (2, 4):
        marks = [[f"{tokens.MARK} {place} {end}" for end in ("begins", "ends")] for place in range(turns)]
        said = [
            {"role": ("user", "assistant")[place % 2], "content": f"{first} {' and on' * 200} {last}"}
            for place, (first, last) in enumerate(marks)
        ]
        try:
            text = tokens.chat_text(found.reader.tokenizer, said, answer=False)
        except UserError:
            if turns == 2:
                raise
            return  # a template of one question and its answer says so when it is used
        places = [text.find(mark) for each in marks for mark in each]
        if -1 in places or places != sorted(places):
            what = "prompt and answer in full" if turns == 2 else "the earlier turns of a conversation"
            raise UserError(f"the chat template of the reward model {found.name!r} does not show {what}; mend it")


def _end_tokens(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts behind a text, found by encoding one."""
    full, plain = (list(tokenizer("a", add_special_tokens=added)["input_ids"]) for added in (True, False))
    return full[len(tokens.start_tokens(tokenizer)) + len(plain) :]


def _applied_once(model: RewardClassifier) -> int:
    """The weights of linear layers that a pass applies to a text as a whole [1, D], not to each token."""
    found: list[int] = []

    def note(module: Any, given: tuple[Any, ...]) -> None:
        if given and given[0].dim() == 2 and len(given[0]) == 1:
            found.append(module.weight.numel())

    hooks = [m.register_forward_pre_hook(note) for m in model.model.modules() if isinstance(m, nn.Linear)]
    model([model.read(ASKED, ANSWERS[0])])
    for hook in hooks:
        hook.remove()
    return sum(found)


def are_same(alone: Tensor, together: Tensor, size: Tensor) -> bool:
    """Whether scores of some texts [B] in a batch are those alone: up to rounding relative to their ``size`` ([B], or one of
    all), and to a small part of what tells the texts apart, since a reward is taken in deviations of its own scores."""
    apart = (alone - together).abs()
    telling = SHARE * (alone.max() - alone.min()) + ROUNDING * alone.abs().max()
    return bool((apart <= TOLERANCE * size).all() and (apart <= telling).all())


def check_scores(model: RewardClassifier) -> None:
    """Refuse a model whose scores in a padded batch are not those of its own forward on each text alone, or are all the
    same. Raises UserError."""
    rows = [model.read(ASKED, answer) for answer in ANSWERS]
    alone, together = torch.cat([model([row]) for row in rows]), model(rows)
    if not are_same(alone, together, 1 + alone.abs()):
        raise UserError(
            f"the reward model {model.name!r} ({type(model.model).__name__}) can't be read exactly: its scores in a padded "
            f"batch are {together.tolist()}, of each text alone {alone.tolist()}; choose another one"
        )
    if alone.unique().numel() == 1:
        raise UserError(
            f"the reward model {model.name!r} gives every answer the score {alone[0].item():g}; choose another one"
        )
