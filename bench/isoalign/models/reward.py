"""Reward models at work: rewards of rollouts, what a pass costs, and what having the model costs.

One is a scalar head on a language model, or a classifier's "not toxic" logit; several make an ensemble. All answer to
``__call__``, ``flops``, ``training_bill``, ``seconds`` and ``verdicts``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from isoalign.config.task import ModelConfig, ShapingConfig
from isoalign.core.batches import Rollouts
from isoalign.core.lazy import transformers
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.models import language
from isoalign.models.flops import Shape, shape_of
from isoalign.models.language import completion_lengths

Bill = list[tuple[str, str, int]]


class Rewarder(Protocol):
    """What the lab and the scores ask of a reward model."""

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B]."""

    def flops(self, rollouts: Rollouts) -> int:
        """Price of a pass over the rollouts."""

    def training_bill(self) -> Bill:
        """Role, kind and FLOPs of the training; the verdicts that it read are paid as verdicts."""

    def seconds(self) -> float:
        """Wall time of its training."""

    def verdicts(self) -> dict[str, list[int]]:
        """By source, the verdicts that it learned from."""


class Annotator(Protocol):
    """A text classifier: P(toxic) of each text, None where it has no score, and the price of a pass."""

    def __call__(self, texts: Sequence[str]) -> Any:
        """P(toxic) [B]."""

    def flops(self, texts: Sequence[str]) -> int:
        """Price of reading the texts."""


def load(name: str, weights: Path | str) -> tuple[Any, Any]:
    """A scalar-head model on the weights of a stage (or a base's own), with the tokenizer of the model ``name``."""
    tokenizer = language.tokenizer(name)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        str(weights), num_labels=1, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval().requires_grad_(False), tokenizer


class Retokenizer:
    """Token ids of the policy's tokenizer as another's: a reward model need not read as the policy writes."""

    def __init__(self, own: Any, other: Any) -> None:
        self.own, self.other = own, other

    def prompt(self, ids: list[int]) -> list[int]:
        """A prompt's ids, with the tokens that the other opens a text with."""
        return list(self.other(self.own.decode(ids, skip_special_tokens=True))["input_ids"])

    def answer(self, ids: list[int]) -> list[int]:
        """An answer's ids; one that is empty is its end."""
        text = self.own.decode(ids, skip_special_tokens=True)
        found = list(self.other(text, add_special_tokens=False)["input_ids"])
        ended = bool(ids) and ids[-1] == self.own.eos_token_id
        return found + [self.other.eos_token_id] * (ended or not found)

    def rollouts(self, rollouts: Rollouts) -> Rollouts:
        """The same texts."""
        tokens, mask, split = rollouts.tokens.cpu(), rollouts.mask.cpu(), rollouts.prompt_length
        rows = list(zip(tokens, mask, strict=True))
        prompts = [self.prompt(t[:split][m[:split]].tolist()) for t, m in rows]
        answers = [self.answer(t[split:][m[split:]].tolist()) for t, m in rows]
        return as_rollouts(prompts, answers, int(self.other.pad_token_id))


