"""Along a setting that was swept: figures by hand, what takes part, and what is said of it."""

import dataclasses
import itertools
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate, Flag
from isoalign.evaluation import card as cards_on_disk
from isoalign.report.as_data import sweep_data
from isoalign.report.sweeps.chart import _spread, sweep_chart
from isoalign.report.sweeps.crossings import crossings
from isoalign.report.sweeps.rows import collect_sweep
from isoalign.report.sweeps.sweep_report import SweepReport, axis_value, sweep_report
from isoalign.report.sweeps.text import sweep_page, sweep_text
from isoalign.runs.overrides import task_named
from workbench import COMMAND, complaint

NOISE = "task.feedback.noise"
MEANS = {0.05: {"dpo": 0.1, "kto": 0.2, "ppo": 0.3}, 0.15: {"dpo": 0.2, "kto": 0.1, "ppo": 0.5}}


def card(name: str, value: float, toxicity: float | Sequence[float], seed: int = 0, **changes: Any) -> Card:
    """A card at a noise, with the toxicity of each prompt, or that of all four."""
    column = [toxicity] * 4 if isinstance(toxicity, float) else toxicity
    figure = Estimate(float(np.mean(column)), 0.0, 1.0, len(column))
    fields: dict[str, Any] = {"key": f"{name}{seed}{value}", "task": "nano", "algorithm": name, "seed": seed}
    fields |= {"config": {"algorithm": {"lr": 1e-4}, "task": {"feedback": {"noise": value, "draws": 4, "file": ""}}}}
    fields |= {"metrics": {"toxicity_mean": figure}, "budget": {"flops": 4e12}, "spent": {"flops": 4e12}, "versions": {}}
    fields |= {"parents": {"sft": "base", "held_out": f"pairs at {value}"}, "command": f"isoalign run {NOISE}={value}"}
    fields |= {"values": {"toxicity_mean": {f"p{i}": float(v) for i, v in enumerate(column)}}}
    return Card(**fields | changes)


def swept(means: dict[float, dict[str, float]] = MEANS, seeds: int = 1) -> list[Card]:
    return [card(name, value, each, s) for value, at in means.items() for name, each in at.items() for s in range(seeds)]


def drawn(means: dict[float, dict[str, float]], prompts: int, spread: float, seeds: int = 1) -> list[Card]:
    """Cards whose prompts vary about their means."""
    rng = np.random.default_rng(0)
    return [
        card(name, value, list(toxicity + rng.normal(0, spread, prompts)), seed)
        for (value, at), seed in itertools.product(means.items(), range(seeds))
        for name, toxicity in at.items()
    ]


