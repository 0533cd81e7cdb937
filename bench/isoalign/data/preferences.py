"""Preference pairs and unpaired labels, by people or an AI, on answers of the SFT model: the data that algorithms train on."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from isoalign.core.batches import Labels, Pairs, Prompts, Rollouts
from isoalign.core.errors import UserError

MAX_VOTES = 10_000  # on one verdict; makes the index of every label unique


@dataclass(frozen=True)
class Feedback:
    """The preference pairs of one split and annotator. ``flops_each``: FLOPs of sampling (and judging) one pair, for
    the bill. ``calibration``: labels used to weight a panel's annotators. ``asked_each``: passes and tokens of an AI judge per
    pair."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]
    rows: list[dict[str, Any]]
    source: str
    flops_each: dict[str, int]
    calibration: int = 0
    asked_each: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def price(self, verdicts: Iterable[int]) -> dict[str, int]:
        """FLOPs of sampling and judging some verdicts, by role."""
        total: Counter[str] = Counter()
        for number in verdicts:
            total.update(self.rows[number].get("flops_each", self.flops_each))
        return dict(total)

    def asked(self, verdicts: Iterable[int]) -> dict[str, float]:
        """Passes and tokens of an AI judge for some verdicts."""
        total: Counter[str] = Counter()
        for number in verdicts:
            total.update(self.rows[number].get("asked_each", self.asked_each))
        return dict(total)

    def labels_of(self, verdicts: Iterable[int]) -> list[int]:
        """Indices of the labels behind some verdicts: one per verdict, or one per vote of several, whoever gave it."""
        return [
            number * MAX_VOTES + place
            for number in verdicts
            for place, _ in enumerate(self.rows[number].get("annotators", (0,)))
        ]

    @cached_property
    def label_count(self) -> int:
        """The number of labels behind all verdicts."""
        return len(self.labels_of(range(len(self))))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``pairs.jsonl`` of a pairs stage; raises UserError naming file and row if it is malformed."""
        file = folder / "pairs.jsonl"
        rows = []
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # answers may contain other line separators
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
                    _check_ids(name, row[name])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}: row {number}: not a preference pair ({error})") from error
            rows.append(row)
        record = json.loads((folder / "record.json").read_text())
        return cls(
            [row["prompt_ids"] for row in rows],
            [row["chosen_ids"] for row in rows],
            [row["rejected_ids"] for row in rows],
            rows,
            record["source"],
            record["flops_each"],
            record.get("calibration", 0),
            record.get("asked_each", {}),
        )

    def pairs(self, index: Tensor, pad: int) -> Pairs:
        """Both answers of the verdicts in ``index`` [B]."""
        places = index.tolist()
        prompts = [self.prompts[i] for i in places]
        chosen = rollouts(prompts, [self.chosen[i] for i in places], pad)
        rejected = rollouts(prompts, [self.rejected[i] for i in places], pad)
        return Pairs(chosen, rejected, index)

    def labels(self, index: Tensor, pad: int) -> Labels:
        """Single answers: item 2i is the chosen answer of verdict i (good), 2i + 1 the rejected one (bad)."""
        places, desirable = (index // 2).tolist(), index % 2 == 0
        answers = [(self.chosen if up else self.rejected)[i] for i, up in zip(places, desirable.tolist(), strict=True)]
        return Labels(rollouts([self.prompts[i] for i in places], answers, pad), desirable, index // 2)


def join_feedback(parts: Sequence[Feedback]) -> Feedback:
    """Verdicts of several feedback rounds in one, in order; each keeps the FLOPs of its round."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Feedback(
        [ids for part in parts for ids in part.prompts],
        [ids for part in parts for ids in part.chosen],
        [ids for part in parts for ids in part.rejected],
        [row | {"flops_each": part.flops_each, "asked_each": part.asked_each} for part in parts for row in part.rows],
        first.source,
        first.flops_each,
        sum(part.calibration for part in parts),
    )


@dataclass(frozen=True)
class UnpairedFeedback:
    """Single answers that people labelled good (``desirable``) or bad; ``file``: their name in messages."""

    prompts: list[list[int]]
    answers: list[list[int]]
    desirable: list[bool]
    source: str
    file: str

    def __len__(self) -> int:
        return len(self.answers)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the files of ``stages/from_file.py``."""
        rows = [json.loads(line) for line in (folder / "unpaired.jsonl").read_text(encoding="utf-8").split("\n") if line]
        record = json.loads((folder / "record.json").read_text())
        prompts, answers = ([row[name] for row in rows] for name in ("prompt_ids", "answer_ids"))
        return cls(prompts, answers, [row["desirable"] for row in rows], record["source"], record["file"])

    def labels(self, index: Tensor, pad: int) -> Labels:
        """The answers in ``index`` [B]."""
        places = index.tolist()
        chosen = rollouts([self.prompts[i] for i in places], [self.answers[i] for i in places], pad)
        return Labels(chosen, torch.tensor([self.desirable[i] for i in places]), index)


def _check_ids(name: str, ids: Any) -> None:
    if not (isinstance(ids, list) and ids and all(type(i) is int and i >= 0 for i in ids)):
        raise ValueError(f"{name} is not a list of token ids")


def rollouts(prompts: list[list[int]], completions: list[list[int]], pad: int) -> Rollouts:
    """Token ids as Rollouts: prompts padded on the left, completions on the right."""
    left, right = max(map(len, prompts)), max(map(len, completions))
    tokens = torch.full((len(prompts), left + right), pad)
    mask = torch.zeros(len(prompts), left + right, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids = torch.tensor(prompt + completion)
        span = slice(left - len(prompt), left + len(completion))
        tokens[row, span], mask[row, span] = ids, True
    return Rollouts(tokens, mask, left)


class Cursor:
    """Endless shuffled iteration over ``size`` items, with a new order each epoch; seed and position are its state."""

    def __init__(self, size: int, seed: int, position: int = 0) -> None:
        self.size, self.seed, self.position = size, seed, position
        self._epoch, self._order = -1, torch.empty(0)

    def take(self, count: int) -> Tensor:
        """The next ``count`` items [count]."""
        parts = [torch.empty(0, dtype=torch.long)]
        end = self.position + count
        while self.position < end:
            epoch, start = divmod(self.position, self.size)
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
                self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator)
            parts.append(self._order[start : start + end - self.position])
            self.position += len(parts[-1])
        return torch.cat(parts)


def select(prompts: Prompts, index: Tensor) -> Prompts:
    """Rows of padded prompts, without padding that none of them needs."""
    chosen = prompts[index]
    width = int(chosen.mask.sum(1).max())
    return Prompts(chosen.tokens[:, -width:], chosen.mask[:, -width:], chosen.index)
