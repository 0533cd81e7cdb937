"""Completions of the SFT model to the prompts of a split, to be judged."""

import json
from pathlib import Path

import torch

from isoalign.config.task import ModelConfig, PromptsConfig
from isoalign.core.batches import Rollouts, completion_lengths
from isoalign.core.jsonl import write_rows
from isoalign.core.progress import track
from isoalign.data import prompts
from isoalign.models.language import LanguageModel
from isoalign.stages.cutting import encode_prompts

VERSION = 1
ROWS = 32  # prompts decoded together


def make_completions(
    work: Path, policy: LanguageModel, model_config: ModelConfig, config: PromptsConfig, split: str, draws: int, seed: int
) -> None:
    """Write ``answers.jsonl``: one row per prompt of the split, with its token ids and ``draws`` answers."""
    generator = torch.Generator().manual_seed(seed)
    chosen = prompts.load_split(config, split)
    flops, rows = 0, []
    for start in track(range(0, len(chosen), ROWS), f"{split} answers"):
        part = chosen[start : start + ROWS]
        encoded = encode_prompts(policy.tokenizer, part, model_config)
        rollouts = policy.generate(encoded, torch.rand(len(part) * draws, model_config.new_tokens, generator=generator))
        lengths = encoded.mask.sum(1).tolist()
        contexts = [length for length in lengths for _ in range(draws)]
        flops += policy.shape.prefill(lengths) + policy.shape.decode(contexts, completion_lengths(rollouts))
        texts, ids = policy.decode(rollouts), completion_ids(rollouts)
        for place, prompt in enumerate(part):
            own = slice(place * draws, (place + 1) * draws)
            prompt_ids = encoded.tokens[place][encoded.mask[place]].tolist()
            rows.append(prompt.row() | {"prompt_ids": prompt_ids, "answers": texts[own], "answer_ids": ids[own]})
    write_rows(work / "answers.jsonl", rows)
    (work / "record.json").write_text(json.dumps({"flops": flops, "draws": draws, "seed": seed}, indent=1))


def completion_ids(rollouts: Rollouts) -> list[list[int]]:
    """The completion tokens of each row, without padding."""
    pairs = zip(rollouts.completion.cpu(), rollouts.completion_mask.cpu(), strict=True)
    return [tokens[mask].tolist() for tokens, mask in pairs]
