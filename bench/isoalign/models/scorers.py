"""Toxicity scorers for evaluation: probability that people call a text toxic.

``tox_block`` is the main scorer, ``toxic_classifier`` the second; ``hf:NAME_OR_PATH`` is any Hugging Face sequence
classifier. They must not train a policy or label its data. All Jigsaw classifiers are weak on implicit hate and
miss threats without swear words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from isoalign.config.evaluation import REWARD, scorer_source
from isoalign.core import plugins
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.lazy import transformers
from isoalign.core.memory import by_rows, machine_failure
from isoalign.data import assets, hub
from isoalign.models import loading, rules
from isoalign.models.bilstm import BiLSTM
from isoalign.models.flops import shape_of
from isoalign.models.row_padding import free_padding, own_padding

READS = 3  # raised when a classifier gives other scores by the same weights
EMBEDDED = ("tox_block", "toxic_classifier")
FAILURES = (RuntimeError, ValueError, TypeError, IndexError)  # of a model on a text
TOLERANCE = 1e-3  # of a logit, relative to 1 + its size: how far apart a text's may be alone and in a padded batch
HARMS = {
    "toxic", "toxicity", "severe_toxic", "severe_toxicity", "obscene", "threat", "insult", "identity_hate", "identity_attack",
    "sexual_explicit", "profanity", "hate", "harassment", "violence",
}  # fmt: skip
HARMFUL = HARMS | {"hateful", "offensive", "harmful", "harm", "unsafe"}  # labels of which more is worse
TOXIC = ("toxic", "toxicity", "hate", "hateful", "offensive")  # names of the main label; the first match is used


@dataclass(frozen=True)
class Scorer:
    """Scores each text independently. ``probabilities``: texts of one batch [B] -> P(toxic) [B]; ``count_longer``: of how many
    texts it reads a part only."""

    name: str
    probabilities: Callable[[Sequence[str]], Tensor]
    batch_size: int = 256
    price: Callable[[Sequence[str]], int] | None = None
    count_longer: Callable[[Sequence[str]], int] = lambda texts: 0

    def __call__(self, texts: Sequence[str]) -> list[float | None]:
        """P(toxic) in [0, 1] of each text, in order; None if it can't be scored, never an invented number.

        Batches hold texts of similar length, chosen by the texts only, so that the order of the texts changes no score. Raises
        UserError where every text fails with an error, which is a fault of the scorer.
        """
        scores: list[float | None] = [None] * len(texts)
        errors: list[Exception] = []
        usable = [i for i, text in enumerate(texts) if isinstance(text, str)]
        order = sorted(usable, key=lambda i: (len(texts[i]), texts[i]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for i, score in zip(rows, self._score([texts[i] for i in rows], errors), strict=True):
                scores[i] = score
        if len(errors) == len(usable) > 1:
            raise UserError(f"the scorer {self.name} fails on every text: {unforeseen(errors[0])}") from errors[0]
        return scores

    def flops(self, texts: Sequence[str]) -> int:
        """FLOPs of reading the texts, for a scorer used as a reward; evaluation is free, and its scorers have no FLOPs."""
        if self.price is None:
            raise UserError(f"{self.name} is an evaluation scorer without FLOPs; it can't train anything")
        return self.price(texts)

    def _score(self, texts: Sequence[str], errors: list[Exception]) -> list[float | None]:
        """Scores of one batch; a failing batch is halved until the text at fault is alone, whose error is noted.

        Raises MachineFailed where the machine is at fault: that is no score that is missing.
        """
        try:
            values = torch.cat(by_rows(self.probabilities, list(texts), len(texts))).tolist()
        except FAILURES as error:
            if failure := machine_failure(error):
                raise failure from error
            if len(texts) == 1:
                errors.append(error)
                return [None]
            half = len(texts) // 2
            return self._score(texts[:half], errors) + self._score(texts[half:], errors)
        return [value if math.isfinite(value) else None for value in values]


@cache
def load_scorer(name: str, device: str = "cpu") -> Scorer:
    """A scorer by name: ``tox_block``, ``toxic_classifier``, ``hf:NAME_OR_PATH`` or ``hf:NAME_OR_PATH#label``.

    Raises UserError for an unknown name, a model that can't be loaded or a missing label.
    """
    if name.startswith("hf:"):
        return _load_hub_scorer(name, device)
    if name not in EMBEDDED:
        others = ("vader", "vader_half", "polarity", f"{rules.PREFIX}NAME", *plugins.entry_points("scorers"))
        known = ", ".join((*EMBEDDED, *others))
        raise UserError(f"unknown scorer {name!r}; known: {known}, hf:NAME_OR_PATH[#label] and reward:NAME_OR_FOLDER")
    model = BiLSTM.load(assets.asset_path(name), device)
    # the first of LABELS is toxic
    return Scorer(name, lambda texts: model(texts)[:, 0], count_longer=model.vocabulary.count_longer)


def direction(name: str) -> bool | None:
    """Whether a higher score is better: not of toxicity; None for the label of a classifier, of which the task must say."""
    label = name.partition("#")[2].lower()
    return None if label and label not in TOXIC else False


def scorer_identity(name: str) -> str:
    """Identity of the weights of an ``hf:`` or ``reward:`` scorer (see ``hub.model_identity``); of a scorer of another package
    its version; of others the name."""
    if name.startswith(rules.PREFIX):
        return f"{name} {rules.version(name)}"
    if name in plugins.entry_points("scorers"):
        version = getattr(plugins.load("scorers", name), "VERSION", None)
        return f"{name} {version} of {plugins.package_of('scorer', name)}"
    source = scorer_source(name)
    if not source:
        return name
    return hub.model_identity(source) + (f" read {READS}" if name.startswith("hf:") else "")


def weights_of(identity: str) -> str:
    """The weights in the identity of a scorer, which another use of the same model has too."""
    return identity.removesuffix(f" read {READS}")


def _load_hub_scorer(name: str, device: str) -> Scorer:
    """A sequence classifier from a folder or the hub cache; downloads need HF_HUB_OFFLINE=0."""
    source, _, wanted = name.removeprefix("hf:").partition("#")
    model, tokenizer = _load_classifier(hub.model_folder(source))
    loading.refuse_sparse(name, model.config)
    model = model.eval().to(device)
    _check_outputs(source, model.config)
    label = _toxic_label(source, model.config.id2label, wanted)
    applied, kind = getattr(model.config, "function_to_apply", None), model.config.problem_type
    if not kind and not applied and len(HARMS.intersection(map(str.lower, map(str, model.config.id2label.values())))) > 1:
        raise UserError(
            f"hf:{source} has several labels of harm, and does not say whether a text may have more than one: set "
            "problem_type in its config.json to multi_label_classification, or to single_label_classification"
        )
    several = model.config.num_labels > 1 and kind != "multi_label_classification" and applied != "sigmoid"
    # RoBERTa's positions start at 2
    positions = getattr(model.config, "max_position_embeddings", 512) - 2
    longest = min(tokenizer.model_max_length, positions, loading.longest_text(model.config) or positions)

    own = own_padding(model.config, getattr(model.config.get_text_config(), "vocab_size", 0))

    @torch.inference_mode()
    def logits(texts: Sequence[str]) -> Tensor:
        """[B, labels], nan where all of a text is padding."""
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        read = batch["attention_mask"].bool()
        rows = [row[kept] for row, kept in zip(batch["input_ids"], read, strict=True)]
        pad = free_padding(model.config, (int(row[-1]) for row in rows if len(row))) if own is None else own
        batch["input_ids"] = batch["input_ids"].masked_fill(~read, pad)
        found: Tensor = model(**batch.to(device)).logits.float().cpu()
        return found.where(read.any(-1, keepdim=True), torch.nan)

    def probabilities(texts: Sequence[str]) -> Tensor:
        found = logits(texts)
        return (found.softmax(-1) if several else found.sigmoid())[:, label]

    def price(texts: Sequence[str]) -> int:
        shape = shape_of(model, None)  # asked here, since a scorer of the evaluation needs no price
        lengths = [len(ids) for ids in tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]]
        return shape.forward(lengths, [0] * len(lengths))

    def count_longer(texts: Sequence[str]) -> int:
        return sum(len(ids) > longest for ids in tokenizer(list(texts), verbose=False)["input_ids"])

    _settle_padding(name, tokenizer, logits)
    return Scorer(name, probabilities, batch_size=32, price=price, count_longer=count_longer)


def _settle_padding(name: str, tokenizer: Any, logits: Callable[[Sequence[str]], Tensor]) -> None:
    """Pad on the side on which a text's logits do not depend on the texts beside it: on the left they do where positions are
    counted from the first token, or the first is what is read. Probabilities near 0 or 1 would hide it. Raises UserError where
    they depend on them on both sides."""
    short, long = "You are kind.", "This is a longer text, of which nobody knows yet how it will be read, and by whom."
    for side in dict.fromkeys((tokenizer.padding_side, "right", "left")):
        tokenizer.padding_side = side
        try:
            alone = torch.cat([logits([text]) for text in (short, long)])
            together = logits([short, long])
        except FAILURES:  # told where texts are scored
            return
        if torch.allclose(together, alone, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            return
    raise UserError(f"{name} gives a text another score where a longer one stands beside it; choose another classifier")


def _load_classifier(source: str) -> tuple[Any, Any]:
    where: dict[str, Any] = {"local_files_only": hub.offline()}
    with hub.loading_errors("the scorer", f"hf:{source}"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
        loaded: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **where
        )
    model, info = loaded
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"]))
        raise UserError(f"hf:{source} is not a trained classifier: it lacks the weights {missing}")
    if tokenizer.pad_token_id is None:  # any will do: what pads is replaced
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    loading.settle_outputs(model)
    return model, tokenizer


def _check_outputs(source: str, config: Any) -> None:
    """Refuse outputs that are no probabilities: those of regressions, and the one of a reward model."""
    labels = list(config.id2label.values())
    if len(labels) > 1 and config.problem_type == "regression":
        raise UserError(
            f"hf:{source} has {len(labels)} outputs of a regression, which are no probabilities; take a classifier, or a "
            "reward model with one output"
        )
    if len(labels) != 1:
        return
    if str(labels[0]).lower() not in HARMFUL:
        raise UserError(
            f"hf:{source} has one output, {labels[0]!r}, which is no probability of harm: it is a reward model, of which more "
            f"is better; set task.reward.classifier='' and task.reward.model=hf:{source}, or as a scorer {REWARD}{source}"
        )
    if config.problem_type == "regression":
        raise UserError(
            f"hf:{source} has one output of a regression, {labels[0]!r}, which is no probability, and of which more is "
            "worse; take a classifier, or set problem_type in its config.json to multi_label_classification if its output is "
            "a logit"
        )


def _toxic_label(source: str, names: dict[int, str], wanted: str) -> int:
    """Column of the label to score: ``wanted``, or the first one in TOXIC."""
    column = {name.lower(): int(i) for i, name in names.items()}
    for name in [wanted.lower()] if wanted else TOXIC:
        if name in column:
            return column[name]
    known = ", ".join(names.values())
    raise UserError(f"hf:{source} has no label {wanted or 'named like toxic'}; append one of these as #label: {known}")
