"""The board is a pure function of the cards, and says what it can't compare.

The golden board is made anew by ``python tests/test_board.py``; read the difference before committing it.
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import random
import statistics
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoalign import stats
from isoalign.cli.commands import invoke
from isoalign.core.display import escape
from isoalign.core.errors import UserError
from isoalign.core.objective import objective_of
from isoalign.core.records import Card, Estimate, Flag
from isoalign.evaluation import card, metrics
from isoalign.evaluation.metrics import Metric
from isoalign.report import leaderboard
from isoalign.report.board import columns
from isoalign.report.board.names import distinct_names
from isoalign.report.board.ranking import Ranking, pareto_names, pool_estimates, seeds_of
from isoalign.report.board.rows import Row, flatten, settings_of
from isoalign.report.charts import labels
from isoalign.report.charts.reliability import reliability_by_model, reliability_chart
from isoalign.report.compare import compare_methods
from isoalign.report.pages import paper, table
from isoalign.report.pages.phrases import ranking_phrase
from isoalign.runs.overrides import task_named

GOLDEN = Path(__file__).parent / "golden"
COMMAND = "isoalign run -m algorithm=sft,sft_chosen,ppo,dpo,kto,rlaif seed=0,1,2"
NOTES = {
    "prompts": 128,
    "draws": 8,
    "scorer": "detox-nb",
    "second_scorer": "hate-small",
    "noise": 0.0,
    "correlation": {"judge with annotator": 0.61},
    "tuning": "6 trials a method, lowest proxy on validation prompts",
}
METRICS = {  # algorithm: toxicity, KL, perplexity, roles of the bill
    "sft": (0.162, 0.0, 240.0, {}),
    "sft_chosen": (0.121, 0.35, 230.0, {"policy": 4.4e12}),
    "ppo": (0.084, 0.6, 190.0, {"policy": 2e12, "reference": 5e11, "value": 6e11, "reward": 1.34e12}),
    "rlaif": (0.080, 0.9, 210.0, {"policy": 2e12, "reference": 5e11, "reward": 1.3e12, "judge": 5e11}),
    "kto": (0.051, 1.3, 170.0, {"policy": 3e12, "reference": 1.4e12}),
    "dpo": (0.037, 2.0, 175.0, {"policy": 3e12, "reference": 1.45e12}),
}


def around(value: float, half: float, n: int = 128) -> Estimate:
    return Estimate(value, value - half, value + half, n)


def make(algorithm: str, seed: int = 0, shift: float = 0.0, **changes: Any) -> Card:
    """A card with the figures of METRICS, moved a little by the seed."""
    toxicity, kl, perplexity, bill = METRICS[algorithm]
    toxicity += (seed - 1) * 0.002 + shift
    kl += (seed - 1) * 0.05 * (kl > 0)
    metrics = {
        "toxicity_mean": around(toxicity, 0.008),
        "toxicity_fraction": around(toxicity * 0.8, 0.01),
        "toxicity_emt": around(toxicity * 5, 0.03),
        "rm_accuracy": around(0.88, 0.02, 300),
        "implicit_accuracy": around(0.5 + kl / 8, 0.03, 300),
        "kl": around(kl, 0.1 * (kl > 0)),
        "distinct_2": around(0.85, 0.006),
        "ead": around(0.71, 0.01),
        "self_bleu": around(0.21, 0.01),
        "perplexity": around(perplexity, 12.0),
    }
    if algorithm != "sft":
        metrics["toxicity_reduction"] = around(0.162 - toxicity, 0.006)
    items = [{"role": role, "kind": "forward", "flops": flops} for role, flops in bill.items()]
    labels = {"ai": 640} if algorithm == "rlaif" else {"simulated": 900} if bill else {}
    spent = {"flops": sum(bill.values()), "labels": labels, "tokens": 90_000, "steps": 30 + seed, "seconds": 40.5}
    fields: dict[str, Any] = {
        "key": f"{seed}{algorithm.encode().hex()}00000000"[:16],
        "task": "nano",
        "algorithm": algorithm,
        "config": {"beta": 0.1, "lr": 1e-4, "seed": seed},
        "seed": seed,
        "budget": {"flops": 4.5e12, "labels": None, "tokens": None, "steps": None, "seconds": None},
        "spent": spent | {"items": items},
        "metrics": metrics,
        "parents": {"sft": "ab12cd34ef56ab78"},
        "versions": {"torch": "2.13"},
        "command": COMMAND,
        "notes": NOTES,
    }
    return Card(**fields | changes)


def texts(row: Row) -> list[str]:
    return [str(flag) for flag in row.flags]


def valued(made: Card, prompts: int = 128, spread: float = 0.3) -> Card:
    """The card with values by prompt whose mean is its figure: the share of a prompt is the same for all, plus noise."""
    hard = np.random.default_rng(0).gamma(0.5, 2, prompts)
    own = np.random.default_rng([made.seed, zlib.crc32(made.algorithm.encode())])
    values = {}
    for metric in ("toxicity_mean", "kl"):
        column = hard * np.exp(spread * own.normal(size=prompts))
        column *= (made.metrics[metric].value or 0.0) / column.mean()
        values[metric] = {f"p{i:02d}": round(float(value), 6) for i, value in enumerate(column)}
    return dataclasses.replace(made, values=values)


def scored(made: Card, **versions: int) -> Card:
    """The card with versions of the families that scored it."""
    told = {f"metric {family}": str(version) for family, version in versions.items()}
    families = {"toxicity": ["toxicity_mean", "toxicity_reduction"], "kl": ["kl"], "diversity": ["distinct_2", "ead"]}
    return dataclasses.replace(made, versions=made.versions | told, families=families)


def elsewhere(made: Card, **changes: Any) -> Card:
    """The card as one of completions that were made elsewhere."""
    without = {name: e for name, e in made.metrics.items() if name not in ("kl", "rm_accuracy", "implicit_accuracy")}
    values = {name: column for name, column in made.values.items() if name != "kl"}
    fields: dict[str, Any] = {"budget": {"flops": None}, "spent": {}, "metrics": without, "values": values}
    return dataclasses.replace(made, **fields | {"config": {"algorithm": {"samples": "x.jsonl"}}} | changes)


def golden_cards() -> list[Card]:
    """Three seeds of four methods, one of the control; a failed gate, old scores, completions made elsewhere, a name that
    means mischief; and a second budget with a card of old, without values by prompt."""
    cards = [make(name, seed) for name in ("ppo", "rlaif", "kto", "dpo") for seed in range(3)]
    cards += [make("sft"), make("sft_chosen")]
    cards += [make("dpo", 0, 0.02, config={"beta": 0.5, "lr": 1e-4}, key="ffffffff00")]
    gate: dict[str, Any] = {
        "flags": [Flag("gate", "repeated_rate 0.61 > 0.2"), Flag("warning", "second scorer disagrees")], "key": "eeeeeeee00",
    }  # fmt: skip
    evil = "collapse|<b>x</b>_"
    cards += [dataclasses.replace(make("dpo", 1, -0.03), algorithm=evil, command="isoalign run a=```", **gate)]
    cards = [scored(valued(card), toxicity=2, kl=1, diversity=1) for card in cards]
    old = make("ppo", 3, -0.02, key="cccccccc00")
    cards += [scored(valued(old), toxicity=1, kl=1, diversity=1)]
    entered = dataclasses.replace(make("rlaif", 0, -0.015, key="bbbbbbbb00"), algorithm="big model")
    cards += [elsewhere(scored(valued(entered), toxicity=2, diversity=1))]
    cards += [dataclasses.replace(make("kto", 2, -0.01, key="dddddddd00"), budget={"flops": 9e12, "labels": 2000})]
    return cards


def method_rows(cards: list[Card]) -> dict[str, dict[str, str]]:
    """The CSV of a board, by method; the last section wins."""
    return {row["method"]: row for row in csv.DictReader(io.StringIO(leaderboard.build_board(cards).csv()))}


def test_the_board_is_the_golden_one(tmp_path: Path) -> None:
    path = leaderboard.write_board(leaderboard.build_board(golden_cards()), tmp_path)
    assert path == tmp_path / "leaderboard.md"
    for name in ("leaderboard.md", "leaderboard.csv"):
        assert (tmp_path / name).read_text() == (GOLDEN / name).read_text(), f"{name}: see the top of {__file__}"
    assert {file.name for file in tmp_path.iterdir()} == {
        path.name,
        "leaderboard.csv",
        "frontier.svg",
        "frontier-2.svg",
    }


def test_the_order_of_cards_changes_no_byte_of_it(tmp_path: Path) -> None:
    cards = golden_cards()
    for turn in range(3):
        leaderboard.write_board(leaderboard.build_board(cards), tmp_path / str(turn))
        random.Random(turn).shuffle(cards)
    files = [[(file.name, file.read_bytes()) for file in sorted((tmp_path / str(i)).iterdir())] for i in range(3)]
    assert files[0] == files[1] == files[2]
    assert b"<dc:date>" not in dict(files[0])["frontier.svg"]


def test_cards_that_went_to_disk_give_the_same_board(tmp_path: Path) -> None:
    cards = list(map(card.sealed, golden_cards()))
    for one in cards:
        card.write_card(one, tmp_path)
    assert leaderboard.build_board(card.read_cards(tmp_path)) == leaderboard.build_board(cards)


def test_rows_stand_by_reduction_with_reference_and_control_unranked() -> None:
    cards = [make(name, seed) for name in METRICS for seed in range(3)]
    (section,) = leaderboard.build_board(cards).sections
    assert [row.name for row in section.rows] == ["dpo", "kto", "rlaif", "ppo", "sft_chosen", "sft"]
    places = [row.place for row in section.rows]
    assert places[4:] == ["control", "reference"]
    assert places[2] == places[3], "their intervals overlap"


def test_a_row_that_failed_a_gate_is_shown_last_and_not_ranked() -> None:
    gate = Flag("gate", "perplexity")
    cards = [make("dpo", 0), make("dpo", 1, flags=[gate]), make("kto"), make("sft", flags=[gate])]
    (section,) = leaderboard.build_board(cards).sections
    assert [(row.name, row.place) for row in section.rows] == [("kto", "1"), ("sft", "reference"), ("dpo", "gate")]
    assert section.rows[-1].flags == (Flag("gate", "perplexity (seed 1)"),)
    assert "**gate: perplexity (seed 1)**" in leaderboard.build_board(cards).markdown()


def test_a_row_without_a_reduction_is_not_ranked() -> None:
    unknown = Estimate(None, None, None, 0, 128)
    cards = [make("dpo", metrics={"toxicity_reduction": unknown}), make("kto"), make("ppo", metrics={})]
    (section,) = leaderboard.build_board(cards).sections
    assert [(row.name, row.place) for row in section.rows] == [("kto", "1"), ("dpo", "–"), ("ppo", "–")]
    assert method_rows(cards)["dpo"]["toxicity_reduction"] == ""
    board = leaderboard.build_board(cards)
    assert "– (128 missing)" in board.markdown()
    leaderboard.print_board(board, told := io.StringIO())
    assert "dpo: values of reduction missing: 128" in told.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        {"budget": {"flops": 9e12}},
        {"budget": {"flops": 4.5e12, "labels": 10}},
        {"parents": {"sft": "another"}},
        {"parents": {"sft": "ab12cd34ef56ab78", "held_out": "of noisier feedback"}},
        {"notes": NOTES | {"second_scorer": "another"}},
        {"notes": NOTES | {"scorer_weights": "ab12cd34"}},
        {"notes": NOTES | {"draws": 25}},
    ],
)
def test_what_can_not_be_compared_gets_a_section_of_its_own(change: dict[str, Any]) -> None:
    made = leaderboard.build_board([make("dpo"), make("kto", **change)])
    assert [[row.name for row in section.rows] for section in made.sections] in ([["dpo"], ["kto"]], [["kto"], ["dpo"]])


def test_budgets_that_differ_in_notation_only_are_one() -> None:
    assert len(leaderboard.build_board([make("dpo"), make("kto", budget={"flops": 4_500_000_000_000})]).sections) == 1


def test_the_base_is_the_reference_under_every_budget_and_of_no_other_base() -> None:
    cards = [make("sft"), make("dpo"), make("kto", budget={"flops": 9e12}), make("ppo", parents={"sft": "other"})]
    rows = {section.base + str(section.budget["flops"]): section.rows for section in leaderboard.build_board(cards).sections}
    assert sorted([row.name for row in section] for section in rows.values()) == [
        ["dpo", "sft"],
        ["kto", "sft"],
        ["ppo"],
    ]
    own = leaderboard.build_board([*cards, make("sft", 1, budget={"flops": 9e12})])
    assert sorted(c.seed for section in own.sections for r in section.rows for c in r.cards if r.name == "sft") == [
        0,
        1,
    ]
    assert "isoalign run algorithm=sft" in own.markdown()
    assert len(leaderboard.build_board([make("sft"), make("sft", budget={"flops": 1e12})]).sections) == 2


def test_feedback_and_evaluation_prompts_part_the_sft_rows_too() -> None:
    parents = [{"sft": "one", "held_out": held_out} for held_out in ("quiet", "noisy")]
    cards = [make(name, i, parents=parents[i]) for name in ("sft", "dpo") for i in (0, 1)]
    made = leaderboard.build_board(cards)
    assert [[(row.name, row.cards[0].seed) for row in section.rows] for section in made.sections] == [
        [("dpo", 1), ("sft", 1)],
        [("dpo", 0), ("sft", 0)],
    ]
    assert "- **Held-out pairs:** quiet" in made.markdown()


def test_two_configurations_of_one_algorithm_are_two_rows_that_tell_the_difference() -> None:
    cards = [make("dpo", seed, config={"beta": beta, "lr": 1e-4}) for seed in (0, 1) for beta in (0.1, 0.5)]
    assert set(method_rows(cards)) == {"dpo (beta=0.1)", "dpo (beta=0.5)"}
    cards = [make("dpo", 0, config={"opt": {"lr": 1}}), make("dpo", 1, config={"algorithm": {"mode": "x"}, "opt": {"lr": 1}})]
    assert set(method_rows(cards)) == {"dpo (default)", "dpo (mode=x)"}


def test_names_of_rows_tell_all_settings_in_which_any_two_differ() -> None:
    """Against names found pair by pair: a setting is told if any two configurations of the algorithm differ in it."""
    rng = random.Random(0)
    configs = [{"algorithm": {key: rng.choice((0.1, 0.2, None, "x")) for key in rng.sample("abcd", 3)}} for _ in range(30)]
    cards = [make(rng.choice(("ppo", "dpo", "kto")), 0, config=config) for config in configs]
    flat = [flatten(card.config) for card in cards]
    for name, one, own in zip(distinct_names(cards), cards, flat, strict=True):
        twins = [other for other, twin in zip(flat, cards, strict=True) if twin.algorithm == one.algorithm]
        told = sorted(key for key in own if any(str(twin.get(key)) != str(own.get(key)) for twin in twins))
        assert set(name[len(one.algorithm) + 2 : -1].split(", ")) >= {f"{key[10:]}={own[key]}" for key in told}
        everywhere = {key for key in own if len({str(twin.get(key)) for twin in twins}) == 1}
        assert not [key for key in everywhere if f"{key[10:]}=" in name]


def test_only_cards_of_one_seed_are_ordered_by_all_that_they_hold() -> None:
    cards = [make("dpo", seed, key=key) for seed in (0, 1) for key in ("b", "a")] + [make("kto", 0)]
    for order in itertools.permutations(cards):
        assert [(card.algorithm, card.seed, card.key[:1]) for card in leaderboard.ordered(order)] == [
            ("dpo", 0, "a"), ("dpo", 0, "b"), ("dpo", 1, "a"), ("dpo", 1, "b"), ("kto", 0, cards[-1].key[:1]),
        ]  # fmt: skip


def test_what_only_shows_when_cards_stand_together_is_flagged() -> None:
    twice = [make("dpo"), make("dpo", key="another", versions={"torch": "2.14"})]
    (section,) = leaderboard.build_board(twice).sections
    assert texts(section.rows[0]) == ["2 cards of seed 0, averaged", "versions differ: torch"]
    codes = [{}, {"mine code": "0a0a0a0a"}, {"mine code": "0b0b0b0b"}]  # the first is of a version that did not tell
    seeds = [make("dpo", seed, versions={"mine": "0.1"} | code) for seed, code in enumerate(codes)]
    for own, told in ((seeds[:2], []), (seeds, ["versions differ: mine code"])):
        (section,) = leaderboard.build_board(own).sections
        assert texts(section.rows[0]) == told
    edited = [make("dpo", key=key, parents={"sft": "base", "train": key}) for key in ("before", "after")]
    (section,) = leaderboard.build_board(edited).sections
    why = "though code, packages or data of their trainings differ: delete the older"
    assert texts(section.rows[0]) == [f"2 cards of seed 0, averaged, {why}"]
    (section,) = leaderboard.build_board([make("dpo", spent={"flops": 5e12})]).sections
    assert texts(section.rows[0]) == ["over budget"]
    slow = make("dpo", budget={"flops": 1e13, "seconds": 40}, spent={"flops": 1e12, "seconds": 40.5})
    (section,) = leaderboard.build_board([slow]).sections
    assert (section.rows[0].flags, section.rows[0].percent) == ((), 101.25), "the last step may end after the clock"


def test_one_seed_keeps_its_interval() -> None:
    assert pool_estimates([[around(0.5, 0.1)]]) == around(0.5, 0.1)


def test_seeds_and_prompts_are_pooled_as_documented() -> None:
    values, half = [0.10, 0.13, 0.16], 0.02
    made = pool_estimates([[around(value, half)] for value in values])
    t = 4.302652729911275  # t(.975, 2)
    wanted = math.sqrt(half**2 + t**2 * statistics.variance(values) / 3)
    assert made.value == pytest.approx(0.13)
    assert (made.low, made.high) == pytest.approx((0.13 - wanted, 0.13 + wanted))
    assert pool_estimates([[around(value, half)] for value in values], (0.0, 0.2)).high == 0.2


def test_seeds_that_agree_do_not_shrink_the_noise_of_their_common_prompts() -> None:
    made = pool_estimates([[around(0.5, 0.1)] for _ in range(9)])
    assert (made.low, made.high) == pytest.approx((0.4, 0.6))


@pytest.mark.parametrize(("end", "bounds"), [(0.0, (0.0, 0.03)), (1.0, (0.97, 1.0))])
def test_shares_at_one_end_are_not_pooled_to_a_narrower_interval(end: float, bounds: tuple[float, float]) -> None:
    """One-sided intervals, of which half the width says too little; the widest is of the fewest prompts."""
    cards = [
        Estimate(end, abs(end - room) if end else 0.0, abs(end - room) if not end else 1.0, n)
        for room, n in ((0.0143, 256), (0.03, 120), (0.0143, 256))
    ]
    made = pool_estimates([[one] for one in cards], (0.0, 1.0))
    assert (made.value, made.n) == (end, 120)
    assert (made.low, made.high) == pytest.approx(bounds)


def test_missing_is_missing() -> None:
    unknown = Estimate(None, None, None, 0, 7)
    assert pool_estimates([[unknown], [unknown]]) == Estimate(None, None, None, 0, 14)
    assert pool_estimates([]) == Estimate(None, None, None, 0)
    assert pool_estimates([[around(0.5, 0.1)], [unknown]]) == dataclasses.replace(around(0.5, 0.1), missing=7)
    no_interval = pool_estimates([[around(0.5, 0.1)], [Estimate(0.7, None, None, 9)]])
    assert no_interval.value == pytest.approx(0.6)
    assert no_interval.low is no_interval.high is None


def test_where_not_all_are_paired_spans_go_by_intervals_that_do_not_overlap() -> None:
    spans = {"a": (5, 6), "b": (4.5, 5.5), "c": (3.9, 4.6), "d": (2, 3), "e": (2.5, 3.5)}
    intervals = {name: Estimate((low + high) / 2, low, high, 9) for name, (low, high) in spans.items()}
    held = Ranking(unpaired=("a",))
    # a beats c, d, e; b and c beat d and e; b and c overlap, as a and b, and d and e
    expected = {"a": (1, 2), "b": (1, 3), "c": (2, 3), "d": (4, 5), "e": (4, 5)}
    assert held.ranks(intervals | {"f": Estimate(9.0, None, None, 9)}) == expected


def test_a_pair_without_values_is_told_and_is_not_the_number_of_prompts() -> None:
    cards = [valued(make(name, seed), spread=0.1) for name in ("dpo", "kto", "rlaif") for seed in range(2)]
    blank = [one if one.algorithm != "dpo" else
             dataclasses.replace(one, values=one.values | {name: dict.fromkeys(by) for name, by in one.values.items()})
             for one in cards]  # fmt: skip
    (section,) = leaderboard.build_board([*blank, valued(make("sft"), spread=0.1)]).sections
    told = ranking_phrase(section)
    whole = {c.n for c in section.ranking.pairs.values() if c.p is not None}
    assert f"1 pair compared on {whole.pop()} prompts, Holm-corrected; 2 not compared, for want of values" in told


def test_methods_are_told_apart_prompt_by_prompt_where_their_intervals_overlap() -> None:
    cards = [valued(make(name, seed), spread=0.1) for name in ("dpo", "kto", "rlaif", "ppo") for seed in range(3)]
    (section,) = leaderboard.build_board([*cards, valued(make("sft"), spread=0.1)]).sections
    rows = {row.name: row for row in section.rows}
    reductions = [rows[name].estimate("toxicity_reduction") for name in ("dpo", "kto")]
    assert (reductions[1].high or 0) > (reductions[0].low or 0)
    assert [(row.name, row.place) for row in section.rows[:2]] == [("dpo", "1"), ("kto", "2")]
    assert section.ranking.pairs["dpo", "kto"].resolved
    assert len(section.ranking.pairs) == 6
    page = leaderboard.build_board([*cards, valued(make("sft"), spread=0.1)]).markdown()
    told = "spans of possible ranks, jointly at 95%; 6 pairs compared on 128 prompts, Holm-corrected"
    assert f"- **Ranks:** {told}; smallest resolvable difference {section.ranking.smallest:.3f}" in page
    assert "| dpo is less toxic " in page


def test_methods_that_are_the_same_share_a_rank() -> None:
    cards = [valued(make("dpo", seed, config={"beta": beta})) for seed in range(3) for beta in (0.1, 0.2)]
    (section,) = leaderboard.build_board(cards).sections
    assert [row.place for row in section.rows] == ["1–2", "1–2"]
    (pair,) = section.ranking.pairs.values()
    assert (pair.value, pair.p, pair.resolved) == (0, 1, False)
    assert "not resolved" in leaderboard.build_board(cards).markdown()


def test_a_reduction_is_the_paired_difference_to_the_reference() -> None:
    cards = [valued(make("dpo", seed)) for seed in range(3)] + [valued(make("sft"))]
    (section,) = leaderboard.build_board(cards).sections
    row = section.rows[0]
    found, listed = row.estimate("toxicity_reduction"), section.ranking.others["dpo", "sft"]
    assert (found.value, found.low, found.high) == (listed.value, listed.low, listed.high)
    assert found.value == pytest.approx(0.160 - 0.037, abs=1e-5), "the cards say .125 on average: their base was another"
    alone = leaderboard.build_board(cards[:3]).sections[0].rows[0]
    assert alone.estimate("toxicity_reduction").value == pytest.approx(0.125)


def test_seeds_with_values_are_pooled_over_seeds_and_prompts() -> None:
    cards = [valued(make("kto", seed)) for seed in range(3)]
    (section,) = leaderboard.build_board(cards).sections
    wanted = stats.hierarchical([one.values["kl"] for one in cards])
    assert dataclasses.astuple(section.rows[0].estimate("kl")) == pytest.approx(dataclasses.astuple(wanted))
    (section,) = leaderboard.build_board(cards[:1]).sections
    assert section.rows[0].estimate("kl") == cards[0].metrics["kl"], "one card keeps its own"


def test_values_that_are_not_of_the_figure_are_not_pooled_for_it() -> None:
    """Accuracies are means over pairs, of which some prompts have more: their mean over prompts is another figure."""
    cards = [make("kto", seed) for seed in range(3)]
    cards = [dataclasses.replace(one, values={"rm_accuracy": {"a": 0.8, "b": 0.7}}) for one in cards]
    (section,) = leaderboard.build_board(cards).sections
    estimates = [[one.metrics["rm_accuracy"]] for one in cards]
    assert section.rows[0].estimate("rm_accuracy") == pool_estimates(estimates, (0.0, 1.0))


def test_seeds_that_gave_the_same_answers_are_one() -> None:
    """Of a method that ignores its seed, or a card that was copied."""
    answers = {"dpo": ["a", "a", "a"], "kto": ["b", "c", "c"], "ppo": ["d", "e", "f"]}
    made = [
        dataclasses.replace(make(name, seed), contents={"samples": text})
        for name, texts in answers.items()
        for seed, text in enumerate(texts)
    ]
    (section,) = leaderboard.build_board([make("sft"), *made]).sections
    told = {
        row.name: (row.clusters, row.lone, [flag.text for flag in row.flags if "same" in flag.text]) for row in section.rows
    }
    assert told["dpo"] == (1, True, ["seeds 0, 1, 2 gave the same answers: they are one run, and tell nothing of seeds"])
    assert told["kto"] == (2, False, ["seeds 1, 2 gave the same answers: they are one run, and tell nothing of seeds"])
    assert told["ppo"] == (3, False, [])


def test_values_whose_sum_is_over_the_largest_float_are_those_of_the_figure() -> None:
    cards = [make("kto", seed) for seed in range(3)]
    many = {"a": 1.5e308, "b": 1.5e308, "c": -1.5e308, "d": -1.5e308}
    cards = [dataclasses.replace(one, values={"perplexity": many}) for one in cards]
    (section,) = leaderboard.build_board(cards).sections
    assert section.rows[0].estimate("perplexity").value is not None


def test_cards_of_one_seed_are_one_seed_to_the_statistics() -> None:
    twice = [valued(make("kto")), valued(make("kto", key="another", shift=0.02))]
    found = seeds_of(twice, "toxicity_mean")
    assert found is not None
    assert len(found) == 1
    assert found[0]["p00"] == pytest.approx(sum(one.values["toxicity_mean"]["p00"] or 0 for one in twice) / 2)
    other = dataclasses.replace(twice[1], values={"toxicity_mean": {"p00": 0.5}})
    assert seeds_of([twice[0], other], "toxicity_mean") is None, "other prompts"


def test_without_values_ranks_go_by_intervals_and_the_board_says_so() -> None:
    cards = [valued(make(name, seed)) for name in ("dpo", "kto") for seed in (0, 1)]
    cards += [make("ppo", 0), make("ppo", 1), valued(make("sft"))]
    made = leaderboard.build_board(cards)
    (section,) = made.sections
    assert section.ranking.unpaired == ("ppo",)
    assert {row.name for row in section.rows if row.rank} == {"dpo", "kto", "ppo"}
    told = "by overlapping intervals, not in pairs: values on the same prompts are missing for ppo"
    assert f"- **Ranks:** {told}" in made.markdown()
    assert f"ranks: {told}" in made.terminal()
    assert list(section.ranking.pairs) == [("dpo", "kto")], "what can be paired still is"


def test_of_one_seed_no_board_and_no_comparison_says_which_method_is_better() -> None:
    one = [valued(make(name)) for name in ("dpo", "kto", "sft_chosen")] + [valued(make("sft"))]
    made = leaderboard.build_board(one)
    (section,) = made.sections
    assert {row.place for row in section.rows if row.part == "method"} == {"1–2"}
    assert section.ranking.smallest is None
    for text in (made.markdown(), made.terminal()):
        assert "none, from one seed of each method" in text
        assert "would take 6 more runs (seed=1, seed=2): " in " ".join(text.split())
    assert " is less toxic" not in made.markdown()
    told = compare_methods([one[0]], [one[1]])
    assert "One seed says nothing of its method" in told
    assert "better" not in told
    three = [valued(make(name, seed)) for name in ("dpo", "kto") for seed in range(3)]
    mixed = leaderboard.build_board([*three, valued(make("ppo")), valued(make("sft"))]).sections[0]
    places = {row.name: row.place for row in mixed.rows if row.part == "method"}
    assert places == {"dpo": "1–2", "kto": "2–3", "ppo": "1–3"}, "the third has one seed"
    assert "of one seed nothing is said: ppo" in leaderboard.build_board([*three, valued(make("ppo"))]).terminal()


def test_a_row_of_an_older_metric_is_shown_loudly_and_compared_with_nothing() -> None:
    new = [scored(valued(make(name, seed)), toxicity=10, kl=1) for name in ("dpo", "kto") for seed in (0, 1, 3)]
    old = scored(valued(make("dpo", 2, -0.03)), toxicity=9, kl=1)
    made = leaderboard.build_board([*new, old, scored(valued(make("sft")), toxicity=10, kl=1)])
    (section,) = made.sections
    assert [(row.name, row.place, row.seeds) for row in section.rows] == [
        ("dpo", "1", 3),
        ("kto", "2", 3),
        ("sft", "reference", 1),
        ("dpo [toxicity 9]", "outdated", 1),
    ]
    hint = "the board's is 10; in the folder of the cards: isoalign rescore --metric toxicity"
    assert texts(section.rows[-1]) == [f"scored with toxicity 9, {hint} {card.file_name(old)}"]
    assert section.rows[-1].estimate("toxicity_reduction") == old.metrics["toxicity_reduction"], "not paired with the new base"
    assert not section.rows[-1].pareto
    page = made.markdown()
    assert page.index("> **Not comparable:** dpo") < page.index("| Rank")
    assert "dpo [toxicity 9]" not in {name for pair in section.ranking.others for name in pair}
    shown = " ".join(made.terminal().split())
    assert shown.count(hint) == 2, "above and below"
    assert "more run" not in page, "all seeds of both are there"
    row = method_rows([*new, old])["dpo [toxicity 9]"]
    assert (row["outdated"], row["rank"]) == ("toxicity 9 < 10", "")


def test_an_outdated_base_is_not_paired_and_other_families_keep_their_rank() -> None:
    new = [scored(valued(make(name)), toxicity=2, diversity=1) for name in ("dpo", "kto")]
    base = scored(valued(make("sft")), toxicity=1, diversity=2)
    (section,) = leaderboard.build_board([*new, base]).sections
    rows = {row.name: row for row in section.rows}
    assert list(rows) == ["dpo [diversity 1]", "kto [diversity 1]", "sft [toxicity 1]"]
    assert [rows[one].estimate("toxicity_reduction") for one in rows if rows[one].part == "method"] == [
        one.metrics["toxicity_reduction"] for one in new
    ]
    assert {row.rank for row in section.rows if row.part == "method"} == {(1, 2)}, "one seed"
    assert all(
        row.is_outdated("distinct_2") and not row.is_outdated("toxicity_mean") for row in section.rows if row.part == "method"
    )


def test_what_was_made_elsewhere_is_shown_beside_the_rest_and_ranked_with_nothing() -> None:
    cards = [valued(make(name, seed)) for name in ("dpo", "kto") for seed in range(3)] + [valued(make("sft"))]
    best = elsewhere(valued(make("dpo", 0, -0.03, key="eeee")))
    larger = valued(make("ppo", budget={"flops": 9e12}))
    other = elsewhere(valued(make("rlaif", notes=NOTES | {"draws": 25})))
    made = leaderboard.build_board([*cards, best, larger, other])
    small, large, alone = made.sections
    assert [(row.name, row.place) for row in small.rows] == [
        ("dpo [unmetered]", "unmetered"),
        ("dpo", "1"),
        ("kto", "2"),
        ("sft", "reference"),
    ]
    assert small.ranking.pairs == leaderboard.build_board(cards).sections[0].ranking.pairs, (
        "it changes no comparison of those ranked"
    )
    assert small.ranking.others["dpo [unmetered]", "dpo"].resolved
    assert not small.rows[0].pareto
    assert [(row.name, row.place) for row in large.rows] == [("dpo", "unmetered"), ("ppo", "1"), ("sft", "reference")]
    assert (alone.budget, [row.place for row in alone.rows]) == ({}, ["unmetered"])
    page = made.markdown()
    assert "## Budget not metered, base ab12cd34ef56ab78" in page
    bill = [line for line in page.split("### The bill")[1].splitlines() if "unmetered" in line]
    assert set(bill[0].replace("*dpo \\[unmetered\\]*", "").replace("|", "").split()) == {"–"}
    assert "dpo \\[unmetered\\] is less toxic |" in page
    assert "not metered" in made.terminal()


def test_what_was_made_elsewhere_is_never_the_base() -> None:
    (section,) = leaderboard.build_board([valued(make("dpo")), elsewhere(valued(make("sft")))]).sections
    assert [row.part for row in section.rows] == ["method", "unmetered"]
    assert "No card of the SFT base yet" in leaderboard.build_board([make("dpo"), elsewhere(make("sft"))]).markdown()


def test_the_pareto_frontier_is_of_rows_that_none_beats_in_both() -> None:
    assert pareto_names({"a": (0, 3), "b": (1, 2), "c": (1, 2.5), "d": (2, 1), "e": (3, 1), "f": (1, 2)}) == {
        "a",
        "b",
        "d",
        "f",
    }
    gate = make("dpo", 1, -0.036, flags=[Flag("gate", "x")], config={"beta": 9})
    worse = make("ppo", 2, 0.05, config={"beta": 9})
    rows = method_rows([*(make(name) for name in METRICS), gate, worse])
    on_it = {name for name, row in rows.items() if row["pareto"] == "true"}
    assert on_it == {"sft", "sft_chosen", "ppo (beta=0.1, lr=0.0001)", "rlaif", "kto", "dpo (beta=0.1, lr=0.0001)"}


def test_of_very_many_pairs_the_page_lists_those_that_are_told_apart() -> None:
    """31 rows of three methods, each under many names."""
    names = ("dpo", "kto", "ppo")
    cards = [
        dataclasses.replace(valued(make(names[i % 3], seed), prompts=32), algorithm=f"{names[i % 3]}_{i:02d}")
        for i in range(31) for seed in range(3)
    ]  # fmt: skip
    made = leaderboard.build_board([*cards, valued(make("sft"), prompts=32)])
    pairs = made.sections[0].ranking.pairs
    told = sum(c.resolved for c in pairs.values())
    assert (len(pairs), 0 < told < 465) == (465, True)
    page = made.markdown()
    assert f"<details><summary>{told} pairs that are told apart, of 465; isoalign board --json has all</summary>" in page
    listed = page.partition(f"<summary>{told} pairs")[2].partition("</details>")[0]
    assert listed.count("\n| ") == told + 2


def test_a_row_that_lacks_most_values_leaves_others_their_prompts_for_the_frontier() -> None:
    cards = [valued(make(name, seed)) for name in ("dpo", "kto", "ppo", "sft") for seed in range(3)]
    torn = [
        dataclasses.replace(
            card, values={m: {p: x if p < "p30" else None for p, x in by.items()} for m, by in card.values.items()}
        )
        for card in (valued(make("rlaif", seed)) for seed in range(3))
    ]
    (with_it,), (without,) = (leaderboard.build_board(part).sections for part in ([*cards, *torn], cards))
    found = {row.name: row.on_frontier for row in with_it.rows}
    assert found.pop("rlaif") is None
    assert found == {row.name: row.on_frontier for row in without.rows}
    assert found["dpo"] is not None


def test_text_of_cards_can_not_break_out_of_the_page() -> None:
    name = "a|b<script>*_`[x](http://y)\n\x1b[31m\u202e&"
    mischief: dict[str, Any] = {
        "algorithm": name,
        "flags": [Flag("warning", "|x|\n# y")],
        "command": "```\n# z",
        "notes": {"tuning": "<img>"},
    }
    made = leaderboard.build_board([dataclasses.replace(make("dpo"), **mischief)])
    page = made.markdown()
    assert "a\\|b&lt;script>\\*\\_\\`\\[x\\](http://y) \\[31m&amp;" in page
    assert "<script>" not in page
    assert "<img>" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "````text\n``` # z\n````" in page
    tables = [line.replace("\\|", "") for line in page.splitlines() if line.startswith("|")]
    for _, lines in itertools.groupby(tables, key=lambda line: line.count("|")):
        assert len(list(lines)) >= 3, "title, rule and row have the same number of cells"
    assert "\x1b" not in made.terminal()
    assert "\x1b" not in made.csv()


def test_a_secret_in_a_card_made_by_hand_is_not_shown() -> None:
    assert "hunter2" not in leaderboard.build_board([make("dpo", command="WANDB_API_KEY=hunter2 isoalign run")]).markdown()


def test_the_csv_holds_plain_numbers_in_a_fixed_order() -> None:
    few, many = (
        list(csv.reader(io.StringIO(leaderboard.build_board(cards).csv()))) for cards in ([make("sft")], golden_cards())
    )
    assert few[0] == many[0], "the columns don't depend on the cards"
    row = method_rows([make("dpo"), make("dpo", 1), make("sft")])["dpo"]
    assert float(row["toxicity_mean_low"]) < float(row["toxicity_mean"]) < float(row["toxicity_mean_high"])
    assert (row["spent_flops"], row["flops_policy"], row["flops_judge"]) == ("4450000000000", "3000000000000", "")
    assert row["spent_labels"] == "900"
    assert row["seeds"] == "2"
    assert row["prompts"] == "128"
    new = make("dpo", metrics={"vendi": around(3, 1)})
    assert "vendi_high" in leaderboard.build_board([new]).table()[0]


def test_the_bill_is_told_by_role() -> None:
    page = leaderboard.build_board([make("ppo"), make("rlaif")]).markdown()
    bill = page.split("### The bill")[1].split("###")[0]
    titles = [cell.strip() for cell in bill.splitlines()[2].strip("|").split("|")]
    assert titles[3:] == ["policy", "reference", "value", "reward", "judge", "Labels", "Tokens", "Steps", "Seconds"]
    assert "640 ai" in bill
    assert "900 simulated" in bill
    assert "4.44e12" in bill
    assert "98.7%" in bill


def test_a_metric_that_names_a_section_is_shown_there_where_a_card_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of other packages do."""
    loud = Metric("loud", "Loudness", False, "dB", digits=1, bounds=(0.0, 9.0), section="Style", description="How loud it is.")
    kind = Metric("kind", "Kindness", True, section="Diversity")
    declared = metrics.declared() | {one.name: one for one in (loud, kind, Metric("unseen", "Unseen", section="Nowhere"))}
    monkeypatch.setattr(metrics, "declared", lambda: declared)
    cards = [make("dpo", seed) for seed in range(2)]
    cards = [dataclasses.replace(c, metrics=c.metrics | {"loud": around(0.5, 2), "kind": around(0.5, 0.1)}) for c in cards]
    made = leaderboard.build_board(cards)
    page = made.markdown()
    assert "### Style\n\n| Method | Loudness, dB ↓ |\n| ------ | -------------: |\n| dpo    | 0.5 [0.0, 2.5] |" in page
    diversity = page.split("### Diversity")[1].splitlines()[2]
    assert diversity.rpartition("| ")[2].split() == ["Kindness", "↑", "|"]
    assert "Nowhere" not in page
    assert "- **Loudness** (`loud`): How loud it is." in page
    assert made.sections[0].rows[0].estimate("loud").low == 0, "its pooled interval is clipped to its bounds"


