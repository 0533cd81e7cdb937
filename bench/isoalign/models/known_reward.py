"""The reward of a task whose annotator, reward and objective are one known function: the score by which methods are ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from isoalign.core.batches import Rollouts
from isoalign.data.formats import Turns
from isoalign.models import loading, tokens
from isoalign.models.answer_scorers import AnswerScorer
from isoalign.models.reward import Bill, normalise_rewards

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """A prompt as the evaluation's scorer reads it: its whole ``text``, or the ``turns`` of a conversation, and the right
    answer."""

    text: str
    reference: str = ""
    turns: Turns = ()

    @property
    def prompt(self) -> str | Turns:
        """The turns of a conversation, or the text."""
        return self.turns or self.text


@dataclass(frozen=True)
class KnownFunction:
    """``scorer``, with its direction. ``prompts``: what is asked by the tokens that the model reads of it; ``equal``: number
    of prompts of which it reads the same as of an earlier one."""

    scorer: AnswerScorer
    higher_is_better: bool
    prompts: Mapping[Ids, Asked]
    equal: int = 0


class KnownReward:
    """A known function's score, with the sign by which more is better, normalised like a head's; it needs no training.

    It reads prompts and completions as the evaluation does, so it is the objective up to shift and scale. Prompts that are not
    of the task are read as the model reads them.
    """

    def __init__(self, folder: Path, model: str, known: KnownFunction, normalise: bool = True) -> None:
        self.tokenizer, self.known, self.normalise = loading.load_tokenizer(model), known, normalise
        self.unscored = 0  # completions so far
        self.record = json.loads((folder / "record.json").read_text())

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B]; a completion without a score gets the mean, 0. ``unscored`` is then their number."""
        asked, answers = self._asked(rollouts), tokens.decode(self.tokenizer, rollouts)
        scores = self.known.scorer([each.prompt for each in asked], answers, [each.reference for each in asked])
        self.unscored += scores.count(None)
        sign, mean = (1.0 if self.known.higher_is_better else -1.0), self.record["mean"]
        rewards = torch.tensor([mean if score is None else sign * score for score in scores])
        return normalise_rewards(rewards, self.record, self.normalise)

    def _asked(self, rollouts: Rollouts) -> list[Asked]:
        split = rollouts.prompt_length
        rows = zip(rollouts.tokens[:, :split].cpu(), rollouts.mask[:, :split].cpu(), strict=True)
        known = [self.known.prompts.get(tuple(ids[mask].tolist())) for ids, mask in rows]
        if None not in known:
            return [each for each in known if each]
        read = tokens.decode_prompts(self.tokenizer, rollouts)
        return [each or Asked(text) for each, text in zip(known, read, strict=True)]

    def flops(self, rollouts: Rollouts) -> int:
        """FLOPs of the scorer; 0 for a function without a network."""
        if self.known.scorer.price is None:
            return 0
        return self.known.scorer.flops(
            [each.prompt for each in self._asked(rollouts)], tokens.decode(self.tokenizer, rollouts)
        )

    def training_bill(self) -> Bill:
        """The pass that estimates its mean and deviation."""
        return [("reward", "forward", self.record["flops"]["forward"])] if self.record["flops"]["forward"] else []

    def seconds(self) -> float:
        """0: it needs no training."""
        return 0.0

    def verdicts(self) -> dict[str, list[int]]:
        """Empty: it needs no verdicts."""
        return {}