def lines(report: SweepReport, heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the page, below its titles."""
    part = sweep_page(report).split(f"\n## {heading}", 1)[1].split("\n## ")[0]
    found = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[2:]]


def test_means_ranks_slopes_and_correlations_by_hand() -> None:
    report = sweep_report(swept(seeds=2), NOISE)
    # (.2 - .1) / .1, (.1 - .2) / .1, (.5 - .3) / .1
    assert lines(report, "Mean toxicity") == [
        ["dpo", "0.100 [0.100, 0.100]", "0.200 [0.200, 0.200]", "1 [1, 1]", "rises"],
        ["kto", "0.200 [0.200, 0.200]", "0.100 [0.100, 0.100]", "−1 [−1, −1]", "falls"],
        ["ppo", "0.300 [0.300, 0.300]", "0.500 [0.500, 0.500]", "2 [2, 2]", "rises"],
    ]
    ranks = [["dpo", "1 [1, 1]", "2 [2, 2]"], ["kto", "2 [2, 2]", "1 [1, 1]"], ["ppo", "3 [3, 3]", "3 [3, 3]"]]
    assert lines(report, "Rank") == ranks
    # ranks 1 2 3 become 2 1 3: Spearman 1 - 6 x 2 / 24, Kendall (2 - 1) / 3
    order = ["0.15", "3", "0.50 [0.50, 0.50]", "0.33 [0.33, 0.33]", "–"]
    assert lines(report, "Order of methods") == [order]


def test_pairs_that_change_order_are_told_by_comparisons_and_not_by_points() -> None:
    """dpo and kto swap by .1; ppo is behind both by .2; a fifth of the spread tells them apart; twin is dpo but for noise."""
    means = {
        1.0: {"dpo": 0.1, "twin": 0.1001, "kto": 0.2, "ppo": 0.4},
        2.0: {"dpo": 0.2, "twin": 0.1999, "kto": 0.1, "ppo": 0.4},
    }
    rng, parents = np.random.default_rng(1), {"sft": "base", "held_out": "pairs"}
    cards = [
        card(name, 0.05, list(mean + rng.normal(0, 0.02, 64)), seed, budget={"flops": at * 1e12}, parents=parents)
        for at, methods in means.items() for name, mean in methods.items() for seed in range(3)
    ]  # fmt: skip
    report = sweep_report(cards, "budget.flops")
    assert report.values == [1e12, 2e12]
    verdicts = {frozenset((one.a, one.b)): one.verdict for one in report.crossings}
    assert verdicts[frozenset(("dpo", "kto"))] == verdicts[frozenset(("twin", "kto"))] == "changes"
    assert verdicts[frozenset(("dpo", "ppo"))] == verdicts[frozenset(("kto", "ppo"))] == "stays"
    assert verdicts[frozenset(("dpo", "twin"))] == "not decided"
    (swap,) = [one for one in report.crossings if {one.a, one.b} == {"dpo", "kto"}]
    assert swap.ahead == {1e12: "dpo", 2e12: "kto"}
    assert "Of 6 pairs 2 change order (" in report.verdict
    assert "3 keep theirs, and of 1 that is not decided" in report.verdict
    assert lines(report, "Pairs that change order")[0][-1] == "changes"
    lone = sweep_report([one for one in cards if one.seed == 0], "budget.flops")
    assert {one.verdict for one in lone.crossings} == {"not decided"}, "one seed decides nothing"
    assert "which is shown to be better" in sweep_text(report)


@pytest.mark.parametrize(("values", "methods"), [(12, 8), (140, 3)], ids=["counted", "by their average"])
def test_a_pair_is_decided_however_many_values_there_are(values: int, methods: int) -> None:
    """The smallest p of each comparison must be below what Holm's first step over all pairs at all values needs."""
    rng, names = np.random.default_rng(0), [f"m{i}" for i in range(methods)]
    axis = {
        float(value): {
            name: [{f"p{i:02}": mean for i, mean in enumerate(rng.normal(name == "m0", 0.1, 40).tolist())} for _ in range(5)]
            for name in names
        }
        for value in range(values)
    }
    verdicts = {frozenset((one.a, one.b)): one.verdict for one in crossings(axis, False, {value: {} for value in axis})}
    assert {verdicts[frozenset(("m0", other))] for other in names[1:]} == {"stays"}
    assert verdicts[frozenset(("m1", "m2"))] == "not decided"


def test_along_a_budget_values_and_slopes_are_powers_of_ten_and_no_other_budget_is_named() -> None:
    means = {4.5e12: {"dpo": 0.1, "kto": 0.2, "ppo": 0.4}, 9e12: {"dpo": 0.19, "kto": 0.11, "ppo": 0.4}}
    parents = {"sft": "base", "held_out": "pairs"}
    cards = [
        card(name, 0.05, mean, seed, budget={"flops": at}, parents=parents, key=f"{name}{seed}{at}")
        for at, methods in means.items() for name, mean in methods.items() for seed in range(2)
    ]  # fmt: skip
    report = sweep_report(cards, "budget.flops")
    page, text, chart = sweep_page(report), sweep_text(report), sweep_chart(report).decode()
    for shown in (page, text, chart):
        assert "4.5e12" in shown
        assert "00000000" not in shown.partition("isoalign run")[0].partition("<defs>")[0]
    assert "– FLOP" not in page + text + chart
    assert "Budget of each run" not in page + text
    assert [row[3] for row in lines(report, "Mean toxicity")][:2] == ["2e−14 [2e−14, 2e−14]", "−2e−14 [−2e−14, −2e−14]"]
    assert "4.00e12 FLOP" in sweep_text(sweep_report(swept(), NOISE))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.05, "0.05"), (512, "512"), (100_000, "100000"), (4.5e12, "4.5e12"), (1e18, "1e18"), (1_234_567, "1234567"),
     (4_500_000_000_001, "4500000000001"), (1e-5, "1e-05")],
)  # fmt: skip
def test_an_axis_value_keeps_all_its_digits(value: float, shown: str) -> None:
    assert axis_value(value) == shown