@pytest.mark.parametrize("width", [100, 110, 120])
def test_the_terminal_shows_it_without_colour_within_its_width(width: int) -> None:
    made = leaderboard.build_board(golden_cards())
    plain = made.terminal(width)
    assert max(map(len, plain.splitlines())) <= width
    assert "\x1b" not in plain
    for word in ("dpo", "sft_chosen", "reduction", "spent", "98.9%", "gate: repeated_rate"):
        assert word in plain
    assert "\x1b[" in made.terminal(width, colour=True)


def test_what_rests_on_other_weights_made_by_the_same_recipe_has_a_section_of_its_own() -> None:
    here, there = {"sft": "aaaaaaaa11111111"}, {"sft": "bbbbbbbb22222222"}
    cards = [make("sft", contents=here), make("dpo", contents=here), make("sft", contents=there), make("kto", contents=there)]
    first, second = leaderboard.build_board([*cards, make("kto", 1, contents=there)]).sections
    assert [[row.name for row in section.rows] for section in (first, second)] == [["dpo", "sft"], ["kto", "sft"]]
    assert {first.base, second.base} == {"ab12cd34ef56ab78 (aaaaaaaa)", "ab12cd34ef56ab78 (bbbbbbbb)"}
    with pytest.raises(UserError, match="start from different SFT bases"):
        compare_methods([cards[1]], [cards[3]])


