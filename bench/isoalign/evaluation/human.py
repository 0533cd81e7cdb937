"""Rewards of answers that people scored. A reward model reads each answer once, tokenized as the policy would write it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isoalign.config.task import ModelConfig
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.core.text import text_fingerprint
from isoalign.data.human_pairs import HumanPair
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.evaluation.scores import rewards_of
from isoalign.models.tokens import closing_id, encode, encode_words

VERSION = 1

Ids = tuple[int, ...]
Text = tuple[Ids, Ids]  # prompt and answer


@dataclass(frozen=True)
class JudgedPair:
    """A human pair with its rewards. ``objective``: fingerprint of the text; ``chosen`` and ``rejected``: rewards; ``alike``:
    the two answers are equal after truncation, so that no model can distinguish them."""

    objective: str
    category: str
    gap: float
    chosen: float
    rejected: float
    alike: bool


@dataclass(frozen=True)
class Cut:
    """How many answers and objectives were truncated."""

    answers: int
    answers_cut: int
    objectives: int
    objectives_cut: int


def make_human_scores(work: Path, pairs: Sequence[HumanPair], reward: Any, tokenizer: Any, model: ModelConfig) -> None:
    """Write ``pairs.jsonl`` and ``cut.json``. Prompts are truncated to ``prompt_tokens``, answers to ``new_tokens``."""
    texts = list(dict.fromkeys((pair.objective, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)))
    objectives = list(dict.fromkeys(objective for objective, _ in texts))
    full = dict(zip(objectives, map(tuple, encode(tokenizer, objectives)), strict=True))
    prompts = dict(zip(objectives, map(tuple, encode(tokenizer, objectives, model.prompt_tokens)), strict=True))
    spoken = encode_words(tokenizer, [f" {answer}" for _, answer in texts])  # after a space, as it continues the prompt
    answers = dict(zip(texts, map(tuple, spoken), strict=True))
    end = (closing_id(tokenizer),) if model.eos == "open" else ()
    truncated = {text: (prompts[text[0]], (*answers[text], *end)[: model.new_tokens]) for text in texts}
    rewards = _rewards_by_text(reward, truncated.values(), int(tokenizer.pad_token_id))
    write_rows(work / "pairs.jsonl", (asdict(_judged_pair(pair, truncated, rewards)) for pair in pairs))
    longer = sum(len(ids) > model.new_tokens for ids in answers.values())
    cut = Cut(len(texts), longer, len(full), sum(full[text] != prompts[text] for text in full))
    (work / "cut.json").write_text(json.dumps(asdict(cut)))


def _rewards_by_text(reward: Any, texts: Iterable[Text], pad: int) -> dict[Text, float]:
    """The reward of each prompt and answer. Equal texts are read once, so that ties are exact."""
    rows = sorted(set(texts))
    batch = as_rollouts([list(prompt) for prompt, _ in rows], [list(answer) for _, answer in rows], pad)
    return dict(zip(rows, rewards_of(reward, batch), strict=True))


def _judged_pair(pair: HumanPair, texts: dict[tuple[str, str], Text], rewards: dict[Text, float]) -> JudgedPair:
    chosen, rejected = texts[pair.objective, pair.chosen], texts[pair.objective, pair.rejected]
    objective = text_fingerprint(pair.objective)
    return JudgedPair(objective, pair.category, pair.gap, rewards[chosen], rewards[rejected], chosen == rejected)


def read_human_scores(folder: Path) -> tuple[list[JudgedPair], Cut]:
    """What ``make_human_scores`` wrote."""
    cut = Cut(**json.loads((folder / "cut.json").read_text()))
    return [JudgedPair(**row) for row in read_rows(folder / "pairs.jsonl")], cut