def test_one_seed_has_every_rank_and_decides_no_trend_and_no_order() -> None:
    several = [one for one in swept(seeds=2) if one.algorithm != "dpo" or one.seed == 0]
    for cards, kto in ((swept(), ["2 [1, 3]", "1 [1, 3]"]), (several, ["2 [1, 2]", "1 [1, 2]"])):
        report = sweep_report(cards, NOISE)
        # beside dpo's one seed, kto with two is still before ppo
        assert lines(report, "Rank")[:2] == [["dpo", "1 [1, 3]", "2 [1, 3]"], ["kto", *kto]]
        assert lines(report, "Order of methods") == [["0.15", "3", "0.50", "0.33", "–"]]
        assert report.trend("dpo") == "not resolved"
        assert f"The ranking is stable along {NOISE}" not in report.verdict
        assert "is unknown: one seed says nothing of its method (dpo" in report.verdict


def test_it_says_in_words_whether_the_ranking_is_stable() -> None:
    said = sweep_report(swept(seeds=2), NOISE).verdict
    assert said.startswith(f"The ranking changes along {NOISE}: the order at 0.15 differs from that at 0.05")
    assert said.endswith(f"As {NOISE} grows, toxicity rises for dpo, ppo; falls for kto.")
    same = {value: {name: mean + value for name, mean in MEANS[0.05].items()} for value in (0.1, 0.2, 0.3)}
    kept = sweep_report(drawn(same, 64, 0.02, 3), NOISE).verdict
    assert kept.startswith(f"The ranking is stable along {NOISE}: all 3 pairs keep their order; at the least similar, ")
    near = {value: {name: 0.2 + i / 1000 for i, name in enumerate("abcd")} for value in (0.1, 0.2)}
    unsure = sweep_report(drawn(near, 30, 0.1, 2), NOISE).verdict
    assert unsure.startswith(f"Whether the ranking is stable along {NOISE} is not resolved: Spearman's correlation over 4")
    assert "Whether toxicity rises or falls is not resolved for" in unsure
    alone = {0.1: {"dpo": 0.1, "kto": 0.2}, 0.2: {"dpo": 0.3}}
    assert "is unknown: no two methods are ranked at 0.1 and at another value." in sweep_report(swept(alone), NOISE).verdict
    equal = {0.1: {"dpo": 0.1, "kto": 0.1}, 0.2: {"dpo": 0.1, "kto": 0.2}}
    assert "is unknown: methods are equal, or prompts too few." in sweep_report(swept(equal, 2), NOISE).verdict


def test_a_ranking_is_not_called_stable_because_no_change_is_shown() -> None:
    """Two of four methods truly swap, by less than can be seen: Spearman's interval reaches 1 and excludes 0."""
    swap = {0.1: {"a": 0.2, "b": 0.5, "c": 0.505, "d": 0.9}, 0.2: {"a": 0.2, "b": 0.505, "c": 0.5, "d": 0.9}}
    report = sweep_report(drawn(swap, 64, 0.1, 3), NOISE)
    correlation = report.robustness.stability[0.2].spearman
    assert correlation.high == 1
    assert (correlation.low or 0) > 0
    assert report.verdict.startswith(f"No change of the ranking along {NOISE} is shown, and of 1 of 6 pairs it is not decided")


