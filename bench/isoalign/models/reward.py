"""Reward models: rewards of rollouts, FLOPs of a pass, and the bill of training.

A reward model is a scalar head on a language model, or a classifier's "not toxic" logit; several make an ensemble.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from isoalign.config.shaping import ShapingConfig
from isoalign.config.task import ModelConfig
from isoalign.core.batches import Rollouts, completion_lengths
from isoalign.core.errors import UserError
from isoalign.data import hub
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.models import loading, tokens
from isoalign.models.flops import Shape, shape_of
from isoalign.models.passes import Body
from isoalign.models.pieces import continued_texts
from isoalign.models.precision import cast_frozen_weights, in_precision
from isoalign.models.scalar_head import ScalarHead, left_aligned, load_scalar_head
from isoalign.models.shards import is_cut
from isoalign.models.shared_prompts import differentiates, read_ends

Bill = list[tuple[str, str, int]]


class Rewarder(Protocol):
    """Interface of reward models."""

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B]."""

    def flops(self, rollouts: Rollouts) -> int:
        """FLOPs of a pass over the rollouts."""

    def training_bill(self) -> Bill:
        """Role, kind and FLOPs of the training, without the verdicts read, which are paid for as verdicts."""

    def seconds(self) -> float:
        """Wall time of its training."""

    def verdicts(self) -> dict[str, list[int]]:
        """Training verdicts by source."""


class Annotator(Protocol):
    """A text classifier: P(toxic) of each text, None without a score, and the FLOPs of a pass."""

    def __call__(self, texts: Sequence[str]) -> Any:
        """P(toxic) [B]."""

    def flops(self, texts: Sequence[str]) -> int:
        """FLOPs of reading the texts."""


def load_reward_model(name: str, weights: Path | str) -> tuple[Any, Any]:
    """A scalar-head model with the weights of a stage (or of a base), and the tokenizer of the model ``name``."""
    tokenizer = loading.load_tokenizer(name)
    with hub.loading_errors("the reward model", str(weights)):
        model = load_scalar_head(str(weights))
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval().requires_grad_(False), tokenizer


class Retokenizer:
    """Converts token ids of the policy's tokenizer to another one's, for reward models with another base."""

    def __init__(self, own: Any, other: Any) -> None:
        self.own, self.other = own, other
        self.ends = tokens.end_ids(own, loading.saved_generation(own))

    def prompt(self, ids: list[int]) -> list[int]:
        """Token ids of a prompt, with the other tokenizer's start tokens."""
        return tokens.encode(self.other, [self.own.decode(ids, skip_special_tokens=True)])[0]

    def answer(self, ids: list[int]) -> list[int]:
        """Token ids of an answer; an empty one becomes the end token."""
        [converted] = tokens.encode_words(self.other, continued_texts(self.own, [ids]))
        ended = bool(ids) and ids[-1] in self.ends
        return [*converted, tokens.closing_id(self.other)] if ended or not converted else converted

    def rollouts(self, rollouts: Rollouts) -> Rollouts:
        """Rollouts of the same texts."""
        rows, split = list(zip(rollouts.tokens.cpu(), rollouts.mask.cpu(), strict=True)), rollouts.prompt_length
        prompts = [self.prompt(t[:split][m[:split]].tolist()) for t, m in rows]
        answers = [self.answer(t[split:][m[split:]].tolist()) for t, m in rows]
        return as_rollouts(prompts, answers, int(self.other.pad_token_id))


def shares_prompts(model: Any, precision: str) -> bool:
    """Whether `head_rewards` of a model, or of its adapter, may read a prompt once for all its answers with gradients too."""
    inner = loading.without_adapter(model)
    if not isinstance(inner, ScalarHead) or any(map(is_cut, model.parameters())):
        return False
    with in_precision(precision, model.device):
        return differentiates(_body(inner), model.get_input_embeddings(), precision)


