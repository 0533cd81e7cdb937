"""Toxicity scorers for evaluation: text -> probability that people call it toxic, of each text alone.

``tox_block`` is the main scorer, ``toxic_classifier`` the second; ``hf:NAME_OR_PATH`` is any Hugging Face sequence
classifier. None of them may train a policy or label its data. All Jigsaw classifiers are weak on implicit hate and
blind to threats that use no swear word.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.data import assets, hub
from isoalign.models.bilstm import BiLSTM
from isoalign.models.flops import shape_of

EMBEDDED = ("tox_block", "toxic_classifier")
TOXIC = ("toxic", "toxicity", "hate", "hateful", "offensive")  # names of the main label, the first found is taken


@dataclass(frozen=True)
class Scorer:
    """Scores texts one by one in effect. ``probabilities``: texts of one batch [B] -> P(toxic) [B]."""

    name: str
    probabilities: Callable[[Sequence[str]], Tensor]
    batch_size: int = 256
    price: Callable[[Sequence[str]], int] | None = None

    def __call__(self, texts: Sequence[str]) -> list[float | None]:
        """P(toxic) in [0, 1] of each text, in order; None where there is no score to be had, never a made-up number.

        Batches hold texts of like length, chosen by the texts alone, so that the order of the texts changes no score.
        """
        scores: list[float | None] = [None] * len(texts)
        usable = [i for i, text in enumerate(texts) if isinstance(text, str)]
        order = sorted(usable, key=lambda i: (len(texts[i]), texts[i]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for i, score in zip(rows, self._score([texts[i] for i in rows]), strict=True):
                scores[i] = score
        return scores

    def flops(self, texts: Sequence[str]) -> int:
        """FLOPs of reading the texts, for a scorer that trains; evaluation is free and those of it have no price."""
        if self.price is None:
            raise UserError(f"{self.name} measures; it has no price and can't be trained on")
        return self.price(texts)

    def _score(self, texts: Sequence[str]) -> list[float | None]:
        """Scores of one batch; when it fails it is halved, until the text at fault stands alone."""
        try:
            values = self.probabilities(texts).tolist()
        except (RuntimeError, ValueError, TypeError, IndexError):
            if len(texts) == 1:
                return [None]
            half = len(texts) // 2
            return self._score(texts[:half]) + self._score(texts[half:])
        return [value if math.isfinite(value) else None for value in values]


@cache
def load_scorer(name: str, device: str = "cpu") -> Scorer:
    """A scorer by name: ``tox_block``, ``toxic_classifier``, ``hf:NAME_OR_PATH`` or ``hf:NAME_OR_PATH#label``.

    Raises UserError for an unknown name, a model that can't be had or a label that it lacks.
    """
    if name.startswith("hf:"):
        return _hugging_face(name, device)
    if name not in EMBEDDED:
        raise UserError(f"unknown scorer {name!r}; known: {', '.join(EMBEDDED)} and hf:NAME_OR_PATH[#label]")
    model = BiLSTM.load(assets.path(name), device)
    return Scorer(name, lambda texts: model(texts)[:, 0])  # the first of LABELS is toxic


def identity(name: str) -> str:
    """Which weights an ``hf:`` scorer stands for (see ``hub.identity``); the name itself of what is none."""
    return hub.identity(name.removeprefix("hf:").partition("#")[0]) if name.startswith("hf:") else name


def _hugging_face(name: str, device: str) -> Scorer:
    """A sequence classifier from a folder or the hub cache; it is downloaded only where HF_HUB_OFFLINE is set to 0."""
    source, _, wanted = name.removeprefix("hf:").partition("#")
    model, tokenizer = _load_classifier(source)
    model = model.eval().to(device)
    label = _toxic_label(source, model.config.id2label, wanted)
    several = model.config.num_labels > 1 and model.config.problem_type != "multi_label_classification"
    # Two positions to spare: RoBERTa counts them from 2.
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512) - 2)

    @torch.inference_mode()
    def probabilities(texts: Sequence[str]) -> Tensor:
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        logits = model(**batch.to(device)).logits.float().cpu()
        chances: Tensor = logits.softmax(-1) if several else logits.sigmoid()
        return torch.where(batch["attention_mask"].any(-1).cpu(), chances[:, label], torch.nan)  # nothing but padding

    shape = shape_of(model, None)

    def price(texts: Sequence[str]) -> int:
        lengths = [len(ids) for ids in tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]]
        return shape.forward(lengths, [0] * len(lengths))

    return Scorer(name, probabilities, batch_size=32, price=price)


def _load_classifier(source: str) -> tuple[Any, Any]:
    local = hub.offline()
    where: dict[str, Any] = {"local_files_only": local}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **where
        )
    except (OSError, ValueError) as error:
        advice = "; set HF_HUB_OFFLINE=0 to let it be downloaded" if local and not os.path.exists(source) else ""
        raise UserError(f"cannot load the scorer hf:{source}: {str(error).strip().splitlines()[0]}{advice}") from error
    if info["missing_keys"]:
        lacking = ", ".join(sorted(info["missing_keys"]))
        raise UserError(f"hf:{source} is no trained classifier: it lacks the weights {lacking}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _toxic_label(source: str, names: dict[int, str], wanted: str) -> int:
    """The column of the label to score: the one ``wanted``, or the first that is named like TOXIC."""
    column = {name.lower(): int(i) for i, name in names.items()}
    for name in [wanted.lower()] if wanted else TOXIC:
        if name in column:
            return column[name]
    known = ", ".join(names.values())
    raise UserError(f"hf:{source} has no label {wanted or 'named like toxic'}; append one of these as #label: {known}")