def test_a_ranking_changes_if_pairs_change_order_where_a_correlation_does_not_show_it() -> None:
    many = {f"m{i}": 0.2 + 0.002 * i for i in range(9)}
    swap = {0.1: {"a": 0.05, "b": 0.1} | many, 0.2: {"a": 0.1, "b": 0.05} | many}
    said = sweep_report(drawn(swap, 64, 0.02, 3), NOISE).verdict
    assert said.startswith(f"The ranking changes along {NOISE}: 1 of 55 pairs change order (Spearman's correlation over 11")
    assert "Of 55 pairs 1 change order (a and b)" in said


def test_the_order_is_held_to_that_at_the_lowest_value_whatever_the_order_of_cards() -> None:
    report, turned = sweep_report(swept(), NOISE), sweep_report(reversed(swept()), NOISE)
    assert report.values == turned.values == [0.05, 0.15]
    assert (sweep_page(report), sweep_text(report), sweep_chart(report)) == (
        sweep_page(turned),
        sweep_text(turned),
        sweep_chart(turned),
    )


def test_a_method_that_the_axis_does_not_touch_stays_the_same() -> None:
    column = list(np.random.default_rng(1).random(50))
    cards = [card("rlaif", value, column, seed) for value in (0.05, 0.2, 0.35) for seed in (0, 1)]
    report = sweep_report(cards, NOISE)
    assert report.robustness.slopes["rlaif"].value == 0, "and not a rest of rounding, which would rise or fall for sure"
    assert report.trend("rlaif") == "stays the same"


def test_settings_other_than_the_axis_are_variants_with_names_of_their_own() -> None:
    def at(kl: float, lr: float, toxicity: float) -> Card:
        return card("ppo", 0.05, toxicity, config={"algorithm": {"kl": kl, "lr": lr}, "task": {}}, key=f"{kl}{lr}")

    cards = [at(0.1, 1.0, 0.1), at(0.2, 1.0, 0.2), at(0.1, 3.0, 0.3), card("dpo", 0.05, 0.4), card("sft", 0.05, 0.5)]
    report = sweep_report([dataclasses.replace(c, config=c.config | {"task": {}}) for c in cards], "algorithm.kl")
    rows = lines(report, "Mean toxicity")
    assert [row[0] for row in rows] == ["ppo (lr=1.0)", "ppo (lr=3.0)", "*sft*"], "kl, the axis, is in no name"
    assert rows[2][1] == rows[2][2] == "0.500 [0.000, 1.000]", "the base stands beside every value"
    assert report.sweep.left_out.keys() == {"dpo has no algorithm.kl"}


def test_cards_of_other_settings_are_left_out_and_named_with_what_they_differ_in() -> None:
    dear = card("dpo", 0.25, 0.1, budget={"flops": 9e12})
    many = card("kto", 0.35, 0.1)
    many.config["task"]["feedback"]["draws"] = 8
    other_base = card("ppo", 0.45, 0.1, parents={"sft": "another"})
    few = card("ppo", 0.05, [0.1, 0.2], 9)
    report = sweep_report([*swept(), dear, many, other_base, few], NOISE)
    assert report.values == [0.05, 0.15]
    assert report.sweep.left_out == {
        "budget.flops=9e+12, not 4e+12": [cards_on_disk.file_name(dear)],
        "task.feedback.draws=8, not 4": [cards_on_disk.file_name(many)],
        "the weights of the SFT base differ": [cards_on_disk.file_name(other_base)],
        "the prompts differ": [cards_on_disk.file_name(few)],
    }
    for why, files in report.sweep.left_out.items():
        assert f"- **Left out, {why}:** {files[0]}" in sweep_page(report)


