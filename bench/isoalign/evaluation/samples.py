"""Evaluation completions, with every quantity that needs the policy's weights; from here on no metric sees the policy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoalign.config.task import ModelConfig
from isoalign.core.batches import Rollouts
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.core.progress import track
from isoalign.core.records import ReverseKL, Sample, ScoredPair
from isoalign.data.preferences import Feedback
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.data.prompts import Prompt
from isoalign.models.kl import exact_kl
from isoalign.models.language import LanguageModel, completion_lengths
from isoalign.stages.completions import completion_ids

VERSION = 2
ROWS = 16  # prompts decoded together; also bounds the logits of a scoring pass


def make(
    work: Path, policy: LanguageModel, base: LanguageModel, model: ModelConfig, chosen: Sequence[Prompt], draws: int, seed: int
) -> None:
    """Write ``samples.jsonl``: ``draws`` completions of each prompt, with what policy and SFT base say of them."""
    samples: list[Sample] = []
    for start in track(range(0, len(chosen), ROWS), "samples"):
        part = chosen[start : start + ROWS]
        encoded = policy.encode([p.text for p in part], model.prompt_tokens)
        uniforms = [_uniforms(p.id, d, seed, model.new_tokens) for p in part for d in range(draws)]
        drawn = policy.generate(encoded, torch.stack(uniforms))
        samples += rows(part, drawn, policy, base, draws)
    write_rows(work / "samples.jsonl", map(asdict, samples))


def pairs_and_reverse(
    work: Path, policy: LanguageModel, base: LanguageModel, model: ModelConfig, feedback: Feedback, theirs: Sequence[Sample]
) -> None:
    """Write ``pairs.jsonl`` (held-out verdicts as both models see them) and ``reverse.jsonl``: KL(base || policy) of
    ``theirs``, the base's own first completion of each prompt, fixed for all methods."""
    write_rows(work / "pairs.jsonl", map(asdict, _scored_pairs(feedback, policy, base)))
    rows: list[ReverseKL] = []
    for start in track(range(0, len(theirs), 2 * ROWS), "reverse KL"):
        part = theirs[start : start + 2 * ROWS]
        batch = as_rollouts(prompt_ids(policy, part, model), [s.token_ids for s in part], int(policy.tokenizer.pad_token_id))
        _, _, kl, _ = score(batch, base, policy)
        rows += [ReverseKL(s.prompt_id, s.draw, value) for s, value in zip(part, kl, strict=True)]
    write_rows(work / "reverse.jsonl", map(asdict, rows))


def prompt_ids(model: LanguageModel, samples: Sequence[Sample], config: ModelConfig) -> list[list[int]]:
    """The prompts of some samples as the model read them."""
    encoded = model.encode([s.prompt for s in samples], config.prompt_tokens)
    return [tokens[mask].tolist() for tokens, mask in zip(encoded.tokens, encoded.mask, strict=True)]


def _uniforms(prompt: str, draw: int, seed: int, steps: int) -> Tensor:
    """The numbers that fix one completion: of the prompt, the draw and the task alone, so all methods share them."""
    digest = hashlib.sha256(f"{seed}/{prompt}/{draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(steps, generator=generator)


def rows(part: Sequence[Prompt], drawn: Rollouts, policy: LanguageModel, base: LanguageModel, draws: int) -> list[Sample]:
    """Samples of completions [B x draws] of some prompts."""
    logp, base_logp, kl, entropy = score(drawn, policy, base)
    texts, ids = policy.decode(drawn), completion_ids(drawn)
    end = policy.tokenizer.eos_token_id
    return [
        Sample(
            prompt.id, draw, prompt.text, texts[row], ids[row], logp[row], base_logp[row], kl[row],
            ids[row][-1:] == [end], prompt.source, prompt.stratum, entropy[row],
        )
        for place, prompt in enumerate(part)
        for draw in range(draws)
        for row in [place * draws + draw]
    ]  # fmt: skip


@torch.no_grad()
def score(drawn: Rollouts, policy: LanguageModel, base: LanguageModel) -> tuple[list[float], ...]:
    """Log-probabilities under policy and base, exact KL(policy || base) and the policy's entropy, each summed over the
    completion; four lists [B]."""
    columns: tuple[list[float], ...] = ([], [], [], [])
    for start in range(0, len(drawn), 32):
        part = drawn[slice(start, start + 32)].to(policy.device)
        ours = policy(part)
        with base.adapter_off():
            theirs = base(part)
        mask = part.completion_mask
        kl, entropy = exact_kl(ours.logits, theirs.logits) * mask, ours.entropy * mask
        for column, values in zip(columns, (ours.logp, theirs.logp, kl, entropy), strict=True):
            column += [round(value, 5) for value in values.sum(1).tolist()]
    return columns


def _scored_pairs(feedback: Feedback, policy: LanguageModel, base: LanguageModel) -> list[ScoredPair]:
    columns: dict[str, list[float]] = {}
    for side, batch in sides(feedback, int(policy.tokenizer.pad_token_id)).items():
        columns[f"{side}_logp"], columns[f"{side}_base_logp"], *_ = score(batch, policy, base)
        columns[f"{side}_length"] = completion_lengths(batch)  # type: ignore[assignment]
    return [
        ScoredPair(
            pair_id=row["pair_id"], prompt_id=row["prompt_id"], chosen=row["chosen"], rejected=row["rejected"],
            clean=row["clean"], **{name: column[place] for name, column in columns.items()},  # type: ignore[arg-type]
        )
        for place, row in enumerate(feedback.rows)
    ]  # fmt: skip


def sides(feedback: Feedback, pad: int) -> dict[str, Rollouts]:
    """All chosen and all rejected answers."""
    return {
        "chosen": as_rollouts(feedback.prompts, feedback.chosen, pad),
        "rejected": as_rollouts(feedback.prompts, feedback.rejected, pad),
    }


def read_samples(folder: Path) -> list[Sample]:
    """The completions."""
    return [Sample(**row) for row in read_rows(folder / "samples.jsonl")]


def read_pairs(folder: Path) -> list[ScoredPair]:
    """The held-out pairs; none where the folder holds completions alone."""
    return [ScoredPair(**row) for row in _rows_of(folder / "pairs.jsonl")]


def read_reverse(folder: Path) -> list[ReverseKL]:
    """KL(base || policy) of the base's completions; none where the folder holds the policy's alone."""
    return [ReverseKL(**row) for row in _rows_of(folder / "reverse.jsonl")]


def _rows_of(file: Path) -> list[dict[str, Any]]:
    return read_rows(file) if file.exists() else []
