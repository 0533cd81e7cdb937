"""What no policy changes is evaluated once: later runs take it from the SFT base's samples and scores, and get the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoalign.config.evaluation import EvaluationConfig
from isoalign.config.task import ModelConfig
from isoalign.core.jsonl import write_rows
from isoalign.core.records import Sample
from isoalign.data.preferences import Feedback
from isoalign.data.prompts import Prompt
from isoalign.evaluation import samples, scores
from isoalign.models.language import LanguageModel
from workbench import Bench, make_feedback

CHOSEN = [Prompt(name, f"you are {name}", "here", "clean") for name in ("kind", "late", "loud")]
MODEL = ModelConfig("tiny", prompt_tokens=6, new_tokens=5)


def verdicts(source: str = "annotator") -> Feedback:
    """Four verdicts with all that a pairs stage says of them."""
    feedback = make_feedback(source, [3, 5, 2, 4], [2, 5, 1, 3])
    rows = [
        {"pair_id": str(i), "prompt_id": f"p{i // 2}", "chosen": f"good {i}", "rejected": f"bad idiot {i}", "clean": True}
        for i in range(4)
    ]
    return replace(feedback, rows=rows)


def moved(bench: Bench) -> LanguageModel:
    """A policy that differs from its base."""
    policy, generator = bench.language_model(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.inner.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def pairs_of(work: Path, policy: LanguageModel, base: LanguageModel, known: list[Any]) -> list[Any]:
    work.mkdir()
    samples.make_pairs_and_reverse_kl(work, policy, base, MODEL, verdicts(), [], CHOSEN, known)
    return samples.read_pairs(work)


def test_pairs_that_the_base_has_read_get_the_figures_of_reading_them_again(tiny_bench: Bench, tmp_path: Path) -> None:
    base, policy = tiny_bench.language_model(), moved(tiny_bench)
    of_base = pairs_of(tmp_path / "base", base, base, [])
    again = pairs_of(tmp_path / "again", policy, base, [])
    kept = pairs_of(tmp_path / "kept", policy, base, of_base[::-1])  # matched by name, not by place
    assert [replace(pair, chosen_logp=0, rejected_logp=0, chosen_base_logp=0, rejected_base_logp=0) for pair in kept] == [
        replace(pair, chosen_logp=0, rejected_logp=0, chosen_base_logp=0, rejected_base_logp=0) for pair in again
    ]
    for name in ("chosen_logp", "rejected_logp", "chosen_base_logp", "rejected_base_logp"):
        assert [getattr(p, name) for p in kept] == pytest.approx([getattr(p, name) for p in again], abs=3e-5)
    assert all(abs(pair.chosen_logp - pair.chosen_base_logp) > 0.01 for pair in kept)


def test_pairs_of_other_verdicts_are_not_taken(tiny_bench: Bench, tmp_path: Path) -> None:
    base = tiny_bench.language_model()
    others = [replace(pair, pair_id=f"other {pair.pair_id}") for pair in pairs_of(tmp_path / "base", base, base, [])]
    with pytest.raises(KeyError):
        pairs_of(tmp_path / "kept", base, base, others)


def drawn(folder: Path, name: str, answers: list[str], base: LanguageModel) -> Path:
    """A samples stage with one answer a prompt and the base's pairs."""
    work = folder / f"samples-{name}"
    work.mkdir()
    rows = [
        Sample(prompt.id, 0, prompt.text, text, base.tokenizer(text)["input_ids"][:5], -1.0, -1.0, 0.0, True)
        for prompt, text in zip(CHOSEN, answers, strict=True)
    ]
    write_rows(work / "samples.jsonl", map(vars, rows))
    samples.make_pairs_and_reverse_kl(work, base, base, MODEL, verdicts(), [], CHOSEN)
    return work


def scored(work: Path, of: Path, base: LanguageModel, sign: float = 1.0, **known: Any) -> Any:
    """Scores by the embedded scorers and a reward of ``sign`` times the number of tokens, as metrics read them."""
    work.mkdir()
    rewarder = scores.Rewarder(
        "annotator", False, lambda batch: sign * batch.completion_mask.sum(1).float(), verdicts(), verdicts("judge")
    )
    scores.make_scores(work, of, EvaluationConfig(), base, MODEL, rewarder, chosen=CHOSEN, **known)
    return scores.read_scored_samples(work)


def test_scores_that_others_hold_are_those_of_computing_them(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_bench.language_model()
    of_base = drawn(tmp_path, "base", ["yes", "no thanks", "go away"], base)
    own = drawn(tmp_path, "own", ["you fool", "of course", "well"], base)
    first = scored(tmp_path / "first", of_base, base)
    whole = scored(tmp_path / "whole", own, base)
    kept = scored(tmp_path / "kept", own, base, same_pairs=tmp_path / "first")
    assert (kept.rewards, kept.pair_scores, kept.scores) == (whole.rewards, whole.pair_scores, whole.scores)
    assert kept.rewards.pairs == first.rewards.pairs
    assert kept.rewards.samples != first.rewards.samples
    np.testing.assert_array_equal(kept.embeddings, whole.embeddings)

    monkeypatch.setattr(scores, "embed", None)  # texts are not read again for another reward model
    other = scored(tmp_path / "other", own, base, sign=-1.0, same_texts=tmp_path / "whole")
    assert (other.scores, other.pair_scores) == (whole.scores, whole.pair_scores)
    np.testing.assert_array_equal(other.embeddings, whole.embeddings)
    assert other.rewards.pairs == [(-a, -b) for a, b in whole.rewards.pairs]  # but rewards are its own
    assert other.rewards.samples == [-value for value in whole.rewards.samples]
    assert scored(tmp_path / "curve", own, base, embeds=False).embeddings is None
    assert json.loads((tmp_path / "curve" / "scores.json").read_text()) == whole.scores
