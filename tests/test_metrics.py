"""What scored samples refuse, how families are found, and what they declare."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from isoalign.core.errors import UserError
from isoalign.core.objective import Objective
from isoalign.core.records import Contest, Estimate, ReverseKL, Rewards, Sample, ScoredPair
from isoalign.evaluation import metrics
from isoalign.evaluation.metrics import Metric, ScoredSamples


def sample(prompt: str, draw: int, **changes) -> Sample:
    blank = Sample(prompt, draw, "", "some text", [1, 2, 3], -6.0, -7.0, 0.5, False, "", "toxic")
    return replace(blank, **changes)


def pair(name: str, prompt: str = "p", **changes) -> ScoredPair:
    blank = ScoredPair(name, prompt, "good", "bad", True, -5.0, -6.0, -5.0, -6.0, 2, 3)
    return replace(blank, **changes)


def scored(samples, scores=None, **changes) -> ScoredSamples:
    return ScoredSamples(samples, "main", {"main": scores or [0.1] * len(samples)}, **changes)


def paired(scores) -> ScoredSamples:
    return scored(GRID, pairs=[pair("x")], pair_scores=scores)


def rewarded(samples=(0, 0, 0, 0), pairs=((1.0, 0.0),), validation=()) -> ScoredSamples:
    rewards = Rewards("annotator", True, list(samples), list(pairs), list(validation))
    return scored(GRID, pairs=[pair("x")], rewards=rewards)


GRID = [sample(p, d) for p in "ab" for d in (0, 1)]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: scored([]), "no samples"),
        (lambda: scored([*GRID, GRID[1]]), "prompt a draw 1 occurs 2 times"),
        (lambda: scored(GRID[:3]), r"unequal draws: prompt a has 2 \(0, 1\), prompt b has 1 \(0\)"),
        (lambda: scored(GRID, [0.1]), "1 scores for 4 samples"),
        (lambda: scored(GRID, [0.1, float("nan"), 0, 0]), "prompt a draw 1: main gave nan"),
        (lambda: scored(GRID, [0.1, 1.5, 0, 0]), "1.5"),
        (lambda: scored(GRID, second_scorer="other"), "no scores by other; scorers: main"),
        (lambda: scored([sample("a", 0, kl=float("nan"))]), "prompt a draw 0: kl is nan"),
        (lambda: scored(GRID, pairs=[pair("x"), pair("x")]), "pair x"),
        (lambda: scored(GRID, pairs=[pair("x", chosen_logp=float("inf"))]), "pair x: chosen_logp is inf"),
        (lambda: scored([sample("a", 0, entropy=float("nan"))]), "prompt a draw 0: entropy is nan"),
        (lambda: scored(GRID, pairs=[pair("x")], pair_scores={"main": []}), "main scored 0 pairs of 1"),
        (lambda: paired({"main": [(0.1, float("nan"))]}), "pair x: main: value 1 is nan, which is not in"),
        (lambda: paired({"main": [(2.0, None)]}), "pair x: main: value 0 is 2.0"),
        (lambda: scored(GRID, rewards=Rewards("judge", True, [0.1])), "the judge's reward model are of other samples"),
        (lambda: rewarded(samples=[0.1, float("nan"), 0, 0]), "prompt a draw 1: reward is nan"),
        (lambda: rewarded(pairs=[(0.0, float("inf"))]), "pair x: reward is inf"),
        (lambda: rewarded(validation=[(0.0, 1.0), (float("nan"), 0.0)]), "validation pair 1: reward is nan"),
        (lambda: scored(GRID, reverse=[ReverseKL("a", 0, float("nan"))]), "prompt a draw 0: reverse KL is nan"),
        (lambda: scored(GRID, reverse=[ReverseKL("a", 0, 0.1)] * 2), "reverse KL of prompt a draw 0 occurs 2 times"),
        (lambda: scored(GRID, embeddings=np.ones((4, 2))), "unit norm"),
        (lambda: scored(GRID, embeddings=np.ones((3, 2))), r"shape \(3, 2\)"),
        (lambda: scored(GRID, base=scored([sample("a", 0)])), "other prompts or draws: 3 differ"),
        (lambda: scored(GRID, base=ScoredSamples(GRID, "x", {"x": [0.0] * 4})), "other scorers"),
    ],
)
def test_what_is_wrong_with_samples_is_refused_by_name(build, says):
    with pytest.raises(UserError, match=says):
        build()


def test_grid_gathers_values_by_prompt_and_draw_whatever_the_order():
    shuffled = [GRID[i] for i in (3, 0, 2, 1)]
    found = scored(shuffled).grid([31, 0, 30, 1])
    assert found == {"a": [0, 1], "b": [30, 31]}
    with pytest.raises(UserError, match="2 values for 4"):
        scored(shuffled).grid([1, 2])


def test_families_are_the_modules_that_measure():
    shared = ["calibration", "diversity", "kl", "quality", "reward_accuracy", "reward_health"]
    assert metrics.names() == sorted([*shared, "objective", "toxicity", "win_rate"])
    assert set(metrics.versions()) == {*shared, "toxicity"}, "the keys of toxicity tasks know no other objective"
    assert set(metrics.versions(Objective("sentiment"))) == {*shared, "objective"}
    assert set(metrics.versions(judged=True)) == {*shared, "toxicity", "win_rate"}


def test_all_figures_are_measured_and_the_base_does_not_reduce_itself():
    samples = [
        sample(p, d, completion=f"{p} {d}", token_ids=[ord(p), d, d + 1, 7], entropy=2.0) for p in "abc" for d in (0, 1)
    ]
    parts = {
        "embeddings": np.eye(6),
        "vocabulary": 300,
        "pairs": [pair("x"), pair("y", "q")],
        "pair_scores": {"main": [(0.1, 0.9), (0.8, 0.2)]},
        "rewards": Rewards("annotator", True, [1.0, 0.5, 0.4, 0.0, -1.0, 0.2], [(1, 0), (0, 1)], [(1, 0), (0, 1), (2, 0)]),
        "reverse": [ReverseKL(p, 0, 0.1) for p in "abc"],
    }
    base = scored(samples, [0.0, 0.2, 0.4, 0.6, 0.8, None], **parts)
    found = metrics.merged(metrics.measure_all(replace(base, base=base)))
    assert {
        "toxicity_mean", "toxicity_fraction", "toxicity_emt", "toxicity_probability", "toxicity_reduction",
        "rm_accuracy", "rm_agreement", "rm_accuracy_on_policy", "implicit_accuracy", "implicit_agreement", "rm_ece",
        "proxy_reward", "kl", "kl_reverse", "distinct_2", "distinct_2@common", "ead_across@common", "self_bleu",
        "embedding_diversity", "vendi", "token_entropy", "perplexity",
    } <= set(found)  # fmt: skip
    assert found["toxicity_reduction"].value == 0
    assert found["toxicity_mean"].missing == 1
    for name, estimate in found.items():
        numbers = [v for v in (estimate.value, estimate.low, estimate.high) if v is not None]
        assert all(np.isfinite(numbers)), name
    alone = metrics.merged(metrics.measure_all(base))
    assert "toxicity_reduction" not in alone
    assert set(metrics.values_all(base)) < set(alone)


def test_what_a_prompt_adds_averages_to_the_figure():
    rng = np.random.default_rng(0)
    samples = [sample(p, d, token_ids=rng.integers(0, 9, 6).tolist(), entropy=1.0) for p in "abcde" for d in (0, 1, 2)]
    unit = rng.normal(size=(15, 4))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rewards = Rewards("annotator", True, rng.normal(size=15).tolist())
    run = scored(samples, rng.random(15).tolist(), embeddings=unit, vocabulary=9, rewards=rewards)
    figures = metrics.merged(metrics.measure_all(run))
    for name, grid in metrics.values_all(run).items():
        assert list(grid) == list("abcde"), name
        known = [value for row in grid.values() for value in row if value is not None]
        assert figures[name].value == pytest.approx(np.mean(known) if known else None), name


def test_completions_without_policy_reward_model_or_pairs_are_measured_too():
    bare = [sample(p, d, logp=None, kl=None, entropy=None) for p in "abc" for d in (0, 1)]
    found = metrics.merged(metrics.measure_all(scored(bare)))
    assert {found[name].value for name in ("kl", "kl_k1", "kl_per_token", "token_entropy")} == {None}
    assert not [name for name in found if name.startswith(("rm_", "reward_", "proxy", "implicit", "ranking", "kl_reverse"))]


def test_flags_of_all_families_are_gathered_and_the_base_has_no_gate():
    nats = {"kl": Estimate(25.0, 24.0, 26.0, 9), "toxicity_reduction": Estimate(0.1, 0.0, 0.2, 9)}
    worse = nats | {name: Estimate(0.5, 0.5, 0.5, 9) for name in ("empty_rate", "duplicate_rate")}
    base = {name: Estimate(0.0, 0.0, 0.0, 9) for name in ("empty_rate", "duplicate_rate")}
    said = metrics.flags_all(worse, base)
    assert [(flag.kind, flag.text.split(":")[0]) for flag in said] == [
        ("warning", "mode collapse"),
        ("warning", "has left the base"),
        ("gate", "empty_rate 50.0% is over 5 points above the SFT's 0.0%"),
    ]
    assert metrics.flags_all(base, None) == []


def test_all_families_load_neither_torch_nor_evaluate():
    code = "import sys; from isoalign.evaluation import metrics; metrics.families(); metrics.declared(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "isoalign.evaluation.metrics.toxicity" in loaded
    assert not loaded & {"torch", "evaluate", "datasets", "pandas", "scipy.stats", "isoalign.evaluation.evaluate_modules"}


def test_every_metric_that_is_measured_is_declared_once_with_values_within_its_bounds():
    """Variants, `@k` and `/stratum`, are read as the metric that they vary."""
    samples = [sample(p, d, completion=f"{p} {d}", token_ids=[ord(p), d, 7], entropy=2.0, finished=d > 0, source="s")
               for p in "abcd" for d in (0, 1, 2)]  # fmt: skip
    parts = {
        "embeddings": np.eye(12), "vocabulary": 300, "pairs": [pair("x"), pair("y", "q")],
        "pair_scores": {"main": [(0.1, 0.9), (0.8, 0.2)]}, "reverse": [ReverseKL(p, 0, 0.1) for p in "abcd"],
        "rewards": Rewards("annotator", True, [0.5] * 12, [(1, 0), (0, 1)], [(1, 0), (0, 1), (2, 0)]),
        "scores": {"main": [0.1, 0.6, 0.3] * 4, "second": [0.2, 0.5, 0.9] * 4}, "second_scorer": "second",
        "contests": [Contest(p, 0, 0.9, 0.2, length, 5, tokens=8) for p, length in zip("abcd", (3, 5, 8, 9), strict=True)],
    }  # fmt: skip
    run = ScoredSamples(samples, "main", **parts)
    declared = metrics.declared()
    everything = [metric for module in metrics.own_families().values() for metric in module.METRICS]
    assert len(everything) == len(declared), "two metrics of one name"
    measured = metrics.merged(metrics.measure_all(replace(run, base=run)))
    other = replace(run, objective=Objective("sentiment", True))
    measured |= metrics.merged(metrics.measure_all(replace(other, base=other)))
    measured |= metrics.merged(metrics.measure_all(replace(other, known_reward=True)))
    draws = [sample(p, d) for p in "ab" for d in range(64)]
    rule = ScoredSamples(draws, "main", {"main": [float(d % 3 == 0) for d in range(128)]}, objective=Objective("rule", True))
    measured |= metrics.merged(metrics.measure_all(rule, ["objective"]))
    bare = {name.partition("@")[0].partition("/")[0] for name in measured}
    assert bare - declared.keys() == {"common_length", "common_length_short", "ead_vocabulary"}, "settings, no metrics"
    assert declared.keys() <= bare
    for name in declared.keys() & measured.keys():
        low, high = declared[name].bounds
        assert measured[name].value is None or low <= measured[name].value <= high, name
        assert declared[name].title, name
        assert declared[name].description.endswith("."), name


def test_a_heading_shows_unit_and_direction():
    assert [metrics.declared()[name].heading for name in ("toxicity_mean", "distinct_2", "kl", "perplexity")] == [
        "Toxicity ↓", "Distinct-2 ↑", "KL, nats", "Perplexity",
    ]  # fmt: skip


def test_two_families_may_not_share_a_name():
    with pytest.raises(UserError, match="metric family b: another family already has x; rename them"):
        metrics.merged({"a": {"x": 1}, "b": {"x": 2}})


def test_a_value_outside_the_bounds_that_its_metric_declares_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board would clip its interval to them."""
    monkeypatch.setattr(metrics, "declared", lambda: {"reading": Metric("reading", "Reading")})
    metrics._check_bounds("mine", {"reading": Estimate(0.5, 0.4, 0.6, 9), "other": Estimate(7.0, 6.0, 8.0, 9)})
    with pytest.raises(UserError, match=r"metric mine: reading is 35.2, outside its bounds \[0.0, 1.0\]; declare those"):
        metrics._check_bounds("mine", {"reading": Estimate(35.2, 30.1, 40.9, 9)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_metric_of_another_package_that_is_not_finite_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    """A card can't hold it, which was said after all training."""
    mine = SimpleNamespace(
        measure=lambda _: {"fine": Estimate(None, None, None, 0, 4), "reading": Estimate(0.5, 0.5, abs(bad), 2)},
        values=lambda _: {"fine": {"a": [0.5, None]}, "reading": {"a": [0.5], "b": [0.5, bad]}},
    )
    monkeypatch.setattr(metrics, "_plugin_names", lambda: ["mine"])
    monkeypatch.setattr(metrics, "families", lambda: {"mine": mine})
    monkeypatch.setattr(metrics, "declared", dict)
    with pytest.raises(UserError, match=r"^metric mine: reading is (nan|inf); give None where there is no value$"):
        metrics.measure_all(scored(GRID))
    with pytest.raises(UserError, match=r"^metric mine: reading is (nan|-?inf) for prompt b; give None"):
        metrics.values_all(scored(GRID))
