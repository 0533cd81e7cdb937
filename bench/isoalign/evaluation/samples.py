"""Evaluation completions, and every quantity that needs the policy's weights. Metrics do not use the policy itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoalign.config.task import ModelConfig
from isoalign.core import world
from isoalign.core.batches import Rollouts, completion_lengths
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.core.memory import by_rows
from isoalign.core.records import ReverseKL, Sample, ScoredPair
from isoalign.core.sharing import spread
from isoalign.data.preferences import Feedback
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.data.prompts import Prompt
from isoalign.models.decoding import Sampled
from isoalign.models.kl import compare
from isoalign.models.language import LanguageModel
from isoalign.stages.completions import completion_ids
from isoalign.stages.cutting import encode_prompts

VERSION = 2
ROWS = 16  # prompts sampled together, at least; where they have few draws, as many as give TOGETHER samples
TOGETHER = 256


def make_samples(
    work: Path, policy: LanguageModel, base: LanguageModel, model: ModelConfig, chosen: Sequence[Prompt], draws: int, seed: int
) -> None:
    """Write ``samples.jsonl``: ``draws`` completions per prompt, with their log-probabilities, KL and entropy."""
    prompts = max(ROWS, TOGETHER // draws)

    def draw(start: int) -> list[Sample]:
        part = chosen[start : start + prompts]
        encoded = encode_prompts(policy.tokenizer, part, model)
        uniforms = [_uniforms(p.id, d, seed, model.new_tokens) for p in part for d in range(draws)]
        drawn = policy.sample(encoded, torch.stack(uniforms))
        return sample_rows(part, drawn.rollouts, policy, base, draws, drawn.states)

    samples = [sample for part in spread(range(0, len(chosen), prompts), draw, "samples") for sample in part]
    if not world.rank():
        write_rows(work / "samples.jsonl", map(asdict, samples))


def make_pairs_and_reverse_kl(
    work: Path,
    policy: LanguageModel,
    base: LanguageModel,
    model: ModelConfig,
    feedback: Feedback,
    base_samples: Sequence[Sample],
    chosen: Sequence[Prompt],
    base_pairs: Sequence[ScoredPair] = (),
) -> None:
    """Write ``pairs.jsonl``, the held-out pairs with their log-probabilities under both models, and ``reverse.jsonl``,
    KL(base || policy) of ``base_samples``: the base's first completion of each of the prompts ``chosen``, the same for all
    methods. ``base_pairs``: the same pairs with their log-probabilities under the base; where they are given only the policy
    reads them."""

    def reverse(start: int) -> list[ReverseKL]:
        part = base_samples[start : start + 2 * ROWS]
        batch = as_rollouts(
            prompt_ids(policy, part, model, chosen), [s.token_ids for s in part], int(policy.tokenizer.pad_token_id)
        )
        _, _, kl, _ = score_rollouts(batch, base, policy)
        return [ReverseKL(s.prompt_id, s.draw, value) for s, value in zip(part, kl, strict=True)]

    parts = spread(range(0, len(base_samples), 2 * ROWS), reverse, "reverse KL")
    if world.rank():
        return
    write_rows(work / "reverse.jsonl", (asdict(row) for part in parts for row in part))
    pairs = _policy_pairs(feedback, policy, base_pairs) if base_pairs else _scored_pairs(feedback, policy, base)
    write_rows(work / "pairs.jsonl", map(asdict, pairs))


def prompt_ids(
    model: LanguageModel, samples: Sequence[Sample], config: ModelConfig, chosen: Sequence[Prompt]
) -> list[list[int]]:
    """The prompts of samples, which are of those ``chosen``, as token ids that the model reads."""
    wanted = {s.prompt_id for s in samples}
    asked = [prompt for prompt in chosen if prompt.id in wanted]
    encoded = encode_prompts(model.tokenizer, asked, config)
    rows = zip(asked, encoded.tokens, encoded.mask, strict=True)
    ids = {prompt.id: tokens[mask].tolist() for prompt, tokens, mask in rows}
    return [ids[s.prompt_id] for s in samples]


def _uniforms(prompt: str, draw: int, seed: int, steps: int) -> Tensor:
    """The random numbers of one completion. They depend on prompt, draw and seed only, so that all methods share them."""
    digest = hashlib.sha256(f"{seed}/{prompt}/{draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(steps, generator=generator)


def sample_rows(
    part: Sequence[Prompt],
    drawn: Rollouts,
    policy: LanguageModel,
    base: LanguageModel,
    draws: int,
    states: Tensor | None = None,
) -> list[Sample]:
    """The samples of completions [B x draws] of ``part``, B prompts. ``states``: those with which the policy sampled them."""
    logp, base_logp, kl, entropy = score_rollouts(drawn, policy, base, states)
    texts, ids = policy.decode(drawn), completion_ids(drawn)
    ends = policy.end_ids.tolist()
    return [
        Sample(
            prompt.id, draw, prompt.text, texts[row], ids[row], logp[row], base_logp[row], kl[row],
            bool(ids[row]) and ids[row][-1] in ends, prompt.source, prompt.stratum, entropy[row],
        )
        for place, prompt in enumerate(part)
        for draw in range(draws)
        for row in [place * draws + draw]
    ]  # fmt: skip


def score_rollouts(
    drawn: Rollouts, policy: LanguageModel, base: LanguageModel, states: Tensor | None = None
) -> tuple[list[float], ...]:
    """Log-probabilities under policy and base, exact KL(policy || base) and the policy's entropy, each summed over the
    completion; four lists [B]. ``states``: those with which the policy sampled them.

    The policy reads its samples again where it would otherwise differ from a base by rounding alone: where it is the base, and
    in less than float32.
    """
    exact = policy is not base and policy.precision == "float32" and policy.dtype == torch.float32
    parts = (
        by_rows(lambda part: compare(policy, base, part), drawn, policy.rows)
        if states is None or not exact
        else by_rows(lambda part: compare(policy, base, part.rollouts, part.states), Sampled(drawn, states), policy.rows)
    )
    return tuple(
        [round(value, 5) for part in parts for value in getattr(part, column).sum(1).tolist()]
        for column in ("logp", "base_logp", "kl", "entropy")
    )


def _scored_pairs(feedback: Feedback, policy: LanguageModel, base: LanguageModel) -> list[ScoredPair]:
    columns: dict[str, list[float]] = {}
    for side, batch in chosen_and_rejected(feedback, int(policy.tokenizer.pad_token_id)).items():
        columns[f"{side}_logp"], columns[f"{side}_base_logp"], *_ = score_rollouts(batch, policy, base)
        columns[f"{side}_length"] = completion_lengths(batch)  # type: ignore[assignment]
    return [
        ScoredPair(
            pair_id=row["pair_id"], prompt_id=row["prompt_id"], chosen=row["chosen"], rejected=row["rejected"],
            clean=row["clean"], **{name: column[place] for name, column in columns.items()},  # type: ignore[arg-type]
        )
        for place, row in enumerate(feedback.rows)
    ]  # fmt: skip


def _policy_pairs(feedback: Feedback, policy: LanguageModel, base_pairs: Sequence[ScoredPair]) -> list[ScoredPair]:
    """The pairs that the base has read, in the order of the verdicts, with the policy's log-probabilities."""
    read = {pair.pair_id: pair for pair in base_pairs}
    chosen, rejected = (
        completion_logp(policy, batch) for batch in chosen_and_rejected(feedback, int(policy.tokenizer.pad_token_id)).values()
    )
    return [
        replace(read[row["pair_id"]], chosen_logp=good, rejected_logp=bad)
        for row, good, bad in zip(feedback.rows, chosen, rejected, strict=True)
    ]