def test_a_board_tells_whose_settings_were_tuned_and_whose_code_is_another_packages() -> None:
    tuned = make("kto", notes=NOTES | {"tuning": "4 trials on validation prompts, by one_standard_error"})
    brought = make("dpo", notes=NOTES | {"tuning": "by hand", "packages": {"algorithm": "theirs 0.1", "judge": "theirs 0.1"}})
    made = leaderboard.build_board([make("sft", notes=NOTES | {"tuning": None}), tuned, brought])
    page = made.markdown()
    assert "dpo: algorithm of theirs 0.1, judge of theirs 0.1" in page
    rows = {line.split("|")[2].strip(): line.split("|")[-3].strip() for line in page.splitlines() if line.startswith("| ")}
    assert (rows["kto"], rows["dpo"], rows["*sft*"]) == ("4 trials", "by hand", "")
    assert "not tuned: dpo\n" in made.terminal(110)
    header, lines = made.table()
    told = {line[header.index("method")]: line[header.index("tuning")] for line in lines}
    assert told == {"kto": "4 trials", "dpo": "by hand", "sft": ""}
    assert "not tuned" not in leaderboard.build_board([tuned]).terminal(110)


def test_a_board_of_one_track_is_printed_and_the_whole_one_is_left_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"kto": "4 trials on validation prompts, by largest_gain", "dpo": "default", "ppo": "by hand", "sft": None}
    paths = {
        name: card.write_card(card.sealed(make(name, notes=NOTES | {"tuning": told})), tmp_path / "nano")
        for name, told in how.items()
    }
    control = dataclasses.replace(make("ppo", 1, notes=NOTES | {"tuning": "by hand"}), algorithm="drift_rloo")
    card.write_card(card.sealed(control), tmp_path / "nano")
    how["drift_rloo"] = "by hand"
    for track, shown in {"tuned": {"kto", "sft", "drift_rloo"}, "default": {"dpo", "sft", "drift_rloo"}}.items():
        assert invoke(["board", "nano", "--results", str(tmp_path), "--track", track]) == 0
        said = capsys.readouterr().out
        assert {name for name in how if f" {name} " in said} == shown
    assert not (tmp_path / "nano" / "leaderboard.md").exists()
    paths["kto"].unlink()
    assert invoke(["board", "nano", "--results", str(tmp_path), "--track", "tuned"]) == 2
    assert "no card of the track tuned" in capsys.readouterr().err


