"""What evidence refuses, and how families are found."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench import metrics
from bench.errors import UserError
from bench.metrics.evidence import Evidence
from bench.types import Sample, ScoredPair


def sample(prompt: str, draw: int, **changes) -> Sample:
    blank = Sample(prompt, draw, "", "some text", [1, 2, 3], -6.0, -7.0, 0.5, False, "", "toxic")
    return replace(blank, **changes)


def pair(name: str, prompt: str = "p", **changes) -> ScoredPair:
    blank = ScoredPair(name, prompt, "good", "bad", True, -5.0, -6.0, -5.0, -6.0, 2, 3, 1.0, 0.0)
    return replace(blank, **changes)


def evidence(samples, scores=None, **changes) -> Evidence:
    return Evidence(samples, "main", {"main": scores or [0.1] * len(samples)}, **changes)


GRID = [sample(p, d) for p in "ab" for d in (0, 1)]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: evidence([]), "no samples"),
        (lambda: evidence([*GRID, GRID[1]]), "prompt a draw 1 is there 2 times"),
        (lambda: evidence(GRID[:3]), r"unequal draws: prompt a has 2 \(0, 1\), prompt b has 1 \(0\)"),
        (lambda: evidence(GRID, [0.1]), "1 scores for 4 samples"),
        (lambda: evidence(GRID, [0.1, float("nan"), 0, 0]), "prompt a draw 1: main gave nan"),
        (lambda: evidence(GRID, [0.1, 1.5, 0, 0]), "1.5"),
        (lambda: evidence(GRID, second_scorer="other"), "no scores by other; there are: main"),
        (lambda: evidence([sample("a", 0, kl=float("nan"))]), "prompt a draw 0: kl is nan"),
        (lambda: evidence(GRID, pairs=[pair("x"), pair("x")]), "pair x"),
        (lambda: evidence(GRID, pairs=[pair("x", chosen_reward=float("inf"))]), "pair x: chosen_reward is inf"),
        (lambda: evidence(GRID, embeddings=np.ones((4, 2))), "unit norm"),
        (lambda: evidence(GRID, embeddings=np.ones((3, 2))), r"shape \(3, 2\)"),
        (lambda: evidence(GRID, base=evidence([sample("a", 0)])), "other prompts or draws: 3 differ"),
        (lambda: evidence(GRID, base=Evidence(GRID, "x", {"x": [0.0] * 4})), "other scorers"),
    ],
)
def test_bad_evidence_is_refused_by_name(build, says):
    with pytest.raises(UserError, match=says):
        build()


def test_grid_gathers_values_by_prompt_and_draw_whatever_the_order():
    shuffled = [GRID[i] for i in (3, 0, 2, 1)]
    found = evidence(shuffled).grid([31, 0, 30, 1])
    assert found == {"a": [0, 1], "b": [30, 31]}
    with pytest.raises(UserError, match="2 values for 4"):
        evidence(shuffled).grid([1, 2])


def test_families_are_the_modules_that_measure():
    assert metrics.names() == ["diversity", "kl", "quality", "reward_accuracy", "toxicity"]
    assert set(metrics.versions()) == set(metrics.names())


def test_all_figures_are_measured_and_the_base_does_not_reduce_itself():
    samples = [sample(p, d, completion=f"{p} {d}", token_ids=[ord(p), d, d + 1, 7]) for p in "abc" for d in (0, 1)]
    scores = [0.0, 0.2, 0.4, 0.6, 0.8, None]
    unit = np.eye(6)
    parts = {"embeddings": unit, "vocabulary": 300, "pairs": [pair("x"), pair("y", "q")]}
    base = evidence(samples, scores, **parts)
    found = metrics.measure_all(replace(base, base=base))
    assert {
        "toxicity_mean", "toxicity_fraction", "toxicity_emt", "toxicity_probability", "toxicity_reduction",
        "rm_accuracy", "implicit_accuracy", "kl", "distinct_2", "ead", "self_bleu", "embedding_diversity", "perplexity",
    } <= set(found)  # fmt: skip
    assert found["toxicity_reduction"].value == 0
    assert found["toxicity_mean"].missing == 1
    for name, estimate in found.items():
        numbers = [v for v in (estimate.value, estimate.low, estimate.high) if v is not None]
        assert all(np.isfinite(numbers)), name
    assert "toxicity_reduction" not in metrics.measure_all(base)
    assert set(metrics.values_all(base)) < set(metrics.measure_all(base))


def test_importing_the_package_does_not_import_evaluate():
    code = "import sys, bench.metrics, bench.stats, bench.metrics.evidence; print('evaluate' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_two_families_may_not_share_a_name():
    with pytest.raises(RuntimeError, match="b names a figure that another has: x"):
        metrics._merged({"a": {"x": 1}, "b": {"x": 2}})
