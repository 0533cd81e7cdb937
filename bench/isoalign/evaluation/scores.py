"""What other models say of the samples: evaluation scorers, sentence encoder, reward model. From here on it is arithmetic."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from isoalign.config.task import EvaluationConfig, ModelConfig
from isoalign.core.batches import Rollouts
from isoalign.core.records import Rewards, Sample, ScoredPair
from isoalign.core.runtime import device
from isoalign.data.assets import ASSETS
from isoalign.data.preferences import Feedback
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.evaluation import samples as sample
from isoalign.models import scorers
from isoalign.models.language import LanguageModel

if TYPE_CHECKING:
    from isoalign.evaluation.metrics.evidence import Evidence

VERSION = 1
ROWS = 64  # of a pass of the reward model


def assets_of(config: EvaluationConfig) -> list[str]:
    """Digests of the models that read; of a hub model, its commit."""
    names = (config.scorer, config.second_scorer, "minilm")
    return [ASSETS[name].sha256 if name in ASSETS else scorers.scorer_identity(name) for name in names]


@dataclass(frozen=True)
class Rewarder:
    """The reward model that looks at the samples: the one that the method trained on, or the annotator's.

    ``held_out`` and ``validation``: verdicts that it never learned from; no ``validation`` where that split is judged.
    """

    by: str
    optimised: bool
    model: Any
    held_out: Feedback
    validation: Feedback | None


def make(
    work: Path, samples: Path, config: EvaluationConfig, base: LanguageModel, model: ModelConfig, rewarder: Rewarder | None
) -> None:
    """Write ``scores.json`` (of samples and pairs, by scorer), ``embeddings.npy`` and ``rewards.json``."""
    import numpy as np

    from isoalign.models.embed import embed

    drawn, pairs = sample.read_samples(samples), sample.read_pairs(samples)
    texts = [row.completion for row in drawn]
    (work / "scores.json").write_text(json.dumps(_given(samples) or _scores(texts, config)))
    (work / "pair_scores.json").write_text(json.dumps(_pair_scores(pairs, config)))
    np.save(work / "embeddings.npy", embed(texts, device=device()).cpu().numpy().astype(np.float16))
    if rewarder:
        (work / "rewards.json").write_text(json.dumps(asdict(_rewards(rewarder, drawn, bool(pairs), base, model))))
    source = {"samples": samples.name, "scorer": config.scorer, "second_scorer": config.second_scorer}
    (work / "source.json").write_text(json.dumps(source | {"vocabulary": base.vocabulary}))


def _scores(texts: list[str], config: EvaluationConfig) -> dict[str, list[float | None]]:
    from isoalign.models.scorers import load_scorer

    return {name: load_scorer(name, device())(texts) for name in (config.scorer, config.second_scorer)}


def _pair_scores(pairs: Sequence[ScoredPair], config: EvaluationConfig) -> dict[str, list[list[float | None]]]:
    count = len(pairs)
    if not count:
        return {}
    found = _scores([p.chosen for p in pairs] + [p.rejected for p in pairs], config)
    return {name: [list(both) for both in zip(s[:count], s[count:], strict=True)] for name, s in found.items()}


def _given(samples: Path) -> dict[str, list[float | None]] | None:
    """Scores that came with completions made elsewhere."""
    file = samples / "scores.json"
    return json.loads(file.read_text()) if file.exists() else None


def _rewards(rewarder: Rewarder, drawn: Sequence[Sample], paired: bool, base: LanguageModel, model: ModelConfig) -> Rewards:
    pad = int(base.tokenizer.pad_token_id)
    kept = [s.token_ids or [int(base.tokenizer.eos_token_id)] for s in drawn]  # an empty answer is its end
    own = as_rollouts(sample.prompt_ids(base, drawn, model), kept, pad)

    def both(feedback: Feedback | None) -> list[tuple[float, float]]:
        if feedback is None or not paired:
            return []
        chosen, rejected = (rewards_of(rewarder.model, batch) for batch in sample.sides(feedback, pad).values())
        return list(zip(chosen, rejected, strict=True))

    return Rewards(
        by=rewarder.by,
        optimised=rewarder.optimised,
        samples=rewards_of(rewarder.model, own),
        pairs=both(rewarder.held_out),
        validation=both(rewarder.validation),
    )


def rewards_of(model: Any, batch: Rollouts) -> list[float]:
    """A reward for each row, to five digits."""
    parts = [model(batch[slice(start, start + ROWS)]) for start in range(0, len(batch), ROWS)]
    return [round(value, 5) for value in torch.cat(parts).tolist()]


def evidence(
    folder: Path, base: Path | None = None, prompts: Collection[str] | None = None, draws: int | None = None
) -> Evidence:
    """What the metrics may see of a run: its readings, its samples, and the same of the SFT row; neighbours in the store.

    ``prompts`` and ``draws`` cut the run and its base down to those of a curve's points.
    """
    import numpy as np

    from isoalign.evaluation.metrics.evidence import Evidence

    def cut(whole: Evidence) -> Evidence:
        return whole if prompts is None or draws is None else whole.only(prompts, draws)

    source = json.loads((folder / "source.json").read_text())
    samples = folder.parent / source["samples"]
    rewards = folder / "rewards.json"
    own = Evidence(
        samples=sample.read_samples(samples),
        pairs=sample.read_pairs(samples),
        reverse=sample.read_reverse(samples),
        scores=json.loads((folder / "scores.json").read_text()),
        pair_scores=_tuples(json.loads((folder / "pair_scores.json").read_text())),
        rewards=_read_rewards(json.loads(rewards.read_text())) if rewards.exists() else None,
        embeddings=np.load(folder / "embeddings.npy").astype(np.float32),
        main_scorer=source["scorer"],
        second_scorer=source["second_scorer"],
        vocabulary=source["vocabulary"],
    )
    return replace(cut(own), base=cut(evidence(base)) if base else None)


def _read_rewards(row: dict[str, Any]) -> Rewards:
    return Rewards(**row | {side: [tuple(both) for both in row[side]] for side in ("pairs", "validation")})


def _tuples(columns: dict[str, list[list[float | None]]]) -> dict[str, list[tuple[float | None, float | None]]]:
    return {name: [(a, b) for a, b in column] for name, column in columns.items()}