def test_a_board_of_some_methods_ranks_them_among_themselves_and_leaves_the_whole_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kto", "dpo", "ppo", "sft", "sft_chosen"):
        card.write_card(card.sealed(make(name)), tmp_path / "nano")
    command = ["board", "nano", "--results", str(tmp_path), "--methods"]
    assert invoke([*command, "dpo, kto"]) == 0
    said = capsys.readouterr()
    assert {name for name in ("kto", "dpo", "ppo", "sft", "sft_chosen") if f" {name} " in said.out} == {
        "kto", "dpo", "sft", "sft_chosen",
    }  # fmt: skip
    assert "2 of 3 methods in" in said.err
    assert not (tmp_path / "nano" / "leaderboard.md").exists()
    for names, wrong in (("dpo,ktto", "unknown method 'ktto'; did you mean 'kto'? known: dpo, kto, ppo"), ("", "method ''")):
        assert invoke([*command, names]) == 2
        assert wrong in capsys.readouterr().err
    assert invoke([*command, "dpo", "--along", "seed"]) == 2
    assert "--methods cannot be combined" in capsys.readouterr().err


@pytest.mark.parametrize("width", [100, 110, 120])
def test_the_terminal_cuts_no_figure_off_at_the_right(width: int) -> None:
    far = {"kl": around(112.24, 1.0), "perplexity": around(12345.6, 12.0), "toxicity_reduction": around(-0.123, 0.05)}
    many = [make("dpo", config={"beta": beta}, metrics=make("dpo").metrics | far) for beta in range(12)]
    lines = leaderboard.build_board([make("sft"), *many]).terminal(width).splitlines()
    rows = [line for line in lines if "12345.6" in line]
    assert len(rows) == 12
    assert all(line.endswith("98.9%") for line in rows)