def head_rewards(model: Any, rollouts: Rollouts, pad: int, precision: str, share: bool | None = None) -> Tensor:
    """Rewards [B] of a model with a scalar head, by a pass in ``precision``. A prompt is read once for all its answers, with
    gradients if the model `shares_prompts` and so is said. Raises UserError for a text that is longer than the model reads."""
    rollouts = rollouts.trimmed().to(model.device)
    width, longest = rollouts.tokens.shape[1], loading.longest_read(model)
    if longest is not None and width > longest:
        width = int(rollouts.mask.sum(1).max())  # without the padding on either side
        if width > longest:
            raise UserError(
                f"the reward model ({type(model).__name__}) reads at most {longest} tokens, and a prompt with its answer has "
                f"{width} of them; lower task.model.prompt_tokens or task.model.new_tokens, or choose another "
                "task.reward.base"
            )
    inner = loading.without_adapter(model)
    fits = longest is None or rollouts.tokens.shape[1] <= longest  # with the padding, which a prompt that is read once keeps
    if isinstance(inner, ScalarHead) and fits and (share or not torch.is_grad_enabled()):
        with in_precision(precision, model.device):
            ends = read_ends(_body(inner), rollouts)
            if ends is not None:
                return inner.score(ends)[:, 0].float()  # type: ignore[no-any-return]
    # an encoder, which does not align its rows itself, counts columns as positions
    ids, mask = (each[:, :width] for each in left_aligned(rollouts.tokens, rollouts.mask))
    with in_precision(precision, model.device):
        logits: Tensor = model(input_ids=ids.masked_fill(~mask, pad), attention_mask=mask.long()).logits
    return logits[:, 0].float()


def _body(model: Any) -> Body:
    return Body(getattr(model, model.base_model_prefix))


