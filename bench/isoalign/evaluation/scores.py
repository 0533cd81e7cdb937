"""Scores of the samples by other models: evaluation scorers, sentence encoder, reward model. Metrics need no model after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoalign.config.evaluation import WIN_RATE, EvaluationConfig
from isoalign.config.task import ModelConfig
from isoalign.core import plugins
from isoalign.core.batches import Rollouts
from isoalign.core.devices import device
from isoalign.core.memory import by_rows
from isoalign.core.objective import TOXICITY, Objective, objective_recipe, read_objective
from isoalign.core.records import Contest, Rewards, Sample, ScoredPair
from isoalign.core.store import digest
from isoalign.data.assets import ASSETS
from isoalign.data.formats import Turns
from isoalign.data.preferences import Feedback
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.data.prompts import Prompt, as_text
from isoalign.evaluation import samples as sample
from isoalign.evaluation.metrics import ScoredSamples
from isoalign.models.answer_scorers import identity, load_answer_scorer
from isoalign.models.embed import embed
from isoalign.models.known_reward import Asked
from isoalign.models.language import LanguageModel
from isoalign.models.scorers import REWARD
from isoalign.models.tokens import closing_id

VERSION = 1
ROWS = 64  # in one pass of the reward model
SCORES, PAIR_SCORES, REWARDS, EMBEDDINGS = "scores.json", "pair_scores.json", "rewards.json", "embeddings.npy"
LONGER = "longer.json"  # of how many completions each scorer reads a part only, if there are any


def model_digests(config: EvaluationConfig) -> list[str]:
    """Digests of scorers and sentence encoder; for a hub model, its commit."""
    names = (*_models(config), "minilm")
    return [ASSETS[name].sha256 if name in ASSETS else identity(name) for name in names]


def weights_digest(config: EvaluationConfig) -> str:
    """A digest of the scorers that a folder, a hub or a package brings, which may be others under the same name; empty for
    those that come with isoalign."""
    named = (config.scorer, config.second_scorer)
    brought = [name for name in named if name.startswith(("hf:", REWARD)) or name in plugins.entry_points("scorers")]
    return digest(list(map(identity, brought)))[:8] if brought else ""


@dataclass(frozen=True)
class Rewarder:
    """The reward model that scores the samples: the one that the method trained on, or the annotator's.

    ``held_out`` and ``validation``: verdicts that it was not trained on; ``validation`` is None if that split is evaluated.
    ``known``: it is the objective itself.
    """

    by: str
    optimised: bool
    model: Any
    held_out: Feedback
    validation: Feedback | None
    known: bool = False


def make_scores(
    work: Path,
    samples: Path,
    config: EvaluationConfig,
    base: LanguageModel,
    model: ModelConfig,
    rewarder: Rewarder | None,
    objective: Objective = TOXICITY,
    chosen: Sequence[Prompt] = (),
    contests: Sequence[Contest] = (),
    turns: Callable[[Sequence[int]], Turns] | None = None,
    same_texts: Path | None = None,
    same_pairs: Path | None = None,
    embeds: bool = True,
) -> None:
    """Write ``scores.json`` and ``pair_scores.json`` (by scorer), ``embeddings.npy`` and ``rewards.json``.

    ``contests``: of all samples, where the task ranks by its win rate. Scorers get conversations as turns: of the prompts
    ``chosen``, and by ``turns`` of the tokens of the held-out pairs. ``same_texts``: scores of the same samples with another
    reward model, ``same_pairs``: of other samples with the same reward model and held-out pairs; what they hold is copied.
    Without ``embeds`` there are no embeddings.
    """
    drawn, pairs = sample.read_samples(samples), sample.read_pairs(samples)
    reads_prompts = any(load_answer_scorer(name, device()).reads_prompts for name in _models(config))
    asked = _asked(rewarder, base, turns if reads_prompts else None)
    asked |= {row.prompt_id: Asked(row.prompt) for row in drawn}
    asked |= {prompt.id: Asked(prompt.text, prompt.reference, prompt.turns) for prompt in chosen}
    _make_text_scores(work, drawn, asked, config, _external_scores(samples), contests, same_texts, embeds)
    if pairs_of := same_pairs or same_texts:
        shutil.copy(pairs_of / PAIR_SCORES, work)
    else:
        (work / PAIR_SCORES).write_text(json.dumps(_pair_scores(pairs, asked, config)))
    if rewarder:
        rewards = _make_rewards(rewarder, drawn, bool(pairs), base, model, chosen, same_pairs)
        (work / REWARDS).write_text(json.dumps(asdict(rewards)))
    source = {"samples": samples.name, "scorer": config.scorer, "second_scorer": config.second_scorer}
    known = {"known_reward": True} if rewarder and rewarder.known else {}
    source |= {"vocabulary": base.vocabulary} | objective_recipe(objective) | known
    (work / "source.json").write_text(json.dumps(source))


def _make_text_scores(
    work: Path,
    drawn: Sequence[Sample],
    asked: Mapping[str, Asked],
    config: EvaluationConfig,
    external: dict[str, list[float | None]] | None,
    contests: Sequence[Contest],
    same: Path | None,
    embeds: bool,
) -> None:
    """Write what depends on the texts and not on the reward model."""
    if same:
        for name in (SCORES, EMBEDDINGS, *([LONGER] if (same / LONGER).exists() else [])):
            shutil.copy(same / name, work)
        return
    texts = [row.completion for row in drawn]
    scored = external or _scorer_outputs([asked[row.prompt_id] for row in drawn], texts, config)
    longer = {} if external else {name: load_answer_scorer(name, device()).count_longer(texts) for name in _models(config)}
    if any(longer.values()):
        (work / LONGER).write_text(json.dumps(longer))
    if config.scorer == WIN_RATE:
        wins = {(contest.prompt_id, contest.draw): contest.win for contest in contests}
        scored |= {WIN_RATE: [wins[row.prompt_id, row.draw] for row in drawn]}
    (work / SCORES).write_text(json.dumps(scored))
    if embeds:
        np.save(work / EMBEDDINGS, embed(texts, device=device()).cpu().numpy().astype(np.float16))


def _models(config: EvaluationConfig) -> list[str]:
    """The scorers that score single answers."""
    return [name for name in (config.scorer, config.second_scorer) if name != WIN_RATE]


def _scorer_outputs(asked: list[Asked], texts: list[str], config: EvaluationConfig) -> dict[str, list[float | None]]:
    prompts, references = [each.prompt for each in asked], [each.reference for each in asked]
    return {name: load_answer_scorer(name, device())(prompts, texts, references) for name in _models(config)}


def _asked(rewarder: Rewarder | None, base: LanguageModel, turns: Callable[[Sequence[int]], Turns] | None) -> dict[str, Asked]:
    """Each prompt of the held-out pairs."""
    if rewarder is None:
        return {}
    feedback = rewarder.held_out
    tokens = dict(zip([row["prompt_id"] for row in feedback.rows], feedback.prompts, strict=True))
    if turns:
        return {name: Asked(as_text(said), turns=said) for name, ids in tokens.items() for said in [turns(ids)]}
    return {name: Asked(str(base.tokenizer.decode(ids, skip_special_tokens=True))) for name, ids in tokens.items()}


def _pair_scores(
    pairs: Sequence[ScoredPair], asked: Mapping[str, Asked], config: EvaluationConfig
) -> dict[str, list[list[float | None]]]:
    count = len(pairs)
    if not count:
        return {}
    prompts = [asked.get(p.prompt_id, Asked("")) for p in pairs]
    outputs = _scorer_outputs(prompts * 2, [p.chosen for p in pairs] + [p.rejected for p in pairs], config)
    outputs |= {WIN_RATE: [None] * (2 * count)} if config.scorer == WIN_RATE else {}  # a pair's answers met no opponent
    return {name: [list(both) for both in zip(s[:count], s[count:], strict=True)] for name, s in outputs.items()}


def _external_scores(samples: Path) -> dict[str, list[float | None]] | None:
    """The scores that external samples came with, if any."""
    file = samples / SCORES
    return json.loads(file.read_text()) if file.exists() else None


def _make_rewards(
    rewarder: Rewarder,
    drawn: Sequence[Sample],
    paired: bool,
    base: LanguageModel,
    model: ModelConfig,
    chosen: Sequence[Prompt],
    same_pairs: Path | None,
) -> Rewards:
    pad = int(base.tokenizer.pad_token_id)
    answers = [s.token_ids or [closing_id(base.tokenizer)] for s in drawn]  # an empty answer is its end token
    rollouts = as_rollouts(sample.prompt_ids(base, drawn, model, chosen), answers, pad)

    def both(feedback: Feedback | None) -> list[tuple[float, float]]:
        if feedback is None or not paired:
            return []
        chosen, rejected = (rewards_of(rewarder.model, batch) for batch in sample.chosen_and_rejected(feedback, pad).values())
        return list(zip(chosen, rejected, strict=True))

    samples = rewards_of(rewarder.model, rollouts)
    if same_pairs:
        return replace(_read_rewards(same_pairs), by=rewarder.by, optimised=rewarder.optimised, samples=samples)
    pairs, validation = both(rewarder.held_out), both(rewarder.validation)
    return Rewards(rewarder.by, rewarder.optimised, samples, pairs, validation)


def rewards_of(model: Any, batch: Rollouts) -> list[float]:
    """The reward of each row, rounded to five decimals."""
    return [round(value, 5) for value in torch.cat(by_rows(model, batch, ROWS)).tolist()]


def read_scored_samples(
    folder: Path, base: Path | None = None, prompts: Collection[str] | None = None, draws: int | None = None
) -> ScoredSamples:
    """The input of the metrics: samples and scores of a run, and those of the SFT base, from stages in the same store.

    ``prompts`` and ``draws``: restrict both to the prompts and samples of a curve's points.
    """

    def restrict(scored: ScoredSamples) -> ScoredSamples:
        return scored if prompts is None or draws is None else scored.subset(prompts, draws)

    source = json.loads((folder / "source.json").read_text())
    samples = folder.parent / source["samples"]
    own = ScoredSamples(
        samples=sample.read_samples(samples),
        pairs=sample.read_pairs(samples),
        reverse=sample.read_reverse(samples),
        scores=json.loads((folder / SCORES).read_text()),
        pair_scores=_tuples(json.loads((folder / PAIR_SCORES).read_text())),
        rewards=_read_rewards(folder) if (folder / REWARDS).exists() else None,
        embeddings=np.load(embeddings).astype(np.float32) if (embeddings := folder / EMBEDDINGS).exists() else None,
        main_scorer=source["scorer"],
        second_scorer=source["second_scorer"],
        vocabulary=source["vocabulary"],
        objective=read_objective(source.get("objective", {}), str(folder)),
        known_reward=source.get("known_reward", False),
    )
    return replace(restrict(own), base=restrict(read_scored_samples(base)) if base else None)


def _read_rewards(folder: Path) -> Rewards:
    row = json.loads((folder / REWARDS).read_text())
    return Rewards(**row | {side: [tuple(both) for both in row[side]] for side in ("pairs", "validation")})


def _tuples(columns: dict[str, list[list[float | None]]]) -> dict[str, list[tuple[float | None, float | None]]]:
    return {name: [(a, b) for a, b in column] for name, column in columns.items()}