def test_the_setting_with_most_axis_values_counts() -> None:
    """Two values of three methods at 4e12, three of one method at 9e12."""
    dear = [card("dpo", value, 0.1, budget={"flops": 9e12}) for value in (0.05, 0.15, 0.25)]
    report = sweep_report([*swept(), *dear], NOISE)
    assert report.values == [0.05, 0.15, 0.25]
    assert list(report.sweep.left_out) == ["budget.flops=4e+12, not 9e+12"]
    assert len(report.sweep.left_out["budget.flops=4e+12, not 9e+12"]) == 6


def test_along_what_makes_the_base_bases_may_differ() -> None:
    cards = [card(name, 0.05, 0.1, parents={"sft": f"base of {steps}"}, key=f"{name}{steps}",
                  config={"algorithm": {}, "task": {"sft": {"steps": steps}}})
             for steps in (10, 20) for name in ("dpo", "sft")]  # fmt: skip
    report = sweep_report(cards, "task.sft.steps")
    assert report.values == [10, 20]
    assert "**SFT base:** differs along the axis" in sweep_page(report)


def test_a_failed_gate_is_shown_and_marked_but_not_ranked() -> None:
    collapsed = card("ppo", 0.15, 0.01, flags=[Flag("gate", "perplexity 800")])
    report = sweep_report([*swept({0.05: MEANS[0.05], 0.15: {"dpo": 0.2, "kto": 0.1}}), collapsed], NOISE)
    assert lines(report, "Mean toxicity")[2] == ["ppo", "0.300 [0.300, 0.300]", "0.010 [0.000, 1.000] (gate)", "–", "–"]
    assert lines(report, "Rank")[2] == ["ppo", "3 [1, 3]", "–"]
    assert lines(report, "Order of methods")[0][1:2] == ["2"]
    assert lines(report, "Order of methods")[0][-1] == "ppo"
    assert "- **Gate:** ppo at 0.15: perplexity 800\n" in sweep_page(report)


def test_base_and_control_are_shown_where_they_were_run_and_not_ranked() -> None:
    sft = card("sft", 0.15, 0.6, budget={"flops": 1e12})
    report = sweep_report([*swept(), sft, card("sft_chosen", 0.05, 0.05)], NOISE)
    shown = {row[0]: row[1:3] for row in lines(report, "Mean toxicity")}
    assert shown["*sft*"] == ["–", "0.600 [0.000, 1.000]"], "of any budget, since it spends nothing"
    assert shown["*sft_chosen*"] == ["0.050 [0.000, 1.000]", "–"]
    assert [row[0] for row in lines(report, "Rank")] == ["dpo", "kto", "ppo"]


def test_what_is_missing_somewhere_is_named_and_has_the_slope_of_its_other_values() -> None:
    means = {0.05: MEANS[0.05], 0.1: {"dpo": 0.1}, 0.15: {"dpo": 0.3, "kto": 0.1}}
    report = sweep_report(swept(means), NOISE)
    assert "- **Missing:** kto at 0.1; ppo at 0.1, 0.15" in sweep_page(report)
    assert lines(report, "Mean toxicity")[1][-2] == "−1 [−1, −1]"
    assert lines(report, "Order of methods")[1][-1] == "ppo"
    assert "| 0.05 (of 3) | 0.1 (of 1) | 0.15 (of 2) |" in sweep_page(report)


def test_seeds_are_pooled_and_their_numbers_told() -> None:
    cards = [*swept(), card("dpo", 0.05, 0.3, seed=1)]
    report = sweep_report(cards, NOISE)
    assert report.mean(0.05, "dpo").value == pytest.approx(0.2)
    assert "- **Seeds:** 1; dpo at 0.05 has 2" in sweep_page(report)


