"""What a board says of rows that it compares though not all is equal."""

from dataclasses import replace
from typing import Any

import pytest

from isoalign.core.records import Card
from isoalign.report.leaderboard import build_board
from test_beyond_drift import board
from test_board import make


def said(*cards: Card) -> list[str]:
    (section,) = build_board([make("sft"), *cards]).sections
    return section.unequal


def trained(algorithm: str, **training: Any) -> Card:
    card = make(algorithm)
    return replace(card, config=card.config | {"task": {"training": training, "evaluation": {"draws": len(algorithm)}}})


def test_a_setting_of_the_task_that_few_rows_have_is_named_with_them() -> None:
    rows = [trained("dpo", warmup=10), trained("kto", warmup=10), trained("ppo", warmup=0)]
    assert said(*rows) == ["task.training.warmup differs: 0 of ppo; of the others 10"]


@pytest.mark.parametrize("name", ["snapshots", "checkpoint_seconds", "micro_batch"])
def test_what_changes_no_training_is_no_difference(name: str) -> None:
    assert said(trained("dpo", **{name: 1}), trained("kto", **{name: 1}), trained("ppo", **{name: 2})) == []


def test_what_names_of_rows_tell_is_not_told_again() -> None:
    assert said(trained("dpo", warmup=10), trained("dpo", warmup=0), trained("kto", warmup=10)) == []


def test_other_trials_and_other_versions_are_named() -> None:
    usual, other = "8 trials on validation prompts, by a", "4 trials on validation prompts, by b"
    tuned = {"dpo": usual, "kto": usual, "rlaif": f"as ppo, {usual}", "ppo": other}
    first, *others = [make(name, notes=make(name).notes | {"tuning": told}) for name, told in tuned.items()]
    assert said(replace(first, versions={"torch": "2.12"}), *others) == [
        f"tuning differs: {other} of ppo; of the others {usual}",
        "torch differs: 2.12 of dpo; of the others 2.13",
    ]


def test_rows_that_are_not_ranked_are_not_compared() -> None:
    assert said(trained("dpo", warmup=10), trained("kto", warmup=10), trained("sft_chosen", warmup=0)) == []


@pytest.mark.parametrize("setting", ["precision", "seed", "curve_draws"])
def test_another_way_of_evaluating_that_opens_no_section_is_named(setting: str) -> None:
    cards = [trained(name) for name in ("dpo", "kto", "ppo")]
    for card, value in zip(cards, (1, 1, 2), strict=True):
        card.config["task"]["evaluation"] = {setting: value}
    assert said(*cards) == [f"task.evaluation.{setting} differs: 2 of ppo; of the others 1"]


def test_rows_that_were_not_tuned_are_named_where_others_were() -> None:
    tuned = replace(make("kto"), notes=make("kto").notes | {"tuning": "8 trials on validation prompts, by a"})
    plain = replace(make("dpo"), notes=make("dpo").notes | {"tuning": "default"})
    assert said(tuned, plain) == ["not tuned: dpo"]
    assert said(plain) == []


def test_a_seed_without_a_curve_is_named_and_one_without_a_metric_counts_as_missing() -> None:
    (section,) = board(0.38, 0.4, 0.42).sections
    dpo = next(row for row in section.rows if row.name == "dpo").cards
    others = [card for row in section.rows if row.name != "dpo" for card in row.cards]
    lacking = replace(dpo[0], curve=[], metrics={name: e for name, e in dpo[0].metrics.items() if name != "kl"}, values={})
    (found,) = build_board([*others, lacking, *dpo[1:]]).sections
    assert found.unequal == ["dpo: 1 of 3 cards have no curve from the base on; readings at equal KL are of the rest"]
    row = next(row for row in found.rows if row.name == "dpo")
    assert (row.seeds, row.estimate("kl").missing, section.unequal) == (3, row.estimate("kl").n, [])


def test_a_curve_without_its_base_is_none_and_the_row_says_so() -> None:
    """Else all its gains would be those over its first snapshot, and its rank at equal KL the worse for it."""
    (whole,) = board(0.38, 0.4, 0.42).sections
    cards = [card for row in whole.rows for card in row.cards]
    headless = [replace(card, curve=card.curve[1:]) if card.algorithm == "dpo" else card for card in cards]
    (found,) = build_board(headless).sections
    assert "dpo" in whole.curves
    assert "dpo" not in found.curves
    assert found.unequal == ["dpo: 3 of 3 cards have no curve from the base on"]


def test_settings_of_another_task_are_equal_where_all_rows_have_those_of_their_method() -> None:
    told = "8 trials on validation prompts, by a"
    cards = [make(name, notes=make(name).notes | {"tuning": f"{told}, as nano_{name}"}) for name in ("dpo", "kto")]
    assert said(*cards) == []
    own = make("ppo", notes=make("ppo").notes | {"tuning": told})
    assert said(*cards, own) == [f"tuning differs: {told} of ppo; of the others {told}, as nano"]


def test_other_devices_and_one_method_under_two_names_are_named() -> None:
    rows = [replace(make(name), training={"device": "cpu", "steps": 9}) for name in ("dpo", "kto")]
    other = replace(make("ppo"), training={"device": "cuda, NVIDIA H200", "steps": 9}, contents={"samples": "a"})
    assert said(*rows, other) == ["device differs: cuda, NVIDIA H200 of ppo; of the others cpu"]
    twin = replace(rows[0], contents={"samples": "a"})
    assert said(twin, rows[1], other)[-1] == "dpo and ppo gave the same answers: they are one method under several names"
    assert not any("same answers" in line for line in said(replace(twin, contents={"samples": "b"}), rows[1], other))
