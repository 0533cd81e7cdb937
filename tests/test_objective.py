"""The objective of a task: its metrics by hand, and the mirror of toxicity: one minus it, of which more is better, must give
the same ranks, gains, frontier and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from isoalign.config.fill import build_config
from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.objective import TOXICITY, Objective, objective_of, objective_recipe
from isoalign.core.records import Card, Estimate, Flag, Point, Rewards, Sample, ScoredPair
from isoalign.evaluation import judge_check, metrics
from isoalign.evaluation.card import published, read_card, sealed, write_card
from isoalign.evaluation.metric_values import digits_recipe, measure_metrics, prompt_means
from isoalign.evaluation.metrics import ScoredSamples, kl, objective, quality, reward_accuracy
from isoalign.report import compare, publish
from isoalign.report.board.columns import leading, metric
from isoalign.report.charts.curves import curves_chart
from isoalign.report.charts.frontier import frontier_chart
from isoalign.report.cross_task import cross_task
from isoalign.report.leaderboard import Board, build_board
from isoalign.report.sweeps.sweep_report import sweep_report
from isoalign.report.sweeps.text import sweep_page
from isoalign.stats import equal_kl
from isoalign.stats import frontier as frontier_stats
from isoalign.stats.overoptimization import find_peak

SENTIMENT = Objective("sentiment", True, (-1.0, 1.0), 0.5)
LOSS = Objective("loss", False, (0.0, None), None)
PURITY = Objective("purity", True, (0.0, 1.0), 0.5)  # one minus toxicity


def scored(grid: dict[str, list[float | None]], goal: Objective, second: dict[str, list[float]] | None = None, **more: Any):
    cells = [(p, d) for p, row in grid.items() for d in range(len(row))]
    samples = [Sample(p, d, "", "", [], None, None, None, False, f"from {p}", "even") for p, d in cells]
    by_scorer: dict[str, list[float | None]] = {"main": [grid[p][d] for p, d in cells]}
    by_scorer |= {"second": [second[p][d] for p, d in cells]} if second else {}
    return ScoredSamples(samples, "main", by_scorer, "second" if second else None, objective=goal, **more)


def test_an_objective_on_a_small_scale_has_digits_for_it() -> None:
    small = Objective("rate", True, (-1e-4, 1e-4), None)
    assert metric(small.gain, small).digits == metric(small.level, small).digits == 6
    assert metric(SENTIMENT.gain, SENTIMENT).digits == metric(PURITY.level, PURITY).digits == 3
    assert metric(LOSS.gain, LOSS).digits == 3, "without an end there is no scale"


def test_scores_far_from_zero_keep_what_tells_prompts_apart() -> None:
    scores = [0.0123456, 0.7, -0.4, 0.25]
    for offset in (0.0, 1e5, -1e7):
        means = prompt_means({"level": {f"p{i}": [offset + score] for i, score in enumerate(scores)}})["level"]
        kept = [mean - offset for mean in means.values() if mean is not None]
        assert kept == pytest.approx(scores, abs=5e-4)  # a thousandth of their spread
    assert digits_recipe(LOSS) == {"digits": 3}
    assert digits_recipe(SENTIMENT) == {}, "keys of bounded objectives are those of before"
    assert prompt_means({"level": {"p": [1 / 3], "q": [None]}})["level"] == {"p": 0.33333, "q": None}


def test_scores_far_from_zero_keep_it_also_if_all_are_one_or_one_lies_elsewhere() -> None:
    path = next(Path(__file__).parents[1].glob("results/published/nano_rule/dpo-s0-*.json"))
    collapsed = {f"p{i}": [123456.7] for i in range(50)}
    uneven = {f"p{i}": [0.0 if i == 17 else 123456 + i / 7] for i in range(50)}
    for by in (collapsed, uneven, uneven | {f"q{i}": [123456.7] for i in range(50)}):
        means = prompt_means({"level": by}, far=True)["level"]
        assert means == pytest.approx({prompt: value for prompt, (value,) in by.items()}, abs=0.01)
        objective = {"objective": {"name": "cost", "bounds": [None, None], "threshold": None}}
        card = replace(read_card(path), digits=None, config={"task": objective}, values={"level": means})
        assert published(card).values["level"] == pytest.approx(means, abs=0.2)
    assert prompt_means({"level": collapsed})["level"]["p0"] == 123460.0, "digits of bounded objectives are those of before"


# -- its settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "x", "bounds": [1.0, 0.0]}, "bounds"),
        ({"name": "x", "bounds": [0.0]}, "bounds"),
        ({"name": "x", "threshold": 2.0}, "threshold"),
        ({"name": " "}, "name"),
        ({"higher_is_better": True}, "name another"),
        ({"direction": "up"}, "direction"),
    ],
)
def test_a_setting_that_is_no_objective_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        build_config(Objective, settings, "task.objective")
    assert "\n" not in str(raised.value)


def test_bounds_may_be_open_and_come_from_yaml_as_they_are_written() -> None:
    made = build_config(Objective, {"name": "reward", "higher_is_better": True, "bounds": [None, None]}, "task.objective")
    assert made == Objective("reward", True, (None, None))
    assert (made.low, made.high, made.best) == (float("-inf"), float("inf"), float("inf"))


def test_toxicity_is_in_no_recipe_and_another_objective_in_all() -> None:
    assert objective_recipe(TOXICITY) == {}
    assert objective_recipe(SENTIMENT)["objective"]["higher_is_better"] is True
    assert TaskConfig.__dataclass_fields__["objective"].default_factory() == TOXICITY  # type: ignore[misc]


# -- its metrics -------------------------------------------------------------------------------------------------------


def test_a_gain_is_the_move_in_the_direction_that_is_better() -> None:
    # means: base (0 + .2 + .4 - .2) / 4 = .1, own (.4 + .6 + .6 + 0) / 4 = .4
    base, own = {"a": [0.0, 0.2], "b": [0.4, -0.2]}, {"a": [0.4, 0.6], "b": [0.6, 0.0]}
    found = metrics.measure_all(scored(own, SENTIMENT, base=scored(base, SENTIMENT)))["objective"]
    assert found["objective_mean"].value == pytest.approx(0.4)
    assert found["gain"].value == pytest.approx(0.3)
    assert found["gain"].low is not None
    assert found["gain/source:from a"].value == pytest.approx(0.4)
    assert found["objective_mean/even"].value == pytest.approx(0.4)
    assert found["gain_relative"].value == pytest.approx(0.3 / 0.9), "of the way from .1 to 1"
    assert found["objective_share"].value == pytest.approx(0.5), ".6 twice, of four"


def test_where_lower_is_better_the_gain_has_the_other_sign_and_an_open_end_gives_no_share_of_the_way() -> None:
    found = objective.measure(scored({"a": [3.0], "b": [1.0]}, LOSS, base=scored({"a": [4.0], "b": [2.5]}, LOSS)))
    assert found["gain"].value == pytest.approx(1.25)
    assert found["gain_relative"].value == pytest.approx(1 - 4 / 6.5), "the best loss is 0"
    assert "objective_share" not in found
    free = Objective("reward", True, (None, None), None)
    assert "gain_relative" not in objective.measure(scored({"a": [3.0]}, free, base=scored({"a": [-4.0]}, free)))


def test_the_second_scorer_has_its_own_scale_and_the_main_one_the_objective_s() -> None:
    second = {"a": [40.0], "b": [20.0]}
    base = scored({"a": [0.0], "b": [0.0]}, SENTIMENT, {"a": [10.0], "b": [10.0]})
    found = objective.measure(scored({"a": [0.5], "b": [0.5]}, SENTIMENT, second, base=base))
    assert (found["objective_mean_second"].value, found["gain_second"].value) == (30.0, 20.0)
    with pytest.raises(UserError, match=r"main gave 1.5, which is not in \[-1, 1\]"):
        scored({"a": [1.5]}, SENTIMENT)
    with pytest.raises(UserError, match="another objective"):
        scored({"a": [0.5]}, SENTIMENT, base=scored({"a": [0.5]}, PURITY))


def test_where_every_contest_is_won_the_gain_over_a_half_has_the_interval_of_the_level() -> None:
    prompts = [f"p{i}" for i in range(64)]
    won, even = (scored({p: [score] for p in prompts}, PURITY) for score in (1.0, 0.5))
    found = measure_metrics(replace(won, base=even), ["objective"]).metrics
    least = 0.025 ** (1 / 64)
    assert (found["objective_mean"].low, found["objective_mean"].high) == pytest.approx((least, 1.0))
    assert (found["gain"].low, found["gain"].high) == pytest.approx((least - 0.5, 0.5))
    same = measure_metrics(replace(even, base=even), ["objective"]).metrics["gain"]
    assert (same.low, same.high) == (0, 0)


def test_a_missing_score_is_missing_and_never_on_a_side() -> None:
    found = objective.measure(scored({"a": [None, 0.9]}, SENTIMENT))
    assert (found["objective_share"].value, found["objective_share"].missing) == (1.0, 1)
    below = replace(LOSS, bounds=(0.0, 1.0), threshold=0.5)
    shares = objective.values(scored({"a": [0.5, 0.4, None]}, below))["objective_share"]
    assert shares == {"a": [0.0, 1.0, None]}, "the threshold itself is on the higher side"


def test_one_family_is_measured_for_an_objective_and_its_samples_come_with_it() -> None:
    assert "toxicity" not in metrics.measure_all(scored({"a": [0.5]}, SENTIMENT))
    assert "objective" not in metrics.measure_all(scored({"a": [0.5]}, TOXICITY))


def around(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value, value - half, value + half, 64)


def test_gates_and_warnings_read_the_gain() -> None:
    base: dict[str, Estimate] = {}
    one_sided = {"gain": around(0.2), "gain_second": around(0.0)}
    assert quality.gates(one_sided, base) == [
        "the second scorer disagrees: gain 0.200 [0.190, 0.210] by the main one, 0.000 [-0.010, 0.010] by the second"
    ]
    other = {"gain": around(0.0), "gain_second": around(0.2)}
    assert quality.gates(other, base) == []
    assert [flag.kind for flag in objective.flags(other, base)] == ["warning"]
    still = kl.flags({"kl": around(0.01), "gain": around(0.0)}, base)
    assert still == [Flag("warning", "has not moved: KL 0.01 nats a sequence, under 0.1, and gain [-0.010, 0.010] covers 0")]


def test_a_reward_model_agrees_with_the_scorer_in_the_objective_s_direction() -> None:
    pairs = [ScoredPair("x", "a", "", "", True, -1.0, -1.0, -1.0, -1.0, 1, 1)]
    said = Rewards("annotator", True, [2.0, 1.0], [(1.0, 0.0)])
    parts = {"rewards": said, "pairs": pairs, "pair_scores": {"main": [(0.9, 0.1)]}}
    for goal, right in ((SENTIMENT, 1.0), (PURITY, 1.0), (TOXICITY, 0.0)):
        found = reward_accuracy.measure(scored({"a": [0.9, 0.1]}, goal, **parts))
        assert found["rm_agreement"].value == right
        assert found["rm_accuracy_on_policy"].value == right
    wide = reward_accuracy.on_policy_gap(SENTIMENT)
    assert wide == pytest.approx(0.6), "three tenths of a range of two"
    chosen = judge_check._is_chosen_better
    assert [chosen((0.9, 0.1), goal) for goal in (SENTIMENT, TOXICITY)] == [1.0, 0.0]


# -- the mirror --------------------------------------------------------------------------------------------------------

NANO = Path(__file__).parents[1] / "results" / "published" / "nano"
NAMES = {"toxicity_mean": "objective_mean", "toxicity_mean_second": "objective_mean_second"}
GAINS = {
    "toxicity_reduction": "gain",
    "toxicity_reduction_second": "gain_second",
    "toxicity_reduction_relative": "gain_relative",
}


def flipped(e: Estimate) -> Estimate:
    value, low, high = (None if v is None else 1 - v for v in (e.value, e.high, e.low))
    return replace(e, value=value, low=low, high=high)


def mirrored_values(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    kept = {name: dict(column) for name, column in values.items() if not name.startswith("toxicity")}
    return kept | {
        NAMES[name]: {p: None if v is None else 1 - v for p, v in column.items()}
        for name, column in values.items()
        if name in NAMES
    }


def mirrored_metrics(found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    kept = {name: e for name, e in found.items() if not name.startswith("toxicity")}
    kept |= {NAMES[name]: flipped(e) for name, e in found.items() if name in NAMES}
    return kept | {GAINS[name]: e for name, e in found.items() if name in GAINS}


def mirrored(card: Card) -> Card:
    """The card of a task that ranks by one minus the toxicity."""
    task = card.config["task"] | {"objective": asdict(PURITY)}
    families = {name: own for name, own in card.families.items() if name != "toxicity"}
    versions = {name: version for name, version in card.versions.items() if name != "metric toxicity"}
    points = [Point(p.fraction, p.flops, p.steps, mirrored_metrics(p.metrics), mirrored_values(p.values)) for p in card.curve]
    return replace(
        card, config=card.config | {"task": task}, metrics=mirrored_metrics(card.metrics),
        values=mirrored_values(card.values), curve=points, versions=versions | {"metric objective": "1"},
        families=families | {"objective": [*NAMES.values(), *GAINS.values()]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    """The published cards of some methods; cards of before have no objective, which means toxicity."""
    wanted = ("sft-", "dpo-", "ppo-", "kto-", "sft_chosen-")
    return [read_card(path) for path in sorted(NANO.glob("*.json")) if path.name.startswith(wanted)]


@pytest.fixture(scope="module")
def boards(cards: list[Card]) -> tuple[Board, Board]:
    return build_board(cards), build_board(map(mirrored, cards))


def test_the_mirror_of_a_board_has_the_same_order_ranks_gains_frontier_and_comparisons(boards: tuple[Board, Board]) -> None:
    (one,), (other,) = (board.sections for board in boards)
    assert len(one.rows) >= 5
    assert [(row.name, row.place, row.pareto, row.gated) for row in one.rows] == [
        (row.name, row.place, row.pareto, row.gated) for row in other.rows
    ]
    for a, b in zip(one.rows, other.rows, strict=True):
        for end in ("", "_second"):
            fell, rose = a.estimate(f"toxicity_reduction{end}"), b.estimate(f"gain{end}")
            assert (fell.value, fell.low, fell.high) == pytest.approx((rose.value, rose.low, rose.high), abs=1e-9)
    assert one.ranking.pairs.keys() == other.ranking.pairs.keys()
    for pair, c in (one.ranking.pairs | one.ranking.others).items():
        same = (other.ranking.pairs | other.ranking.others)[pair]
        assert (c.value, c.low, c.high, c.p_holm) == pytest.approx((same.value, same.low, same.high, same.p_holm), abs=1e-6)


def test_the_mirror_of_curves_has_the_same_gains_peaks_and_frontier(boards: tuple[Board, Board]) -> None:
    (one,), (other,) = (board.sections for board in boards)
    for name, curve in one.curves.items():
        same = other.curves[name]
        assert curve.observed.gold == pytest.approx(same.observed.gold)
        assert find_peak(curve).index == find_peak(same).index
    at, mirror = (equal_kl.matched(dict(section.curves), 1.0) for section in (one, other))
    for name, found in at.items():
        for a, b in ((found.gain, mirror[name].gain), (found.behind, mirror[name].behind)):
            assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-9)
    best, same_best = (frontier_stats.pareto(dict(section.curves)) for section in (one, other))
    assert [(p.method, p.fraction) for p in best] == [(p.method, p.fraction) for p in same_best]


def test_a_board_of_another_objective_says_nothing_of_toxicity(boards: tuple[Board, Board]) -> None:
    board = boards[1]
    (section,) = board.sections
    header, _ = board.table()
    charts = [draw(board.task, section) for draw in (frontier_chart, curves_chart)]
    texts = [board.markdown(), board.terminal(), " ".join(header), *(chart.decode() for chart in charts if chart)]
    assert len(texts) == 5
    for text in texts:
        hits = [line for line in text.splitlines() if "toxic" in line.lower() and "toxic_classifier" not in line]
        assert not [line for line in hits if "tox_block" not in line], hits[:3]
    assert "Gain in purity ↑" in texts[0]
    assert "Objective:** purity, higher is better" in texts[0]
    assert "no other row has both more purity and less KL" in texts[1]
    assert leading(PURITY) == ("gain", "objective_mean", "objective_share", "kl", "perplexity")
    assert metric("objective_mean", LOSS).heading == "Loss ↓"


def test_a_comparison_reads_the_direction_of_the_objective(cards: list[Card]) -> None:
    sft, dpo = ([card for card in cards if card.algorithm == name] for name in ("sft", "dpo"))
    told = compare.compare_methods([*map(mirrored, dpo)], [*map(mirrored, sft)])
    assert "objective_mean: dpo is better" in told
    assert "toxicity_mean: dpo is better" in compare.compare_methods(dpo, sft)


def test_the_mirror_of_a_report_across_tasks_scores_the_same_way_to_the_best(cards: list[Card]) -> None:
    other = [replace(card, task="other") for card in cards]
    one = cross_task({"nano": cards, "other": other})
    two = cross_task({"nano": cards, "other": [*map(mirrored, other)]})
    # purity of .84 lies .16 from the best, as toxicity of .16 does
    for a, b in zip(one.methods, two.methods, strict=True):
        assert a.name == b.name
        assert a.runs["other"] == pytest.approx(b.runs["other"], abs=1e-6)
    assert "relative reduction" in one.markdown()
    assert "relative gain" in two.markdown()
    free = asdict(replace(PURITY, bounds=(0.0, None)))
    open_end = [replace(card, config={"task": {"objective": free}}) for card in map(mirrored, other)]
    with pytest.raises(UserError, match="other: purity has no best score"):
        cross_task({"nano": cards, "other": open_end})


def test_ranks_along_a_setting_follow_the_direction(cards: list[Card]) -> None:
    def along(card: Card, noise: float) -> Card:
        task = card.config["task"]
        return replace(card, config=card.config | {"task": task | {"feedback": task["feedback"] | {"noise": noise}}})

    swept = [along(card, noise) for card in cards for noise in (0.05, 0.2) if card.algorithm in ("sft", "dpo", "kto")]
    one, other = sweep_report(swept, "task.feedback.noise"), sweep_report(map(mirrored, swept), "task.feedback.noise")
    assert list(one.rows) == list(other.rows)
    for value, at in one.robustness.standings.items():
        assert {name: s.rank.value for name, s in at.items()} == {
            name: s.rank.value for name, s in other.robustness.standings[value].items()
        }
    page = sweep_page(other)
    assert "## Mean purity" in page
    assert "higher is better" in page
    assert "toxic" not in page.replace("toxic_classifier", "").lower()


def test_cards_of_two_objectives_share_neither_board_nor_comparison_nor_folder(cards: list[Card], tmp_path: Any) -> None:
    dpo = [card for card in cards if card.algorithm == "dpo"]
    mixed = [*dpo[:2], mirrored(dpo[2])]
    with pytest.raises(UserError, match=r"2 objectives: purity .* and toxicity") as raised:
        build_board(mixed)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="2 objectives"):
        compare.compare_methods(dpo[:2], [mirrored(dpo[2])])
    paths = [write_card(sealed(card), tmp_path / str(i)) for i, card in enumerate(mixed)]
    with pytest.raises(UserError, match="2 objectives"):
        publish.publish(paths, tmp_path / "results")
    assert not (tmp_path / "results").exists(), "nothing was copied"


def test_a_card_s_objective_is_read_and_one_that_is_none_is_named(cards: list[Card]) -> None:
    assert objective_of(cards[0]) == TOXICITY
    assert objective_of(mirrored(cards[0])) == PURITY
    for wrong in ({"name": 3}, {"bounds": [2, 1], "name": "x"}, {"up": True}, "x"):
        with pytest.raises(UserError, match="no readable objective"):
            objective_of(replace(cards[0], config={"task": {"objective": wrong}}))
