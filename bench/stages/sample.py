"""Evaluation completions, with every quantity that needs weights; from here on no metric sees a model."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.config import EvaluationConfig, ModelConfig, PromptsConfig
from bench.data import prompts
from bench.feedback import Feedback
from bench.feedback import rollouts as as_rollouts
from bench.kl import exact_kl
from bench.models.language import LanguageModel, completion_lengths
from bench.progress import track
from bench.stages.candidates import completions, read_rows, write_rows
from bench.types import Rollouts, Sample, ScoredPair

VERSION = 1
ROWS = 16  # prompts decoded together; also bounds the logits of a scoring pass


def make(
    work: Path, policy: LanguageModel, base: LanguageModel, reward: Any | None, pairs: Path, model: ModelConfig,
    prompts_config: PromptsConfig, config: EvaluationConfig,
) -> None:  # fmt: skip
    """Write ``samples.jsonl`` (prompts x draws) and ``pairs.jsonl`` (held-out verdicts, scored by all models)."""
    chosen = prompts.of(prompts_config, config.split)
    samples: list[Sample] = []
    for start in track(range(0, len(chosen), ROWS), "samples"):
        part = chosen[start : start + ROWS]
        encoded = policy.encode([p.text for p in part], model.prompt_tokens)
        uniforms = [_uniforms(p.id, d, config.seed, model.new_tokens) for p in part for d in range(config.draws)]
        drawn = policy.generate(encoded, torch.stack(uniforms))
        samples += _rows(part, drawn, policy, base, config.draws)
    write_rows(work / "samples.jsonl", map(asdict, samples))
    write_rows(work / "pairs.jsonl", map(asdict, _scored_pairs(Feedback.read(pairs), policy, base, reward)))


def _uniforms(prompt: str, draw: int, seed: int, steps: int) -> Tensor:
    """The numbers that fix one completion: of the prompt, the draw and the task alone, so all methods share them."""
    digest = hashlib.sha256(f"{seed}/{prompt}/{draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(steps, generator=generator)


def _rows(part: list[prompts.Prompt], drawn: Rollouts, policy: LanguageModel, base: LanguageModel, draws: int) -> list[Sample]:
    logp, base_logp, kl = score(drawn, policy, base)
    texts, ids = policy.decode(drawn), completions(drawn)
    end = policy.tokenizer.eos_token_id
    return [
        Sample(
            prompt.id, draw, prompt.text, texts[row], ids[row], logp[row], base_logp[row], kl[row],
            ids[row][-1:] == [end], prompt.source, prompt.stratum,
        )
        for place, prompt in enumerate(part)
        for draw in range(draws)
        for row in [place * draws + draw]
    ]  # fmt: skip


@torch.no_grad()
def score(drawn: Rollouts, policy: LanguageModel, base: LanguageModel) -> tuple[list[float], list[float], list[float]]:
    """Sequence log-probabilities under policy and base, and exact KL(policy || base), all summed over the completion."""
    columns: tuple[list[float], list[float], list[float]] = ([], [], [])
    for start in range(0, len(drawn), 32):
        part = drawn[slice(start, start + 32)].to(policy.device)
        ours = policy(part)
        with base.adapter_off():
            theirs = base(part)
        kl = exact_kl(ours.logits, theirs.logits) * part.completion_mask
        for column, values in zip(columns, (ours.logp, theirs.logp, kl), strict=True):
            column += [round(value, 5) for value in values.sum(1).tolist()]
    return columns


@torch.no_grad()
def _scored_pairs(feedback: Feedback, policy: LanguageModel, base: LanguageModel, reward: Any | None) -> list[ScoredPair]:
    pad = int(policy.tokenizer.pad_token_id)
    sides = {
        side: as_rollouts(feedback.prompts, answers, pad)
        for side, answers in (("chosen", feedback.chosen), ("rejected", feedback.rejected))
    }
    columns: dict[str, list[Any]] = {}
    for side, batch in sides.items():
        columns[f"{side}_logp"], columns[f"{side}_base_logp"], _ = score(batch, policy, base)
        columns[f"{side}_length"] = completion_lengths(batch)
        columns[f"{side}_reward"] = _rewards(batch, reward)
    return [
        ScoredPair(
            pair_id=row["pair_id"], prompt_id=row["prompt_id"], chosen=row["chosen"], rejected=row["rejected"],
            clean=row["clean"], **{name: column[place] for name, column in columns.items()},
        )
        for place, row in enumerate(feedback.rows)
    ]  # fmt: skip


def _rewards(batch: Rollouts, reward: Any | None) -> list[float | None]:
    if reward is None:
        return [None] * len(batch)
    parts = [reward(batch[slice(start, start + 64)]) for start in range(0, len(batch), 64)]
    return [round(value, 5) for value in torch.cat(parts).tolist()]


def read(folder: Path) -> tuple[list[Sample], list[ScoredPair]]:
    """What ``make`` wrote."""
    samples = [Sample(**row) for row in read_rows(folder / "samples.jsonl")]  # type: ignore[arg-type]
    pairs = [ScoredPair(**row) for row in read_rows(folder / "pairs.jsonl")]  # type: ignore[arg-type]
    return samples, pairs