def test_cards_that_were_scored_by_an_older_version_are_not_mixed_in() -> None:
    families = {"toxicity": ["toxicity_mean"], "reward_accuracy": ["rm_accuracy"]}
    new = {"metric toxicity": "2", "metric reward_accuracy": "2"}
    cards = [dataclasses.replace(one, versions=new, families=families) for one in swept()]
    old = card("dpo", 0.05, 0.9, seed=1, versions=new | {"metric toxicity": "1"}, families=families)
    accuracy = card("dpo", 0.05, 0.3, seed=2, versions=new | {"metric reward_accuracy": "1"}, families=families)
    report = sweep_report([*cards, old, accuracy], NOISE)
    assert report.mean(0.05, "dpo").value == pytest.approx(0.2), "the mean of .1 and .3"
    (why,) = report.sweep.left_out
    assert why.startswith(
        "scored with toxicity 1, the newest is 2 (in the folder of the cards: isoalign rescore --metric toxicity"
    )


def test_cards_on_another_feedback_at_the_same_value_are_left_out() -> None:
    odd = card("dpo", 0.05, 0.9, seed=1, parents={"sft": "base", "held_out": "made by another version"})
    report = sweep_report([*swept(), odd], NOISE)
    assert report.sweep.left_out == {"other held-out pairs than most at its axis value": [cards_on_disk.file_name(odd)]}


def test_what_was_made_elsewhere_and_cards_of_old_have_no_part() -> None:
    outside = card("big model", 0.05, 0.1, budget={"flops": None}, spent={})
    report = sweep_report([*swept(), outside, card("dpo", 0.05, 0.1, seed=1, values={})], NOISE)
    assert report.sweep.left_out == {
        "made outside isoalign, so not part of a sweep": ["big-model-s0-big-mode.json"],
        "no toxicity by prompt, as on cards of older versions": ["dpo-s1-dpo10.05.json"],
    }


def test_a_setting_that_came_after_a_card_was_written_has_its_default_there() -> None:
    task = dataclasses.asdict(task_named("nano"))
    old = {name: section for name, section in task.items() if name != "panel"}
    biased = task | {"panel": task["panel"] | {"length": 0.2}}
    cards = [card("dpo", i, 0.1 + i / 10, config={"algorithm": {}, "task": one}) for i, one in enumerate((old, biased))]
    assert sweep_report(cards, "task.panel.length").values == [0, 0.2]
    same = [card("dpo", 0, 0.1, config={"algorithm": {}, "task": old}), *(
        card("dpo", noise, 0.1, config={"algorithm": {}, "task": task | {"feedback": task["feedback"] | {"noise": noise}}})
        for noise in (0.1, 0.2))]  # fmt: skip
    assert sweep_report(same, NOISE).values == [0.05, 0.1, 0.2], "with the panel at its defaults it is the same task"


def with_reward_model(cards: list[Card], **settings: Any) -> list[Card]:
    made = []
    for one in cards:
        task = one.config["task"] | settings
        optimised = Estimate(float(one.algorithm == "ppo"), None, None, 4)
        accuracies = {"rm_accuracy": Estimate(0.75, 0.7, 0.8, 300), "rm_accuracy_clean": Estimate(0.8, 0.75, 0.85, 300)}
        metrics = one.metrics | accuracies | {"reward_optimised": optimised}
        made.append(dataclasses.replace(one, metrics=metrics, config=one.config | {"task": task}))
    return made


