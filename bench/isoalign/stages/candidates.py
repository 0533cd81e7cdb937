"""Answers of the SFT model to the prompts of a split: what annotators and judges choose between."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from isoalign.config.task import ModelConfig, PromptsConfig
from isoalign.core.batches import Rollouts
from isoalign.core.progress import track
from isoalign.data import prompts
from isoalign.models.language import LanguageModel, completion_lengths

VERSION = 1
ROWS = 32  # prompts decoded together


def make(
    work: Path, policy: LanguageModel, model_config: ModelConfig, config: PromptsConfig, split: str, draws: int, seed: int
) -> None:
    """Write ``answers.jsonl``: a row a prompt of the split, with its token ids and ``draws`` answers."""
    generator = torch.Generator().manual_seed(seed)
    chosen = prompts.load_split(config, split)
    flops, rows = 0, []
    for start in track(range(0, len(chosen), ROWS), f"{split} answers"):
        part = chosen[start : start + ROWS]
        encoded = policy.encode([p.text for p in part], model_config.prompt_tokens)
        rollouts = policy.generate(encoded, torch.rand(len(part) * draws, model_config.new_tokens, generator=generator))
        lengths = encoded.mask.sum(1).tolist()
        contexts = [length for length in lengths for _ in range(draws)]
        flops += policy.shape.prefill(lengths) + policy.shape.decode(contexts, completion_lengths(rollouts))
        texts, ids = policy.decode(rollouts), completions(rollouts)
        for place, prompt in enumerate(part):
            own = slice(place * draws, (place + 1) * draws)
            prompt_ids = encoded.tokens[place][encoded.mask[place]].tolist()
            rows.append(asdict(prompt) | {"prompt_ids": prompt_ids, "answers": texts[own], "answer_ids": ids[own]})
    write_rows(work / "answers.jsonl", rows)
    (work / "record.json").write_text(json.dumps({"flops": flops, "draws": draws, "seed": seed}, indent=1))


def completions(rollouts: Rollouts) -> list[list[int]]:
    """The real completion tokens of each row."""
    pairs = zip(rollouts.completion.cpu(), rollouts.completion_mask.cpu(), strict=True)
    return [tokens[mask].tolist() for tokens, mask in pairs]


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """JSON lines, read back."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
