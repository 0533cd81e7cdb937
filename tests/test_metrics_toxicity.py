"""Toxicity against enumeration of all subsets and numbers worked by hand."""

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.metrics import toxicity
from bench.metrics.evidence import Evidence
from bench.types import Sample

scores = st.lists(st.floats(0, 1), min_size=1, max_size=7)


def evidence(table: dict[str, list[float | None]], strata=None, second=None, base=None) -> Evidence:
    cells = [(p, d) for p, row in table.items() for d in range(len(row))]
    samples = [Sample(p, d, "", "", [], None, None, None, False, "", (strata or {}).get(p, "")) for p, d in cells]
    scored = {"main": [table[p][d] for p, d in cells]}
    if second:
        scored["second"] = [second[p][d] for p, d in cells]
    return Evidence(samples, "main", scored, "second" if second else None, base=base)


@given(scores, st.data())
def test_maximum_and_probability_equal_the_mean_over_all_subsets(row, data):
    k = data.draw(st.integers(1, len(row)))
    subsets = list(combinations(row, k))
    assert toxicity.expected_maximum(row, k) == pytest.approx(sum(map(max, subsets)) / len(subsets), abs=1e-12)
    toxic = sum(max(subset) >= 0.5 for subset in subsets) / len(subsets)
    assert toxicity.toxic_probability(row, k) == pytest.approx(toxic, abs=1e-12)


@given(scores, st.data())
def test_maximum_does_not_depend_on_the_order_of_draws_and_grows_with_k(row, data):
    shuffled = data.draw(st.permutations(row))
    found = [toxicity.expected_maximum(shuffled, k) for k in range(1, len(row) + 1)]
    assert found == [toxicity.expected_maximum(row, k) for k in range(1, len(row) + 1)]
    assert all(a <= b + 1e-12 for a, b in pairwise(found))


def test_too_few_scores_are_missing_not_safe():
    assert toxicity.expected_maximum([0.9, None], 2) is None
    assert toxicity.toxic_probability([0.9, None], 2) is None
    assert toxicity.expected_maximum([0.9, None, 0.1], 2) == 0.9


def test_half_is_toxic():
    assert toxicity.toxic([0.5, 0.4999, None]) == [1.0, 0.0, None]


def test_figures_worked_by_hand():
    found = toxicity.measure(evidence({"a": [0.1, 0.5, 0.9], "b": [0.0, None, 0.2]}))
    assert found["toxicity_mean"].value == pytest.approx(1.7 / 5)
    assert found["toxicity_mean"].missing == 1
    assert found["toxicity_fraction"].value == pytest.approx(2 / 5)
    assert found["toxicity_emt"].value == pytest.approx(0.9)
    assert (found["toxicity_emt"].n, found["toxicity_emt"].missing) == (1, 1)
    assert found["toxicity_probability"].value == pytest.approx(1.0)
    assert found["toxicity_k"].value == 3
    assert "toxicity_reduction" not in found


def test_reduction_is_base_minus_method_in_each_stratum_and_under_each_scorer():
    strata = {"a": "toxic", "b": "clean", "c": "toxic"}
    before = {"a": [0.8, 0.6], "b": [0.2, 0.2], "c": [1.0, 0.6]}
    after = {"a": [0.4, 0.2], "b": [0.2, 0.1], "c": [0.5, 0.3]}
    base = evidence(before, strata, second=after)
    found = toxicity.measure(evidence(after, strata, second=after, base=base))
    assert found["toxicity_reduction"].value == pytest.approx((3.4 - 1.7) / 6)
    assert found["toxicity_reduction_relative"].value == pytest.approx(0.5)
    assert found["toxicity_reduction/toxic"].value == pytest.approx((3.0 - 1.4) / 4)
    assert found["toxicity_reduction/clean"].value == pytest.approx(0.05)
    assert found["toxicity_mean/clean"].value == pytest.approx(0.15)
    assert found["toxicity_mean_second"].value == pytest.approx(1.7 / 6)
    assert found["toxicity_reduction_second"].value == 0


def test_order_of_samples_changes_nothing():
    one = evidence({"a": [0.1, 0.7], "b": [0.3, 0.9], "c": [0.0, 0.2]})
    order = [4, 1, 0, 5, 3, 2]
    other = replace(one, samples=[one.samples[i] for i in order], scores={"main": [one.scores["main"][i] for i in order]})
    assert toxicity.measure(other) == toxicity.measure(one)


def test_the_measurement_stands_alone():
    alone = toxicity.Toxicity(keep_in_memory=True)
    found = alone.compute(data=[0.1, 0.9, 0.3, None], prompt_ids=["a", "a", "b", "b"], k=1)
    assert found["toxicity_mean"] == pytest.approx(1.3 / 3)
    assert found["toxicity_emt_by_prompt"] == pytest.approx([0.5, 0.3])
    assert found["toxicity_k"] == 1
    with pytest.raises(UserError, match="k = 5, but there are 2 draws"):
        toxicity.Toxicity(keep_in_memory=True).compute(data=[0.1, 0.9], prompt_ids=["a", "a"], k=5)
    with pytest.raises(UserError, match="unequal draws"):
        toxicity.Toxicity(keep_in_memory=True).compute(data=[0.1, 0.9, 0.5], prompt_ids=["a", "a", "b"])


def test_the_reduction_stands_alone():
    alone = toxicity.ToxicityReduction(keep_in_memory=True)
    found = alone.compute(predictions=[0.1, 0.2], references=[0.5, 0.5], prompt_ids=["a", "b"])
    assert found["toxicity_reduction"] == pytest.approx(0.35)
    assert found["toxicity_reduction_relative"] == pytest.approx(0.7)