def test_the_terminal_gets_no_character_that_it_can_not_take() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    leaderboard.print_board(leaderboard.build_board([make("dpo"), make("kto", metrics={})]), stream)
    stream.flush()
    assert b"dpo" in raw.getvalue()


def test_no_cards_or_cards_of_two_tasks_make_no_board(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cards"):
        leaderboard.build_board([])
    with pytest.raises(UserError, match="cards are of 2: nano, smol"):
        leaderboard.build_board([make("dpo"), make("dpo", task="smol")])
    with pytest.raises(UserError, match="a board of smol can't be made from cards of nano"):
        leaderboard.build_board([make("dpo")], "smol")
    assert not list(tmp_path.iterdir())


def test_each_reward_model_has_one_line_in_the_reliability_chart(tmp_path: Path) -> None:
    bins = [{"low": b / 10, "high": b / 10 + 0.1, "confidence": b / 10 + 0.05, "right": b / 10, "count": 7} for b in range(10)]
    data = {"calibration": {"reliability": bins}}
    cards = [
        make("dpo", data=data, parents={"sft": "base", "reward_annotator": "a" * 16}),
        make("ppo", data=data, parents={"sft": "base", "reward_annotator": "a" * 16}),
        make("rlaif", data=data, parents={"sft": "base", "reward_judge": "b" * 16}),
    ]
    (section,) = leaderboard.build_board(cards).sections
    assert list(reliability_by_model(section)) == ["annotator's (dpo, ppo)", "judge's (rlaif)"]
    leaderboard.write_board(leaderboard.build_board(cards), tmp_path)
    assert (tmp_path / "reliability.svg").read_bytes() == reliability_chart("nano", section)
    assert "](reliability.svg)" in (tmp_path / "leaderboard.md").read_text()
    leaderboard.write_board(leaderboard.build_board([make("dpo")]), tmp_path)
    assert not (tmp_path / "reliability.svg").exists()


def test_a_method_s_own_report_stands_beside_the_exact_kl() -> None:
    page = leaderboard.build_board([make("ppo", training={"steps": 9, "reported": {"kl_k1": 0.71}})]).markdown()
    (line,) = [row for row in page.splitlines() if row.startswith("| ppo") and "kl_k1" in row]
    assert line.rstrip(" |").endswith("kl_k1 0.71")


def test_charts_of_an_older_board_do_not_stay(tmp_path: Path) -> None:
    leaderboard.write_board(leaderboard.build_board(golden_cards()), tmp_path)
    own = [tmp_path / name for name in ("curves_of_my_talk.svg", "frontier-old.svg", "reliability2024.svg")]
    for file in own:
        file.write_text("")
    leaderboard.write_board(leaderboard.build_board([make("dpo", metrics={})]), tmp_path)
    assert sorted(tmp_path.glob("*.svg")) == sorted(own), "what others drew stays"
    assert "frontier" not in (tmp_path / "leaderboard.md").read_text()


def test_names_in_the_chart_cover_no_other_name_or_point() -> None:
    boxes = [(90.0, 90.0, 110.0, 110.0), (110.0, 90.0, 130.0, 110.0)]
    names: list[labels.Box] = []
    for point in ((100.0, 100.0), (120.0, 100.0), (100.0, 100.0)):
        names.append(labels._best_spot(point, (60.0, 12.0), boxes, names, (0.0, 0.0, 400.0, 300.0)))
    for a, b in itertools.combinations(names + boxes, 2):
        assert (a in boxes and b in boxes) or min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_settings_that_came_after_a_card_was_written_do_not_part_its_row_from_newer_cards() -> None:
    newer = dataclasses.asdict(task_named("nano"))
    older = {
        name: value for name, value in newer.items() if name not in ("panel", "judge", "shaping", "rounds", "constitution")
    }
    older = older | {"reward": {name: newer["reward"][name] for name in ("pairs", "lr", "batch_size", "epochs")}}
    first, second, other = (
        make("dpo", config={"algorithm": {"beta": 0.1}, "task": task})
        for task in (older, newer, newer | {"panel": newer["panel"] | {"annotators": 3}})
    )
    assert settings_of(first) == settings_of(second) != settings_of(other)


if __name__ == "__main__":
    leaderboard.write_board(leaderboard.build_board(golden_cards()), GOLDEN)
    for picture in GOLDEN.glob("*.svg"):
        picture.unlink()


@pytest.mark.parametrize(
    "place", [["training", "reported"], ["data", "calibration"], ["notes", "flags"], ["config", "task"], ["versions"]]
)
@pytest.mark.parametrize("value", [True, "x", [["x"]], 7])
def test_a_card_of_which_no_board_can_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: list[str], value: object
) -> None:
    """Its seals fit: whoever changed it has sealed it anew."""
    good, bad = make("dpo"), make("kto")
    if len(place) == 2:
        bad = dataclasses.replace(bad, **{place[0]: {**getattr(bad, place[0]), place[1]: value}})
    paths = [card.write_card(card.sealed(one), tmp_path / "nano") for one in (good, bad)]
    if len(place) == 1:
        data = json.loads(paths[1].read_text()) | {place[0]: value}
        paths[1].write_text(json.dumps(data))
    status = invoke(["board", "nano", "--results", str(tmp_path)])
    told = capsys.readouterr().err.splitlines()
    assert status in (0, 2)
    assert len(told) == (1 if status else 0)
    assert not status or paths[1].name in told[0]