@torch.no_grad()
def completion_logp(model: LanguageModel, batch: Rollouts) -> list[float]:
    """The log-probability of each completion, rounded to five decimals."""
    parts = by_rows(lambda part: model(part).logp.sum(1), batch, model.rows)
    return [round(value, 5) for value in torch.cat(parts).tolist()]


def chosen_and_rejected(feedback: Feedback, pad: int) -> dict[str, Rollouts]:
    """All chosen and all rejected answers, as ``chosen`` and ``rejected``."""
    return {
        "chosen": as_rollouts(feedback.prompts, feedback.chosen, pad),
        "rejected": as_rollouts(feedback.prompts, feedback.rejected, pad),
    }


def read_samples(folder: Path) -> list[Sample]:
    """The evaluation completions of a folder."""
    return [Sample(**row) for row in read_rows(folder / "samples.jsonl")]


def read_pairs(folder: Path) -> list[ScoredPair]:
    """The held-out pairs of a folder; empty if it has none."""
    return [ScoredPair(**row) for row in _read_existing(folder / "pairs.jsonl")]


def read_reverse(folder: Path) -> list[ReverseKL]:
    """KL(base || policy) of the base's completions; empty if the folder has none."""
    return [ReverseKL(**row) for row in _read_existing(folder / "reverse.jsonl")]


def _read_existing(file: Path) -> list[dict[str, Any]]:
    return read_rows(file) if file.exists() else []