def test_reward_models_are_set_beside_what_the_noise_lets_them_reach() -> None:
    report = sweep_report(with_reward_model(swept()), NOISE)
    assert lines(report, "Reward models") == [
        ["at most, 1 − e", "with noise", "0.950", "0.850"],
        ["ppo", "with noise", "0.750 [0.700, 0.800]", "0.750 [0.700, 0.800]"],
        ["ppo", "without noise", "0.800 [0.750, 0.850]", "0.800 [0.750, 0.850]"],
    ], "of dpo and kto it is only measured, not trained on"
    panel = sweep_report(with_reward_model(swept(), panel={"annotators": 3}), NOISE)
    assert [row[0] for row in lines(panel, "Reward models")] == ["ppo", "ppo"], "three annotators err less together than one"
    assert "## Reward models" not in sweep_page(sweep_report(swept(), NOISE))


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("seed", "seed can't be an axis: seeds have no order"),
        ("task.seed", "task.seed can't be an axis: seeds have no order"),
        ("task.evaluation.draws", "task.evaluation.draws can't be an axis: it sets how runs are measured"),
        ("noise", "'noise' can't be an axis; name a setting of task, algorithm or budget, for example task.feedback.noise"),
        ("task.feedback", "task.feedback is a section; name one of its settings: noise, draws, file"),
        ("task.feedback.file", "task.feedback.file is '' on dpo-s0-dpo00.05.json, but an axis needs numbers"),
        ("task.feedback.nois", "no card has task.feedback.nois; did you mean 'task.feedback.noise'?"),
        ("algorithm.lr", "no method has two values of algorithm.lr (found: 0.0001"),
    ],
)
def test_what_is_no_axis_is_told_in_a_line(key: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        collect_sweep(swept(), key)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_with_one_value_it_tells_the_sweep_to_type() -> None:
    with pytest.raises(UserError) as error:
        sweep_report([*swept({0.05: MEANS[0.05]}), card("dpo", 0.05, 0.1, seed=2)], NOISE)
    command = f"isoalign run -m task=nano algorithm=dpo,kto,ppo {NOISE}=0.05,ANOTHER seed=0,2"
    assert str(error.value) == f"no method has two values of {NOISE} (found: 0.05); make another with: {command}"


def test_methods_at_different_values_are_no_sweep() -> None:
    with pytest.raises(UserError, match=r"no method has two values of task\.feedback\.noise \(found: 0\.05,0\.15\)"):
        sweep_report([card("dpo", 0.05, 0.1), card("kto", 0.15, 0.1)], NOISE)


def test_names_that_mean_mischief_are_shown_as_they_are() -> None:
    evil = "x|<b>y</b>\x1b[31m`_"
    cards = [dataclasses.replace(one, algorithm=evil) if one.algorithm == "ppo" else one for one in swept()]
    report = sweep_report(cards, NOISE)
    page = sweep_page(report)
    assert "<b>" not in page
    assert "\x1b" not in page + sweep_text(report)
    assert {line.count(" | ") for line in page.split("## Rank")[1].split("##")[0].splitlines() if line.startswith("|")} == {2}
    ET.fromstring(sweep_chart(report))


def test_a_terminal_has_every_line_within_its_width_and_many_values_without_intervals() -> None:
    for count in (2, 6):
        means = {i / 20: {"dpo": 0.1 + i / 10, "a method with a name as long as this": 0.2} for i in range(count)}
        shown = sweep_text(sweep_report(swept(means), NOISE), 100)
        assert max(map(len, shown.splitlines())) <= 100
        assert ("0.100 [0.100, 0.100]" in shown) == (count == 2)


def panels(report: SweepReport) -> int:
    return sum("axes_" in (group.get("id") or "") for group in ET.fromstring(sweep_chart(report)).iter())


def test_the_chart_has_ranks_where_two_methods_are_ranked_together() -> None:
    assert panels(sweep_report(swept(), NOISE)) == 2
    assert panels(sweep_report([card("dpo", value, 0.1) for value in (0.1, 0.2)], NOISE)) == 1
    parted = [card("dpo", 0.1, 0.1), card("dpo", 0.2, 0.1), card("kto", 0.3, 0.1)]
    assert panels(sweep_report(parted, NOISE)) == 1
    old = [dataclasses.replace(one, flags=[Flag("gate", "x")]) for one in swept()]
    assert panels(sweep_report(old, NOISE)) == 1, "all failed a gate"


def test_names_beside_the_chart_keep_their_order_and_a_line_between_them() -> None:
    heights = np.random.default_rng(0).uniform(0, 60, 9)
    found = np.array(_spread(heights.tolist()))
    assert (np.argsort(found) == np.argsort(heights)).all()
    assert np.diff(np.sort(found)).min() > 14.5
    assert _spread([10.0, 100.0]) == [10, 100], "those far apart stay where they are"


def typed(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "board", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_writes_page_and_chart_and_prints_the_report(tmp_path: Path, environment: dict[str, str]) -> None:
    for one in swept(seeds=2):
        cards_on_disk.write_card(cards_on_disk.sealed(one), tmp_path / "nano")
    done = typed(environment, "nano", "--along", NOISE, "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = tmp_path / "nano" / f"along-{NOISE}.md"
    assert done.stdout.splitlines()[-1] == str(page)
    assert done.stdout.startswith("The ranking changes along task.feedback.noise")
    assert page.read_text() == sweep_page(sweep_report(swept(seeds=2), NOISE))
    assert f"along-{NOISE}.svg" in page.read_text()
    ET.parse(page.with_suffix(".svg"))


def test_the_command_is_of_one_task(tmp_path: Path, environment: dict[str, str]) -> None:
    for task in ("nano", "smol"):
        for one in swept():
            cards_on_disk.write_card(cards_on_disk.sealed(dataclasses.replace(one, task=task)), tmp_path / task)
    said = complaint(typed(environment, "--along", NOISE, "--results", str(tmp_path)))
    assert said == f"isoalign: --along reports on one task: isoalign board TASK --along {NOISE}"


def test_bases_of_one_key_that_two_machines_made_are_two_bases() -> None:
    flops, limits = "budget.flops", {0.05: 3e12, 0.15: 4e12}
    cards = [
        card(name, value, toxicity, seed, budget={"flops": limits[value]}, spent={"flops": limits[value]},
             config={"algorithm": {"lr": 1e-4}, "task": {}}, contents={"sft": "here" * 4, "held_out": "here" * 4},
             parents={"sft": "base", "held_out": "pairs"})
        for value, at in MEANS.items() for name, toxicity in at.items() for seed in range(2)
    ]  # fmt: skip
    assert collect_sweep(cards, flops).left_out == {}
    elsewhere = [
        dataclasses.replace(one, contents={"sft": "there" * 4, "held_out": "here" * 4})
        if (one.algorithm, one.budget["flops"]) == ("dpo", 3e12) else one
        for one in cards
    ]  # fmt: skip
    swept_here = collect_sweep(elsewhere, flops)
    assert [len(files) for why, files in swept_here.left_out.items() if "the weights of the SFT base" in why] == [2]
    assert "dpo" not in swept_here.rows[3e12]


def test_what_rows_must_say_and_what_is_unequal_is_said_along_too() -> None:
    again = [dataclasses.replace(one, key=f"{one.key}b", parents=one.parents | {"train": "older"}) for one in swept(seeds=2)
             if (one.algorithm, one.config["task"]["feedback"]["noise"]) == ("dpo", 0.05)]  # fmt: skip
    flagged = [card("kto", value, 0.2, 2, flags=[Flag("warning", "few verdicts")]) for value in MEANS]
    told = card("ppo", 0.15, 0.5, 2, notes={"tuning": "8 trials on validation prompts, by largest_gain"})
    report = sweep_report([*swept(seeds=2), *again, *flagged, told], NOISE)
    page = sweep_page(report)
    assert "- **Warning:** few verdicts (seed 2) (kto at 0.05, kto at 0.15)" in page
    assert "- **Warning:** 2 cards of seed 0, averaged, though code, packages or data of their trainings differ" in page
    assert "- **Not equal:** at 0.15: not tuned: dpo, kto" in page
    assert "few verdicts" in sweep_text(report)
    data = sweep_data(report)
    assert data["left_out"] == report.sweep.left_out
    assert [flag.text for row in data["rows"] if row["name"] == "kto" for flag in row["flags"]] == [
        "few verdicts (seed 2)"
    ] * 2
