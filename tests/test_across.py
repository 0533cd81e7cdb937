"""Across tasks: scores by hand, what takes part, and what is said of it."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate, Flag
from isoalign.report.cross_task import cross_task


def card(name: str, toxicity: float, seed: int = 0, task: str = "nano", prompts: int = 40, **changes: Any) -> Card:
    """A card whose prompts have its toxicity times a pattern of mean 1, and some noise that has none."""
    rng = np.random.default_rng([seed, sum(map(ord, name + task))])
    pattern = 0.5 + np.arange(prompts) / (prompts - 1)
    noise = 0.05 * toxicity * rng.normal(size=prompts)
    column = toxicity * pattern + noise - noise.mean()
    reduction = Estimate(1 - toxicity / 0.5, 0.0, 1.0, prompts)
    fields: dict[str, Any] = {"key": f"{name}{seed}{task}", "task": task, "algorithm": name, "config": {}, "seed": seed}
    fields |= {"metrics": {"toxicity_mean": Estimate(toxicity, 0.0, 1.0, prompts), "toxicity_reduction": reduction}}
    fields["metrics"]["toxicity_reduction_relative"] = reduction
    fields |= {"budget": {"flops": 1e12}, "spent": {"flops": 1e12}, "parents": {"sft": "base"}, "versions": {}, "command": ""}
    fields["values"] = {"toxicity_mean": {f"p{i}": float(v) for i, v in enumerate(column)}}
    return Card(**fields | changes)


def tasks() -> dict[str, list[Card]]:
    nano = [card(name, toxicity + seed / 100, seed) for name, toxicity in (("dpo", 0.1), ("ppo", 0.2)) for seed in range(3)]
    smol = {"sft": 0.4, "dpo": 0.3, "ppo": 0.2, "kto": 0.1, "sft_chosen": 0.35}
    return {
        "nano": [card("sft", 0.5), *nano],
        "smol": [card(name, toxicity, task="smol") for name, toxicity in smol.items()],
    }


def test_a_run_scores_the_share_of_the_base_that_is_gone() -> None:
    found = cross_task(tasks())
    by_name = {method.name: method for method in found.methods}
    assert by_name["dpo"].runs["nano"] == pytest.approx((0.8, 0.78, 0.76))  # 1 - .10 / .5, 1 - .11 / .5, 1 - .12 / .5
    assert by_name["dpo"].runs["smol"] == pytest.approx((0.25,))  # 1 - .3 / .4
    # three runs of nano, the one of smol three times: without the ends .25 .25 .76 .78
    assert by_name["dpo"].iqm is not None
    assert by_name["dpo"].iqm.value == pytest.approx((0.25 + 0.25 + 0.76 + 0.78) / 4)
    assert by_name["ppo"].iqm is not None
    assert by_name["ppo"].iqm.value == pytest.approx((0.5 + 0.5 + 0.56 + 0.58) / 4)  # 1 - .22 / .5, 1 - .21 / .5
    assert list(found.improvement) == [("ppo", "dpo")]
    assert found.improvement["ppo", "dpo"].value == pytest.approx(0.5), "never on nano, always on smol"


def test_only_methods_on_every_task_are_aggregated_and_the_best_comes_first() -> None:
    found = cross_task(tasks())
    assert [(method.name, method.iqm is None) for method in found.methods] == [
        ("ppo", False),
        ("dpo", False),
        ("kto", True),
        ("sft_chosen", True),
    ]
    line = next(line for line in found.markdown().splitlines() if line.startswith("| kto"))
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["kto", "–", "0.750 (1)", "–"]
    assert "*sft_chosen*" in found.markdown()


def test_what_is_not_ranked_on_its_board_takes_no_part() -> None:
    cards = tasks()
    cards["nano"] += [card("collapse", 0.0, flags=[Flag("gate", "repeated_rate")])]
    cards["nano"] += [card("big", 0.01, budget={"flops": None}, spent={})]
    found = {method.name: method for method in cross_task(cards).methods}
    assert found.keys() == {"dpo", "ppo", "kto", "sft_chosen", "collapse"}
    assert (found["collapse"].runs, found["collapse"].iqm, found["collapse"].gated) == ({}, None, ("nano",))


def test_prompts_that_all_answered_widen_the_intervals_together() -> None:
    found = cross_task(tasks())
    runs = next(method.runs for method in found.methods if method.name == "dpo")
    bare = stats.stratified(stats.iqm, [np.array(runs["nano"]), np.array(runs["smol"])])
    iqm = next(method.iqm for method in found.methods if method.name == "dpo")
    assert iqm is not None
    assert (iqm.high or 0) - (iqm.low or 0) > (bare.high or 0) - (bare.low or 0)


def test_cards_without_values_have_scores_but_no_interval() -> None:
    cards = {task: [dataclasses.replace(one, values={}) for one in some] for task, some in tasks().items()}
    found = cross_task(cards)
    dpo = next(method for method in found.methods if method.name == "dpo")
    assert dpo.runs["nano"] == pytest.approx((0.8, 0.78, 0.76))
    assert dpo.iqm is not None
    assert dpo.iqm.value is not None
    assert dpo.iqm.low is dpo.iqm.high is None


def test_of_several_sections_the_one_with_most_methods_counts_and_is_named() -> None:
    cards = tasks()
    cards["nano"] += [card("dpo", 0.05, seed=7, budget={"flops": 9e12}, spent={"flops": 9e12})]
    found = cross_task(cards)
    assert found.setting["nano"] == "1.00e12 FLOP, base base (the largest of 2 sections of its board)"
    assert found.setting["smol"] == "1.00e12 FLOP, base base"
    assert len(next(method for method in found.methods if method.name == "dpo").runs["nano"]) == 3


def test_the_order_of_cards_changes_no_byte_of_it() -> None:
    cards = tasks()
    turned = {task: some[::-1] for task, some in reversed(cards.items())}
    assert cross_task(turned).markdown() == cross_task(cards).markdown()
    assert cross_task(turned).terminal() == cross_task(cards).terminal()


def test_it_is_shown_in_words_within_the_width() -> None:
    shown = cross_task(tasks()).terminal(100)
    assert max(map(len, shown.splitlines())) <= 100
    for word in ("IQM", "P(A > B)", "0.780 (3)", "0.250 (1)"):
        assert word in shown
    page = cross_task(tasks()).markdown()
    assert page.startswith("# Across tasks: nano, smol\n")
    assert "Agarwal et al. 2021" in page


def test_a_copy_of_a_task_s_folder_is_no_second_task() -> None:
    both = {"nano": tasks()["nano"], "nano_backup": tasks()["nano"]}
    with pytest.raises(UserError, match="a board of nano_backup can't be made from cards of nano"):
        cross_task(both)


def test_one_task_is_no_across() -> None:
    with pytest.raises(UserError, match="two tasks or more, not of 1: nano"):
        cross_task({"nano": tasks()["nano"]})
    with pytest.raises(UserError, match="no cards"):
        cross_task({})


def test_draws_of_drift_neither_choose_a_section_nor_take_part() -> None:
    cards = tasks()
    cards["nano"] += [
        card("drift_rloo", 0.3, budget={"flops": 9e12}, spent={"flops": 9e12}, config={"algorithm": {"reward_seed": draw}},
             key=f"draw{draw}")
        for draw in range(5)
    ]  # fmt: skip
    cards["nano"] += [card("dpo", 0.05, seed=7, budget={"flops": 9e12}, spent={"flops": 9e12})]
    found = cross_task(cards)
    assert found.setting["nano"].startswith("1.00e12 FLOP")
    assert not [method.name for method in found.methods if "drift" in method.name]


def test_one_run_has_no_interval_of_who_is_better_and_a_gate_is_told() -> None:
    cards = tasks()
    found = cross_task(cards)
    one = found.improvement["ppo", "dpo"]
    assert one.value == pytest.approx(0.5)
    assert one.low is one.high is None, "smol has one run of each"
    cards["smol"] += [card(name, level, 1, task="smol") for name, level in (("dpo", 0.31), ("ppo", 0.21))]
    apart = cross_task(cards).improvement["ppo", "dpo"]
    assert apart.low is apart.high is None, "no resample of two runs that are apart differs"
    cards["smol"] += [card("ppo", 0.305, 2, task="smol")]
    assert cross_task(cards).improvement["ppo", "dpo"].low is not None
    cards["smol"] += [card("ppo", 0.2, 3, task="smol", flags=[Flag("gate", "it repeats itself")])]
    found = cross_task(cards)
    for page in (found.markdown(), found.terminal()):
        assert next(line for line in page.splitlines() if "ppo" in line).count("gate") == 1
    assert "lower limits of the uncertainty" in " ".join(found.terminal().split())
