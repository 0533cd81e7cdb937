"""Two methods, paired on every metric, with a verdict in words."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate, Flag
from isoalign.evaluation import card as cards
from isoalign.report.compare import compare_methods, pair_up, sides
from workbench import COMMAND

PROMPTS = [f"p{i}" for i in range(64)]


def card(name: str, seed: int, toxicity: float, kl: float = 2.0, **changes: object) -> Card:
    rng = np.random.default_rng([seed, *map(ord, name)])
    hard = np.random.default_rng(0).random(64)
    values = {
        "toxicity_mean": dict(zip(PROMPTS, (toxicity * hard + 0.01 * rng.random(64)).tolist(), strict=True)),
        "kl": dict.fromkeys(PROMPTS, kl),
        "odd": dict.fromkeys(PROMPTS[:2]),
    }
    metrics = {"perplexity": Estimate(50.0, 40.0, 60.0, 64), "toxicity_mean": Estimate(toxicity, None, None, 64)}
    base = Card(
        key=f"{name}{seed}".ljust(16, "0"), task="nano", algorithm=name, config={}, seed=seed, budget={"flops": 1e12},
        spent={"flops": 1e12}, metrics=metrics, parents={}, versions={"metric toxicity": "2"}, command="", notes={"draws": 8},
        families={"toxicity": ["toxicity_mean"]}, values=values,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


GOOD = [card("good", seed, 0.2) for seed in range(3)]
BAD = [card("bad", seed, 0.6) for seed in range(3)]


def line(page: str, metric: str) -> str:
    return next(row for row in page.splitlines() if row.strip().startswith(metric))


def test_a_difference_is_told_with_its_sign_and_what_it_means() -> None:
    page = compare_methods(GOOD, BAD)
    assert line(page, "toxicity_mean").endswith("good is better")
    assert "-0.2" in line(page, "toxicity_mean")
    assert line(page, "kl").endswith("equal")
    assert line(page, "odd").endswith("too few prompts")
    assert "3 seeds and 3 seeds, paired on 64 prompts" in page
    assert page.splitlines()[-1] == "toxicity_mean: good is better; kl: equal."
    assert line(compare_methods(BAD, GOOD), "toxicity_mean").endswith("good is better")


def test_what_is_flagged_on_a_side_stands_under_the_verdicts() -> None:
    gated = [replace(one, flags=[Flag("gate", "it repeats itself")] if one.seed < 2 else []) for one in GOOD]
    page = compare_methods(gated, BAD).splitlines()
    assert page[-2:] == [
        "good fails a gate of quality: no board ranks such a method.",
        "good: gate: it repeats itself (seed 0, 1)",
    ]
    twice = [*BAD, replace(BAD[0], key="another")]
    assert compare_methods(GOOD, twice).splitlines()[-1] == "bad: 2 cards of seed 0, averaged"
    assert pair_up(gated, BAD).data()["flags_a"] == ["gate: it repeats itself (seed 0, 1)"]


def test_a_method_against_itself_is_not_told_apart() -> None:
    page = compare_methods(GOOD, GOOD)
    assert line(page, "toxicity_mean").endswith("not resolved"), "its interval is of seeds, and not 0"
    assert "good (A)" in page
    assert "good (B)" in page
    other = [card("good", seed, 0.2) for seed in (3, 4, 5)]
    assert line(compare_methods(GOOD, other), "toxicity_mean").endswith("not resolved")


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(UserError, match="good is of task nano and bad of smol"):
        compare_methods(GOOD, [replace(one, task="smol") for one in BAD])
    with pytest.raises(UserError, match="draws per prompt differ"):
        compare_methods(GOOD, [replace(one, notes={"draws": 4}) for one in BAD])
    with pytest.raises(UserError, match="different budgets can't be compared"):
        compare_methods(GOOD, [replace(one, budget={"flops": 2e12}) for one in BAD])
    with pytest.raises(UserError, match="start from different SFT bases"):
        compare_methods(GOOD, [replace(one, parents={"sft": "f" * 16}) for one in BAD])
    with pytest.raises(UserError, match="different versions of toxicity"):
        compare_methods(GOOD, [replace(one, versions={"metric toxicity": "1"}) for one in BAD])
    with pytest.raises(UserError, match="no metric has values by prompt"):
        compare_methods(GOOD, [replace(one, values={}) for one in BAD])


def test_a_limit_that_is_none_is_no_limit() -> None:
    assert compare_methods(GOOD, [replace(one, budget=one.budget | {"labels": None}) for one in BAD])


def test_sides_on_different_prompts_are_told_so() -> None:
    few = [replace(one, values={name: dict(list(by.items())[1:]) for name, by in one.values.items()}) for one in BAD]
    with pytest.raises(UserError, match="values on different prompts, so nothing can be paired"):
        compare_methods(GOOD, few)


def test_figures_of_different_reward_models_are_left_out() -> None:
    def rewarded(by: str) -> list[Card]:
        return [replace(one, parents={f"reward_{by}": by}, values=one.values | {"proxy_reward": one.values["kl"]})
                for one in GOOD]  # fmt: skip

    assert line(compare_methods(rewarded("judge"), rewarded("judge")), "proxy_reward")
    found = pair_up(rewarded("judge"), rewarded("annotator"))
    assert found.data()["metrics_left_out"] == ["proxy_reward"]
    assert "\nNot compared, as of different reward models: proxy_reward.\n" in found.text()


@pytest.mark.parametrize("kept", [{}, {"toxicity_mean": dict.fromkeys(PROMPTS[:9], 0.2)}])
def test_a_metric_that_one_card_lacks_or_has_on_other_prompts_is_named(kept: dict[str, dict[str, float | None]]) -> None:
    values = {name: values for name, values in GOOD[0].values.items() if name != "toxicity_mean"} | kept
    page = compare_methods([replace(GOOD[0], values=values), *GOOD[1:]], BAD)
    assert "\nNot compared, as not on every card for the same prompts: toxicity_mean.\n" in page
    assert "Not compared" not in compare_methods(GOOD, BAD)


def test_sides_are_paths_or_names(tmp_path: Path) -> None:
    good, bad = ([cards.sealed(one) for one in these] for these in (GOOD, BAD))
    path, *_ = [cards.write_card(one, tmp_path) for one in good + bad]
    assert sides("good", str(path), tmp_path) == (good, good[:1])
    with pytest.raises(UserError, match="goood"):
        sides("goood", "bad", tmp_path)
    with pytest.raises(UserError, match="no cards in"):
        sides("good", "bad", tmp_path / "none")


def test_of_two_budgets_those_that_can_be_compared_are_meant(tmp_path: Path) -> None:
    base = card("sft", 0, 0.7, training={"steps": 0}, spent={"flops": 0.0})
    dear = [replace(one, key=f"dear{one.seed}".ljust(16, "0"), budget={"flops": 2e12}) for one in BAD]
    for one in [base, *GOOD, *BAD, *dear]:
        cards.write_card(cards.sealed(one), tmp_path)
    found = sides("good", "bad", tmp_path)
    assert [{one.budget["flops"] for one in side} for side in found] == [{1e12}, {1e12}]
    assert [len(side) for side in sides("good", "sft", tmp_path)] == [3, 1], "the base is one row in two sections"
    other = replace(dear[0], key="other".ljust(16, "0"), algorithm="good", config={"algorithm": {"lr": 1.0}})
    cards.write_card(cards.sealed(other), tmp_path)
    with pytest.raises(UserError, match="good matches 2 rows"):
        sides("good", "bad", tmp_path)  # they differ in more than the budget
    with pytest.raises(UserError, match=r"bad matches 2 rows \(bad at 1.00e12 FLOP; bad at 2.00e12 FLOP\)"):
        sides("bad", "sft", tmp_path)


def test_no_name_is_so_long_that_a_number_is_cut_off() -> None:
    names = [f"{side}-{'x' * 40}" for side in ("good", "bad")]
    good, bad = ([replace(one, algorithm=name) for one in rows] for name, rows in zip(names, (GOOD, BAD), strict=True))
    short, long = (line(page, "toxicity_mean").split() for page in (compare_methods(GOOD, BAD), compare_methods(good, bad)))
    assert short[:-3] == long[:-3]
    assert long[-3:] == [names[0], "is", "better"]


def test_what_has_no_value_is_counted() -> None:
    blank = [replace(one, values=one.values | {"kl": one.values["kl"] | dict.fromkeys(PROMPTS[:50])}) for one in GOOD]
    assert "Prompts without a value on every card, left out: kl 50, odd 2." in compare_methods(blank, BAD)


def test_the_command_prints_it(tmp_path: Path) -> None:
    for one in GOOD + BAD:
        cards.write_card(cards.sealed(one), tmp_path / "nano")
    done = subprocess.run([COMMAND, "compare", "good", "bad", "--results", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "good is better" in done.stdout


def test_what_is_not_equal_beside_the_method_is_said() -> None:
    def told(cards: list[Card], tuning: str, torch: str) -> list[Card]:
        return [replace(one, notes=one.notes | {"tuning": tuning}, versions=one.versions | {"torch": torch}) for one in cards]

    page = compare_methods(told(GOOD, "8 trials on validation prompts, by a", "2.13"), told(BAD, "default", "2.12"))
    assert "Not equal: not tuned: bad." in page
    assert "Not equal: torch differs: 2.12 of bad; of the others 2.13." in page
    assert pair_up(GOOD, BAD).data()["unequal"] == []


def test_older_cards_that_name_no_families_are_not_compared_across_versions() -> None:
    older = [replace(one, families={}) for one in GOOD]
    newer = [replace(one, families={}, versions={"metric toxicity": "3"}) for one in BAD]
    with pytest.raises(UserError, match="scored with different versions of toxicity"):
        pair_up(older, newer)
