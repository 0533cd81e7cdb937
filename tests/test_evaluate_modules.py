"""The metrics as modules of evaluate: what each gives alone, and that they do all that evaluate's modules do."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
from scipy.special import expit

from isoalign.core.errors import UserError
from isoalign.evaluation import evaluate_modules as modules
from isoalign.evaluation.metrics import toxicity


def test_each_of_the_fourteen_is_had_by_its_class_and_by_the_name_of_its_function() -> None:
    assert len(modules.SPECS) == 14
    for name, spec in modules.SPECS.items():
        one = getattr(modules, name)(keep_in_memory=True)
        assert isinstance(one, evaluate.Metric if "references" in spec.columns else evaluate.Measurement)
        assert one.name == spec.function.__name__
        assert type(modules.load(one.name)) is type(one)
        assert min(map(len, (one.description, one.inputs_description))) > 40
        assert one.citation.startswith("@")
    with pytest.raises(UserError, match="unknown evaluate module 'toxicty'; did you mean 'toxicity'"):
        modules.load("toxicty")


def test_a_module_adds_up_batches_and_is_what_its_function_gives() -> None:
    scores, prompts = [0.1, 0.9, 0.3, 0.2], ["a", "a", "b", "b"]
    one = modules.load("toxicity", keep_in_memory=True)
    one.add_batch(data=scores[:2], prompt_ids=prompts[:2])
    one.add_batch(data=scores[2:], prompt_ids=prompts[2:])
    assert one.compute() == toxicity.toxicity(scores, prompts)


def test_modules_combine_under_their_names() -> None:
    both = evaluate.combine(
        [modules.load(name, keep_in_memory=True) for name in ("toxicity", "reward_health")], force_prefix=True
    )
    found = both.compute(data=[0.0, 1.0], prompt_ids=["a", "b"])
    assert (found["toxicity_toxicity_mean"], found["reward_health_proxy_reward"]) == (0.5, 0.5)


@pytest.mark.parametrize("bad", [float("nan"), 1.5, -0.1])
def test_a_number_that_is_no_score_is_refused_not_taken_for_safe(bad):
    with pytest.raises(UserError, match="value 1 is"):
        modules.Toxicity(keep_in_memory=True).compute(data=[0.1, bad], prompt_ids=["a", "a"])
    with pytest.raises(UserError, match="references: value 0 is"):
        modules.ToxicityReduction(keep_in_memory=True).compute(predictions=[0.1], references=[bad], prompt_ids=["a"])
    with pytest.raises(UserError, match="predictions: value 0 is"):
        modules.ScorerDisagreement(keep_in_memory=True).compute(predictions=[bad], references=[0.1])


def test_toxicity_stands_alone():
    alone = modules.Toxicity(keep_in_memory=True)
    found = alone.compute(data=[0.1, 0.9, 0.3, None], prompt_ids=["a", "a", "b", "b"], k=1)
    assert found["toxicity_mean"] == pytest.approx(1.3 / 3)
    assert found["toxicity_emt_by_prompt"] == pytest.approx([0.5, 0.3])
    assert found["toxicity_k"] == 1
    with pytest.raises(UserError, match="k must be from 1 to 2, the number of draws per prompt, not 5"):
        modules.Toxicity(keep_in_memory=True).compute(data=[0.1, 0.9], prompt_ids=["a", "a"], k=5)
    with pytest.raises(UserError, match="unequal draws"):
        modules.Toxicity(keep_in_memory=True).compute(data=[0.1, 0.9, 0.5], prompt_ids=["a", "a", "b"])


def test_the_reduction_stands_alone():
    alone = modules.ToxicityReduction(keep_in_memory=True)
    found = alone.compute(predictions=[0.1, 0.2], references=[0.5, 0.5], prompt_ids=["a", "b"])
    assert found["toxicity_reduction"] == pytest.approx(0.35)
    assert found["toxicity_reduction_relative"] == pytest.approx(0.7)


def test_the_disagreement_stands_alone():
    alone = modules.ScorerDisagreement(keep_in_memory=True)
    found = alone.compute(predictions=[0.9, 0.1, None], references=[0.1, 0.1, 0.9])
    assert found == {"scorer_disagreement": 0.5, "missing": 1}


def test_quality_and_perplexity_stand_alone():
    found = modules.Quality(keep_in_memory=True).compute(data=["", "some words"], token_ids=[[], [1, 2]])
    assert (found["length"], found["empty_rate"]) == (1, 0.5)
    found = modules.BasePerplexity(keep_in_memory=True).compute(data=[-2.0, None], lengths=[2, 3], prompt_ids=["a", "b"])
    assert found["perplexity"] == pytest.approx(math.e)
    with pytest.raises(UserError, match="value 0 is nan"):
        modules.BasePerplexity(keep_in_memory=True).compute(data=[math.nan], lengths=[2], prompt_ids=["a"])


def test_diversity_stands_alone():
    found = modules.LexicalDiversity(keep_in_memory=True).compute(
        data=[[1, 2], [1, 2], [3, 4], []], prompt_ids=["b", "b", "a", "a"], vocabulary=10
    )
    assert (found["prompts"], found["distinct_1_by_prompt"], found["distinct_1"]) == (["a", "b"], [1, 0.5], 0.75)
    cut = modules.LexicalDiversity(keep_in_memory=True).compute(data=[[1, 2], [1, 1]], prompt_ids=["a", "a"], length=1)
    assert cut["distinct_1"] == 0.5
    alone = modules.EmbeddingDiversity(keep_in_memory=True)
    found = alone.compute(data=[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], prompt_ids=["a", "a", "b"])
    assert (found["embedding_diversity"], found["vendi"]) == (pytest.approx(1), pytest.approx(2))
    assert found["vendi_by_prompt"] == [pytest.approx(2), None]
    for bad in (np.nan, 0.0):
        with pytest.raises(UserError, match="finite and not 0"):
            alone.compute(data=[[1.0, 0.0], [bad, 0.0]], prompt_ids=["a", "a"])
    found = modules.ModeCollapse(keep_in_memory=True).compute(
        data=["x y", "x  y ", "z", "x y"], token_ids=[[1, 2], [1, 2], [3], []], prompt_ids=["a", "a", "b", "b"]
    )
    assert found == {"duplicate_rate": 0.25, "top_completion_share": 0.75, "unique_token_ratio": 3 / 5}


def test_accuracy_stands_alone():
    found = modules.PairAccuracy(keep_in_memory=True).compute(
        predictions=[1.0, 0.0, None], references=[0.0, 0.0, 1.0], prompt_ids=["a", "b", "c"]
    )
    assert (found["accuracy"], found["n"], found["missing"]) == (0.75, 2, 1)
    assert found["right"] == [1.0, 0.5, None]
    found = modules.PairAccuracy(keep_in_memory=True).compute(
        predictions=[1.0, 1.0], references=[0.0, 0.0], prompt_ids=["a", "b"], gaps=[0.8, -0.8]
    )
    assert (found["accuracy"], found["agreement"]) == (1, 0.5)
    with pytest.raises(UserError, match="references: value 0 is nan"):
        modules.PairAccuracy(keep_in_memory=True).compute(predictions=[1.0], references=[math.nan], prompt_ids=["a"])


def test_on_policy_accuracy_stands_alone():
    alone = modules.OnPolicyAccuracy(keep_in_memory=True)
    found = alone.compute(predictions=[1.0, 0.0, 0.0], references=[0.1, 0.9, None], prompt_ids=["a", "a", "b"])
    assert (found["accuracy"], found["n"], found["missing"]) == (1, 1, 1)
    with pytest.raises(UserError, match="predictions: value 1 is nan"):
        alone.compute(predictions=[1.0, math.nan], references=[0.1, 0.9], prompt_ids=["a", "a"])


def test_kl_stands_alone():
    found = modules.SequenceKL(keep_in_memory=True).compute(data=[-1.0, None], base_logp=[-3.0, -1.0], prompt_ids=["a", "b"])
    assert (found["kl_k1"], found["kl_k2"], found["log_ratios"]) == (2, 2, [2, None])
    with pytest.raises(UserError, match="base_logp: value 0 is nan"):
        modules.SequenceKL(keep_in_memory=True).compute(data=[-1.0], base_logp=[math.nan], prompt_ids=["a"])


def test_exact_kl_stands_alone():
    alone = modules.ExactKL(keep_in_memory=True)
    found = alone.compute(data=[1.0, 3.0, None], lengths=[2, 6, 4], prompt_ids=["a", "b", "b"])
    assert (found["kl"], found["kl_per_token"], found["kl_per_token_low"]) == (2, 0.5, 0.5)
    with pytest.raises(UserError, match="data: value 0 is nan"):
        alone.compute(data=[math.nan], lengths=[2], prompt_ids=["a"])


def test_calibration_stands_alone():
    alone = modules.Calibration(keep_in_memory=True)
    third = math.log(3)
    found = alone.compute(predictions=[2 * third, 0.0], references=[0.0, 2 * third], validation=[2.0, 2.0, 2.0, -2.0], bins=2)
    assert found["temperature"] == pytest.approx(2 / third, rel=1e-5)  # then a margin of 2 says .75
    assert found["reliability"][1]["right"] == 0.5
    assert found["ece"] == pytest.approx(expit(third**2) - 0.5, rel=1e-5)
    untempered = alone.compute(predictions=[third], references=[0.0])
    assert (untempered["temperature"], untempered["brier"]) == (1, pytest.approx(1 / 16))
    for bad in ({"predictions": [math.nan], "references": [0.0]}, {"predictions": [0.0], "references": [math.inf]}):
        with pytest.raises(UserError, match="value 0 is"):
            alone.compute(**bad)
    with pytest.raises(UserError, match="validation: value 1 is nan"):
        alone.compute(predictions=[0.0], references=[0.0], validation=[1.0, math.nan])


def test_health_stands_alone():
    alone = modules.RewardHealth(keep_in_memory=True)
    found = alone.compute(data=[0.0, 2.0, 4.0], prompt_ids=["a", "b", "c"], margins=[9.0, 1.0])
    assert found == {"proxy_reward": 2, "reward_spread": pytest.approx(math.sqrt(8 / 3)), "rm_saturated": 0.5}
    assert alone.compute(data=[1.0], prompt_ids=["a"])["rm_saturated"] is None
    with pytest.raises(UserError, match="data: value 0 is nan"):
        alone.compute(data=[math.nan], prompt_ids=["a"])


METRICS = Path(__file__).parents[1] / "metrics"
LOADED = {
    "toxicity_reduction": ({"predictions": [0.1, 0.2], "references": [0.5, 0.5]}, {"toxicity_reduction": 0.35}),
    "exact_kl": ({"data": [1.0, 3.0], "lengths": [2, 6]}, {"kl": 2.0, "kl_per_token": 0.5}),
    "lexical_diversity": ({"data": [[1, 2], [1, 1]]}, {"distinct_1": 0.75}),
    "pair_accuracy": ({"predictions": [1.0, 0.0], "references": [0.0, 0.0]}, {"accuracy": 0.75}),
}


@pytest.mark.slow
def test_four_load_from_the_folder_of_metrics_in_another_process_and_without_network(tmp_path: Path) -> None:
    """Worked by hand: (.4 + .3) / 2; (1 + 3) / 2 nats and 4 nats over 8 tokens; 1 and 1/2 of the tokens differ, by prompt; a
    tie is half right."""
    assert sorted(path.name for path in METRICS.iterdir()) == sorted(LOADED)
    code = (
        "import evaluate, json, sys\nfolder, inputs = sys.argv[1], json.loads(sys.argv[2])\n"
        "found = {name: evaluate.load(folder + '/' + name).compute(**own) for name, own in inputs.items()}\n"
        "print(json.dumps(found, default=str))"
    )
    inputs = json.dumps({name: given | {"prompt_ids": ["a", "b"]} for name, (given, _) in LOADED.items()})
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(METRICS), inputs], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, (_, expected) in LOADED.items():
        assert {each: found[name][each] for each in expected} == pytest.approx(expected), name
