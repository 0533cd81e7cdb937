"""What a reward model says of answers that people scored: each answer is read once, as the policy would have written it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isoalign.config.task import ModelConfig
from isoalign.core.text import fingerprint
from isoalign.data.human_pairs import HumanPair
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.evaluation.scores import rewards_of
from isoalign.models.language import truncate_prompt
from isoalign.stages.candidates import read_rows, write_rows

VERSION = 1

Ids = tuple[int, ...]
Text = tuple[Ids, Ids]  # prompt and answer


@dataclass(frozen=True)
class JudgedPair:
    """A human pair as a reward model saw it. ``objective``: fingerprint of the text; ``chosen`` and ``rejected``: rewards;
    ``alike``: the two answers are one where they are cut, so nothing could tell them apart."""

    objective: str
    category: str
    gap: float
    chosen: float
    rejected: float
    alike: bool


@dataclass(frozen=True)
class Cut:
    """How much of the texts a reward model could not see."""

    answers: int
    answers_cut: int
    objectives: int
    objectives_cut: int


def make(work: Path, pairs: Sequence[HumanPair], reward: Any, tokenizer: Any, model: ModelConfig) -> None:
    """Write ``pairs.jsonl`` and ``cut.json``. Prompts are cut to ``prompt_tokens`` and answers to ``new_tokens``."""
    texts = list(dict.fromkeys((pair.objective, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)))
    full = {objective: tuple(tokenizer(objective, split_special_tokens=True)["input_ids"]) for objective, _ in texts}
    prompts = {
        text: tuple(truncate_prompt(list(ids), model.prompt_tokens, tokenizer.bos_token_id)) for text, ids in full.items()
    }
    whole = {text: _answer(tokenizer, text[1]) for text in texts}
    end = (tokenizer.eos_token_id,) if model.eos == "open" else ()
    read = {text: (prompts[text[0]], (*whole[text], *end)[: model.new_tokens]) for text in texts}
    rewards = _rewards(reward, read.values(), int(tokenizer.pad_token_id))
    write_rows(work / "pairs.jsonl", (asdict(_judged(pair, read, rewards)) for pair in pairs))
    longer = sum(len(ids) > model.new_tokens for ids in whole.values())
    cut = Cut(len(texts), longer, len(full), sum(full[text] != prompts[text] for text in full))
    (work / "cut.json").write_text(json.dumps(asdict(cut)))


def _answer(tokenizer: Any, answer: str) -> Ids:
    """An answer's tokens, a blank before it: it goes on from the prompt. What looks like a special token is plain text."""
    return tuple(tokenizer(f" {answer}", add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _rewards(reward: Any, texts: Iterable[Text], pad: int) -> dict[Text, float]:
    """The reward of each prompt and answer; equal ones are read once, so a tie is a tie."""
    rows = sorted(set(texts))
    batch = as_rollouts([list(prompt) for prompt, _ in rows], [list(answer) for _, answer in rows], pad)
    return dict(zip(rows, rewards_of(reward, batch), strict=True))


def _judged(pair: HumanPair, read: dict[tuple[str, str], Text], rewards: dict[Text, float]) -> JudgedPair:
    chosen, rejected = read[pair.objective, pair.chosen], read[pair.objective, pair.rejected]
    said = rewards[chosen], rewards[rejected]
    return JudgedPair(fingerprint(pair.objective), pair.category, pair.gap, *said, chosen == rejected)


def read(folder: Path) -> tuple[list[JudgedPair], Cut]:
    """What ``make`` wrote."""
    cut = Cut(**json.loads((folder / "cut.json").read_text()))
    return [JudgedPair(**row) for row in read_rows(folder / "pairs.jsonl")], cut