class HeadReward:
    """A language model with a scalar head, as ``stages/reward.py`` leaves it; ``record`` has its whitening and its bill."""

    def __init__(self, folder: Path, config: ModelConfig, base: str = "", device: str = "cpu", normalise: bool = True) -> None:
        model, tokenizer = load(base or config.name, folder)
        self.model, self.pad, self.bf16, self.normalise = model.to(device), int(tokenizer.pad_token_id), config.bf16, normalise
        self.record = json.loads((folder / "record.json").read_text())
        self.shape: Shape = shape_of(model, None)
        self.translate = Retokenizer(language.tokenizer(config.name), tokenizer) if base else None

    @torch.no_grad()
    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B], with mean 0 and deviation 1 on its training answers if they are normalised."""
        device = self.model.device
        rollouts = self._read(rollouts)
        tokens, mask = rollouts.tokens.to(device), rollouts.mask.to(device)
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        tokens = tokens.masked_fill(~mask, self.pad)
        with torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext():
            logits = self.model(input_ids=tokens, attention_mask=mask.long(), position_ids=positions).logits
        return whitened(logits[:, 0].float(), self.record, self.normalise)

    def flops(self, rollouts: Rollouts) -> int:
        """A pass over the real tokens."""
        lengths = self._read(rollouts).mask.sum(1).tolist()
        return self.shape.forward(lengths, [0] * len(lengths))

    def _read(self, rollouts: Rollouts) -> Rollouts:
        return self.translate.rollouts(rollouts) if self.translate else rollouts

    def training_bill(self) -> Bill:
        """Its training, and the answers of the golden set."""
        return bill_of(self.record)

    def seconds(self) -> float:
        """Wall time of its training."""
        return float(self.record["seconds"])

    def verdicts(self) -> dict[str, list[int]]:
        """By source, the verdicts that it learned from; ``golden`` ones decided when its training ended."""
        found = {self.record["source"]: self.record["verdicts"], "golden": self.record.get("golden", [])}
        return {source: numbers for source, numbers in found.items() if numbers}


class ClassifierReward:
    """The "not toxic" logit of a text classifier, log (1 - p) / p, whitened like a head; nothing was trained for it.

    Perez et al. 2022 (arXiv:2202.03286) and the usual detoxification recipes train on such a reward.
    """

    def __init__(self, folder: Path, config: ModelConfig, annotator: Annotator, normalise: bool = True) -> None:
        self.tokenizer, self.annotator, self.normalise = language.tokenizer(config.name), annotator, normalise
        self.record = json.loads((folder / "record.json").read_text())

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B]; a text without a score gets the mean, 0."""
        logits = self.logits(self._texts(rollouts))
        return whitened(logits.where(logits.isfinite(), self.record["mean"]), self.record, self.normalise)

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Log-odds of "not toxic" [B], nan where the classifier has no score."""
        scores = [float("nan") if score is None else float(score) for score in self.annotator(texts)]
        return -torch.tensor(scores).logit(eps=1e-6)

    def _texts(self, rollouts: Rollouts) -> list[str]:
        rows = zip(rollouts.completion.cpu(), rollouts.completion_mask.cpu(), strict=True)
        return [self.tokenizer.decode(tokens[mask], skip_special_tokens=True) for tokens, mask in rows]

    def flops(self, rollouts: Rollouts) -> int:
        """A pass over the texts."""
        return self.annotator.flops(self._texts(rollouts))

    def training_bill(self) -> Bill:
        """The pass that its mean and deviation come from."""
        return bill_of(self.record)

    def seconds(self) -> float:
        """Nothing was trained."""
        return 0.0

    def verdicts(self) -> dict[str, list[int]]:
        """It read none."""
        return {}


class Shaped:
    """One or several reward models as one: combined, less a price on length, clipped.

    ``mean``; ``worst`` of the members; or ``uncertainty``: mean - weight x variance over members (Coste et al. 2024,
    arXiv:2310.02743, eqs. 2 to 4). ``length_penalty`` a token (Singhal et al. 2024, arXiv:2310.03716).
    """

    def __init__(self, members: Sequence[Rewarder], config: ShapingConfig) -> None:
        self.members, self.config = members, config

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B]."""
        config, each = self.config, torch.stack([member(rollouts) for member in self.members])
        rewards = each.amin(0) if config.combine == "worst" else each.mean(0)
        if config.combine == "uncertainty":
            rewards = rewards - config.uncertainty * each.var(0, correction=0)
        if config.length_penalty:
            lengths = torch.tensor(completion_lengths(rollouts), device=rewards.device)
            rewards = rewards - config.length_penalty * lengths
        return rewards.clamp(-config.clip, config.clip) if config.clip else rewards

    def flops(self, rollouts: Rollouts) -> int:
        """A pass of every member."""
        return sum(member.flops(rollouts) for member in self.members)

    def training_bill(self) -> Bill:
        """That of every member; the golden set is the same for all, so its answers are paid once."""
        first, *others = [member.training_bill() for member in self.members]
        return first + [item for bill in others for item in bill if item[0] == "reward"]

    def seconds(self) -> float:
        """Of all members, one after the other."""
        return sum(member.seconds() for member in self.members)

    def verdicts(self) -> dict[str, list[int]]:
        """Those of any member: all read the same."""
        return self.members[0].verdicts()


def whitened(rewards: Tensor, record: dict[str, Any], normalise: bool) -> Tensor:
    """Rewards less the record's mean, by its deviation; as they are where they are not to be normalised."""
    return (rewards - record["mean"]) / record["deviation"] if normalise else rewards


def bill_of(record: dict[str, Any]) -> Bill:
    """The bill in a reward model's record."""
    flops, golden = record["flops"], record.get("golden_flops", 0)
    bill = [("feedback", "sample", golden)] if golden else []
    return [*bill, ("reward", "forward", flops["forward"]), ("reward", "backward", flops["backward"])]