class HeadReward:
    """A language model with a scalar head, as saved by ``stages/reward.py``; ``record``: its mean, deviation and bill."""

    def __init__(self, folder: Path, config: ModelConfig, base: str = "", device: str = "cpu", normalise: bool = True) -> None:
        model, tokenizer = load_reward_model(base or config.name, folder)
        self.model, self.pad, self.normalise = model.to(device), int(tokenizer.pad_token_id), normalise
        self.precision = config.precision
        if self.precision == "bfloat16":
            cast_frozen_weights(model)
        self.record = json.loads((folder / "record.json").read_text())
        self.shape: Shape = shape_of(model, None)
        self.translate = Retokenizer(loading.task_tokenizer(config), tokenizer) if base else None

    @torch.no_grad()
    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B]; if normalised, with mean 0 and deviation 1 on the training answers."""
        rewards = head_rewards(self.model, self._retokenize(rollouts), self.pad, self.precision)
        return normalise_rewards(rewards, self.record, self.normalise)

    def flops(self, rollouts: Rollouts) -> int:
        """FLOPs of a pass over the real tokens."""
        lengths = self._retokenize(rollouts).mask.sum(1).tolist()
        return self.shape.forward(lengths, [0] * len(lengths))

    def _retokenize(self, rollouts: Rollouts) -> Rollouts:
        return self.translate.rollouts(rollouts) if self.translate else rollouts

    def training_bill(self) -> Bill:
        """Its training, and sampling the answers of the golden set."""
        return _record_bill(self.record)

    def seconds(self) -> float:
        """Wall time of its training."""
        return float(self.record["seconds"])

    def verdicts(self) -> dict[str, list[int]]:
        """Training verdicts by source; the ``golden`` ones decided when training ended."""
        by_source = {self.record["source"]: self.record["verdicts"], "golden": self.record.get("golden", [])}
        return {source: numbers for source, numbers in by_source.items() if numbers}


class Untrained:
    """What rewards that are not trained here share. ``record``: mean and deviation, and the bill of finding them."""

    record: dict[str, Any]

    def training_bill(self) -> Bill:
        """The pass that estimates its mean and deviation."""
        return _record_bill(self.record)

    def seconds(self) -> float:
        """0: it needs no training."""
        return 0.0

    def verdicts(self) -> dict[str, list[int]]:
        """Empty: it needs no verdicts."""
        return {}


LEAST = 1e-6  # a probability, as a classifier gives it in fp32
FARTHEST = 13.8  # log-odds of it


class ClassifierReward(Untrained):
    """The "not toxic" logit of a text classifier, log (1 - p) / p, normalised like a head; it needs no training.
    ``more``: of the label more is better, and the reward is log p / (1 - p).

    Perez et al. 2022 (arXiv:2202.03286) and the usual detoxification recipes train on such a reward.
    """

    def __init__(
        self, folder: Path, config: ModelConfig, annotator: Annotator, normalise: bool = True, more: bool = False
    ) -> None:
        self.tokenizer, self.annotator, self.normalise = loading.task_tokenizer(config), annotator, normalise
        self.sign = 1 if more else -1
        self.record = json.loads((folder / "record.json").read_text())
        self.unscored = self.saturated = 0  # completions so far

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B]; a text without a score gets the mean, 0. ``unscored`` is then their number; ``saturated`` that of the
        texts whose log-odds may lie farther out than the score says."""
        logits = self.logits(self._texts(rollouts))
        self.unscored += int(logits.isfinite().logical_not().sum())
        self.saturated += int((logits.abs() >= FARTHEST).sum())
        return normalise_rewards(logits.where(logits.isfinite(), self.record["mean"]), self.record, self.normalise)

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Log-odds of what is better [B], nan without a score."""
        scores = [float("nan") if score is None else float(score) for score in self.annotator(texts)]
        return self.sign * torch.tensor(scores).logit(eps=LEAST)

    def _texts(self, rollouts: Rollouts) -> list[str]:
        return tokens.decode(self.tokenizer, rollouts)

    def flops(self, rollouts: Rollouts) -> int:
        """FLOPs of a pass over the texts."""
        return self.annotator.flops(self._texts(rollouts))


class Shaped:
    """One or several reward models as one: combined, minus a length penalty, clipped.

    ``mean``; ``worst`` of the members; or ``uncertainty``: mean - weight x variance over members (Coste et al. 2024,
    arXiv:2310.02743, eqs. 2 to 4). ``length_penalty`` per token (Singhal et al. 2024, arXiv:2310.03716).
    """

    def __init__(self, members: Sequence[Rewarder], config: ShapingConfig) -> None:
        self.members, self.config = members, config

    @property
    def unscored(self) -> int:
        """Completions so far without a score by some member."""
        return max(getattr(member, "unscored", 0) for member in self.members)

    @property
    def saturated(self) -> int:
        """Completions so far whose reward lies at an end by some member."""
        return max(getattr(member, "saturated", 0) for member in self.members)

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
        """FLOPs of a pass of every member."""
        return sum(member.flops(rollouts) for member in self.members)

    def training_bill(self) -> Bill:
        """The bill of every member; the answers of the golden set, which all share, are paid once."""
        first, *others = [member.training_bill() for member in self.members]
        return first + [item for bill in others for item in bill if item[0] == "reward"]

    def seconds(self) -> float:
        """Sum over members."""
        return sum(member.seconds() for member in self.members)

    def verdicts(self) -> dict[str, list[int]]:
        """Verdicts of one member: all members share them."""
        return self.members[0].verdicts()


def normalise_rewards(rewards: Tensor, record: dict[str, Any], normalise: bool) -> Tensor:
    """Rewards minus the record's mean, divided by its deviation; unchanged without ``normalise``."""
    return (rewards - record["mean"]) / record["deviation"] if normalise else rewards


def _record_bill(record: dict[str, Any]) -> Bill:
    """The bill in a reward model's record."""
    flops, golden = record["flops"], record.get("golden_flops", 0)
    bill = [("feedback", "sample", golden)] if golden else []
    return [*bill, ("reward", "forward", flops["forward"]), ("reward", "backward", flops["backward"])]