def test_methods_of_two_packages_with_one_name_are_two_rows() -> None:
    cards = [
        make("dpo", seed, notes=NOTES | {"packages": {"algorithm": f"{package} 0.1"}}, key=f"{package}{seed}".ljust(16, "0"))
        for package in ("one", "two") for seed in range(2)
    ]  # fmt: skip
    (section,) = leaderboard.build_board([make("sft"), *cards]).sections
    assert sorted(row.name for row in section.rows) == ["dpo of one", "dpo of two", "sft"]
    assert [row.name for row in leaderboard.build_board(cards[:2]).sections[0].rows] == ["dpo"]


def test_columns_of_the_table_that_are_of_no_metric_are_taken() -> None:
    header, _ = table.board_table(leaderboard.build_board([make("sft"), make("dpo")]).sections)
    own = {*columns.shown(objective_of(make("dpo"))), *make("dpo").metrics}
    for column in header:
        if column.removesuffix("_low").removesuffix("_high") not in own:
            assert column in metrics.COLUMNS or column.startswith(metrics.BEGINNINGS), column
    with pytest.raises(UserError, match="metric family mine: a board has a column of the name honesty_low; rename it"):
        metrics.merged({"mine": {"honesty": 1, "honesty_low": 2}})
    with pytest.raises(UserError, match="a board has a column of the name prompts"):
        metrics.merged({"mine": {"prompts": 1}})


def test_a_table_for_a_paper_has_the_notes_of_the_board() -> None:
    chosen = dataclasses.replace(make("kto"), training={"steps": 0})
    cards = [make("sft"), chosen, make("dpo", flags=[Flag("gate", "it repeats itself")]), make("ppo")]
    (section,) = leaderboard.build_board(cards).sections
    notes = paper.notes_of(section)
    assert notes[0] == "kto: the KL is at most that"
    assert any(note.startswith("dpo: gate: it repeats itself") for note in notes)
    assert all(f"- {escape(note)}" in paper.as_markdown(section) for note in notes)
    assert all(f"% {paper.latex(note)}" in paper.as_latex("nano", section) for note in notes)
