"""Curves along the budget: numbers worked by hand, laws recovered from simulated runs, and charts that can be read."""

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from isoalign import stats
from isoalign.core.objective import Objective
from isoalign.core.records import Card, Estimate, Flag, Point
from isoalign.report import as_data, leaderboard
from isoalign.report.board.sections import Section
from isoalign.report.charts import curves as curve_chart
from isoalign.report.charts import frontier
from isoalign.report.charts import looks as chart_looks
from isoalign.report.charts.finding import headline
from isoalign.report.pages import curves as curve_text
from isoalign.report.pages import equal_kl as equal_kl_text
from isoalign.report.pages import paper
from isoalign.report.site import along
from isoalign.stats import curves, equal_kl, overoptimization
from isoalign.stats import frontier as frontier_stats
from isoalign.stats.curves import Curves
from isoalign.stats.overoptimization import BEST_OF_N, TRAINED

FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def points(kl: Any, toxicity: Any, proxy: Any = None, fractions: Sequence[float] = ()) -> list[Point]:
    """A curve out of [points, prompts] of each metric; a row of one value holds for three prompts."""
    columns = {"kl": kl, "toxicity_mean": toxicity} | ({} if proxy is None else {"proxy_reward": proxy})
    fractions = fractions or np.linspace(0, 1, len(kl)).tolist()
    made = []
    for i, fraction in enumerate(fractions):
        rows = {name: column[i] if np.ndim(column[i]) else [column[i]] * 3 for name, column in columns.items()}
        values = {name: {f"p{j:03}": value for j, value in enumerate(row)} for name, row in rows.items()}
        made.append(Point(fraction, fraction * 4.5e12, round(60 * fraction), {}, values))
    return made


def card(curve: list[Point], algorithm: str = "dpo", seed: int = 0, **changes: Any) -> Card:
    def at_end(metric: str) -> Estimate:
        known = [v for v in curve[-1].values.get(metric, {}).values() if v is not None] if curve else []
        value = float(np.mean(known or [0.1]))
        return Estimate(value, value * 0.9, value * 1.1, 256)

    metrics = {name: at_end(name) for name in ("kl", "toxicity_mean")}
    metrics["toxicity_reduction"] = Estimate(0.1, 0.09, 0.11, 256)
    fields: dict[str, Any] = {
        "key": f"{seed}{algorithm.encode().hex()}00000000"[:16],
        "task": "nano",
        "algorithm": algorithm,
        "config": {"seed": seed},
        "seed": seed,
        "budget": {"flops": 4.5e12},
        "spent": {"flops": 4.4e12, "items": []},
        "metrics": metrics,
        "parents": {"sft": "ab12"},
        "versions": {},
        "command": "isoalign run",
        "curve": curve,
    }
    return Card(**fields | changes)


def one(*runs: list[Point], name: str = "m") -> Curves:
    return curves.collect({name: [card(run, seed=seed) for seed, run in enumerate(runs)]})[name]


def simulated(
    rng: np.random.Generator,
    gold: Any,
    kl: Any,
    proxy: Any = None,
    seeds: int = 3,
    prompts: int = 64,
    spread: float = 0.004,
    name: str = "m",
    prompts_from: np.random.Generator | None = None,
) -> Curves:
    """Curves whose true means over prompts and seeds are those given: heavy-tailed prompts, seeds that part over time.

    ``prompts_from`` makes the prompts, so that methods can share them."""
    gold, kl = np.asarray(gold, dtype=float)[:, None], np.asarray(kl, dtype=float)[:, None]
    shared, steps = prompts_from or rng, len(gold)
    base, moved, likes = shared.beta(0.6, 3.0, prompts), shared.gamma(8, 1 / 8, prompts), shared.normal(0, 0.5, prompts)
    start = base + shared.normal(0, 0.04, prompts)
    tables = []
    for _ in range(seeds):
        own = rng.normal(0, spread) * np.linspace(0, 1, steps)[:, None]
        toxicity = base * (1 - 6 * gold) - own + rng.normal(0, 0.04, (steps, prompts))  # the mean of base is 1 / 6
        toxicity[0] = start
        drift = kl * moved * rng.gamma(20, 1 / 20, (steps, prompts))
        tables.append([drift, toxicity])
        if proxy is not None:
            tables[-1].append(np.asarray(proxy)[:, None] + likes + rng.normal(0, 0.3, (steps, prompts)))
    return Curves(name, np.linspace(0, 1, steps), np.moveaxis(np.array(tables), 0, 1))


def section_of(cards: list[Card]) -> Section:
    (section,) = leaderboard.build_board(cards).sections
    return section


def realistic(seeds: int = 3, seed: int = 5) -> list[Card]:
    """Four methods, of which one hacks its reward, a control, and the base; figures like those of the nano task."""
    rng = np.random.default_rng(seed)
    t = np.array(FRACTIONS)
    ends = {"dpo": (8.0, 0.15, 2.1), "kto": (4.4, 0.145, 1.9), "ppo": (7.1, 0.13, 2.6), "rlaif": (6.2, 0.12, 2.3)}
    cards = []
    for name, (kl, gold, proxy) in (ends | {"sft_chosen": (1.5, 0.05, 0.5)}).items():
        rise = gold * (1 - np.exp(-4 * t)) / (1 - math.exp(-4))
        if name == "rlaif":
            rise = gold * (2.6 * np.sqrt(t) - 2.1 * t)
        made = simulated(rng, rise, kl * t, proxy * t**0.6, seeds, prompts_from=np.random.default_rng(seed))
        for s in range(seeds):
            # the base is one and the same policy in all runs
            table = [np.concatenate([made.table[m, :1, 0], made.table[m, s, 1:]]) for m in range(3)]
            cards.append(card(points(*table), name, s))
    base: dict[str, Any] = {"kl": Estimate(0.0, 0.0, 0.0, 256), "toxicity_mean": Estimate(0.16, 0.14, 0.18, 256)}
    return [*cards, card([], "sft", metrics=base)]


# reading a curve off at a KL


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.0, 0.4),
        (1.0, 0.3),
        (1.5625, 0.275),  # d = 1.25, half-way from 1 to 1.5
        (9.0, 0.25),
        (6.25, 0.225),  # d = 2.5, half-way from .2 to .25
        (0.25, math.nan),  # the base is no neighbour
        (16.0, math.nan),  # never reached
    ],
)
def test_a_curve_is_read_off_linearly_in_the_root_of_kl(kl: float, expected: float) -> None:
    found = equal_kl.read_off(np.array([0.0, 1.0, 2.25, 4.0, 9.0]), np.array([0.4, 0.3, 0.25, 0.2, 0.25]), kl)
    assert float(found) == pytest.approx(expected, nan_ok=True)


def test_a_curve_that_turns_back_is_read_where_it_first_passes() -> None:
    kl, toxicity = [0.0, 1.0, 2.25, 1.0, 9.0], [0.4, 0.3, 0.2, 0.1, 0.05]  # d: 0, 1, 1.5, 1, 3
    assert float(equal_kl.read_off(np.array(kl), np.array(toxicity), 1.5625)) == pytest.approx(0.25)
    found = equal_kl.matched({"m": one(points(kl, toxicity))}, 1.5625)["m"]
    assert found.again
    assert found.level.value == pytest.approx(0.25)
    assert not equal_kl.matched({"m": one(points(kl, toxicity))}, 9.0)["m"].again


def test_curves_are_read_off_row_by_row() -> None:
    kl = np.array([[[0.0, 1.0, 4.0], [0.0, 4.0, 9.0]]])  # at a snapshot there is nothing to read between
    score = np.array([[[0.4, 0.2, 0.0], [0.4, 0.2, 0.0]]])
    assert equal_kl.read_off(kl, score, 4.0).tolist() == [[0.0, 0.2]]


def test_two_methods_on_one_curve_are_equal_at_equal_kl_whatever_their_lengths() -> None:
    base = np.linspace(0.1, 0.6, 12)

    def on_it(*d: float) -> list[Point]:  # toxicity falls by a fifth of the base's a root nat
        return points([[x * x] * 12 for x in d], [base * (1 - x / 5) for x in d])

    both = {"short": one(on_it(0, 1.2, 2), name="short"), "long": one(on_it(0, 1, 1.6, 2.5, 3.4, 4), name="long")}
    kl = equal_kl.common_kl(both)
    assert kl == pytest.approx(4)
    found = equal_kl.matched(both, 4.0)
    for name in both:
        assert found[name].level.value == pytest.approx(0.6 * base.mean())
        assert found[name].gain.value == pytest.approx(0.4 * base.mean())
        assert found[name].level.low < found[name].level.value < found[name].level.high
        assert found[name].rank == (1, 2)
    behind = [reading.behind for reading in found.values() if reading.behind.value is not None]
    assert len(behind) == 1
    assert (behind[0].value, behind[0].low, behind[0].high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert found["long"].end == pytest.approx(16)


def test_what_lies_behind_the_best_is_paired_by_prompt() -> None:
    rng = np.random.default_rng(3)
    base = rng.beta(0.5, 2, 80)
    better, worse = (points([[0.0] * 80, [4.0] * 80], [base, base * 0.5 + extra]) for extra in (0.0, 0.01))
    found = equal_kl.matched({"a": one(worse, name="a"), "b": one(better, name="b")}, 4.0)
    assert found["b"].behind.value is None
    assert (found["a"].behind.low, found["a"].behind.high) == pytest.approx((0.01, 0.01))
    assert found["a"].level.low < found["b"].level.high, "their own intervals overlap"
    only_a = equal_kl.matched({"a": one(worse, name="a"), "b": one(better, name="b")}, 4.0, ranked=["a"])
    assert only_a["b"].behind.value == pytest.approx(-0.01)


def test_a_method_that_never_gets_there_is_missing_and_one_that_never_moved_sets_no_kl() -> None:
    made = {"far": one(points([0, 4.0], [0.4, 0.2]), name="far"), "still": one(points([0, 0.02], [0.4, 0.4]), name="still")}
    assert equal_kl.common_kl(made) == 4.0
    found = equal_kl.matched(made, 4.0)["still"]
    assert found.level == found.gain == found.behind == curves.NONE
    assert found.end == pytest.approx(0.02)
    assert equal_kl.common_kl({"still": made["still"]}) == pytest.approx(0.02)
    assert equal_kl.common_kl({}) is None


@pytest.mark.parametrize(("methods", "kl"), [(9, 1.0), (10, 2.0), (19, 2.0), (20, 3.0)])
def test_of_ten_methods_one_may_end_short_of_the_kl_at_which_they_are_compared(methods: int, kl: float) -> None:
    ends = {str(i): one(points([0, float(i)], [0.4, 0.2]), name=str(i)) for i in range(methods, 0, -1)}
    assert equal_kl.common_kl(ends | {"still": one(points([0, 0.02], [0.4, 0.4]), name="still")}) == pytest.approx(kl)


def test_intervals_are_as_wide_as_those_of_the_hierarchical_bootstrap() -> None:
    # an independent road to much the same interval (which is corrected for skewness and gives seeds and prompts other degrees
    # of freedom): at a point of the curve a reading is a plain mean
    rng = np.random.default_rng(8)
    ratios = []
    for _ in range(10):
        made = simulated(rng, [0, 0.05, 0.1], [0, 1, 4], spread=0.01)
        found = curves.estimate([made], lambda paths: paths.pooled.level[..., 2])
        wanted = stats.hierarchical([{str(p): v for p, v in enumerate(seed)} for seed in made.table[1, :, 2]])
        assert found.value == pytest.approx(wanted.value)
        ratios.append((found.high - found.low) / (wanted.high - wanted.low))
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


# from cards to curves


def test_seeds_of_different_lengths_are_aligned_to_the_shortest_by_fraction() -> None:
    short = points([0, 1.0, 4.0], [0.4, 0.3, 0.2], fractions=[0, 0.5, 1])
    long = points([0, 0.5, 1.2, 2.0, 4.4], [0.4, 0.35, 0.3, 0.25, 0.2], fractions=[0, 0.25, 0.52, 0.75, 0.99])
    made = one(short, long)
    assert made.observed.kl.tolist() == pytest.approx(np.array([[0, 1, 4], [0, 1.2, 4.4]]))
    assert made.fraction.tolist() == pytest.approx([0, 0.51, 0.995])


@pytest.mark.parametrize(
    ("kept", "sparse"),
    [(range(9), False), ((0, 2, 4, 6, 8), False), ((0, 4, 5, 6, 7, 8), False), ((0, 8), True), ((0, 2, 8), True),
     ((0, 1, 7, 8), True), ((0, 5, 6, 7, 8), True), ((0, 1, 2, 3, 4), True)],
)  # fmt: skip
def test_a_seed_with_few_snapshots_neither_moves_nor_hides_the_best_point(kept: Sequence[int], sparse: bool) -> None:
    """Gold rises to the middle of the budget and falls, the proxy rises: seed 2 has some of its nine points only."""
    rng, gold = np.random.default_rng(0), np.array([0, 0.05, 0.09, 0.12, 0.15, 0.13, 0.1, 0.07, 0.04])
    base, moved = rng.beta(0.6, 2, 64), np.linspace(0, 3, 9) ** 2

    def run(places: Sequence[int]) -> list[Point]:
        toxicity = [base - gold[i] + rng.normal(0, 0.01, 64) for i in places]
        proxy = [i / 8 + rng.normal(0, 0.1, 64) for i in places]
        return points([[moved[i]] * 64 for i in places], toxicity, proxy, [i / 8 for i in places])

    made = one(run(range(9)), run(range(9)), run(kept))
    peak, said, fit = overoptimization.find_peak(made), overoptimization.peak_warnings(made), overoptimization.fit_law(made)
    if sparse:
        assert said == ["best point not measured: seed 2 lacks snapshots that other runs have"]
        assert (peak.at, peak.loss.value, peak.firm, fit.alpha.value) == ("not measured", None, None, None)
        assert peak.end.value == pytest.approx(0.04, abs=0.01) or kept[-1] < 8
    else:
        assert said == ["reward hacking: proxy and gold part after 50% of the budget"]
        assert (peak.at, fit.reason) == ("50%", None)


def test_cards_of_one_seed_are_averaged_and_count_once() -> None:
    twice = [card(points([0, 4.0], [0.4, toxicity])) for toxicity in (0.1, 0.2)]
    made = curves.collect({"m": twice})["m"]
    assert made.seeds == 1
    assert made.observed.level[0].tolist() == pytest.approx([0.4, 0.15])


def test_a_prompt_that_lacks_a_value_anywhere_is_left_out_for_all_and_counted() -> None:
    whole = points([0, 4.0], [[0.4, 0.2, 0.6], [0.1, 0.1, 0.1]])
    holed = points([[0, 0, 0], [4.0, 4.0, 4.0]], [[0.4, 0.2, 0.6], [0.3, None, 0.1]])
    made = curves.collect({"whole": [card(whole)], "holed": [card(holed)]})
    assert {name: (one.prompts, one.missing) for name, one in made.items()} == {"whole": (2, 1), "holed": (2, 1)}
    assert made["whole"].observed.level[0].tolist() == pytest.approx([0.5, 0.1])


def test_one_method_does_not_take_the_prompts_of_all_others() -> None:
    """With one of three prompts it has no curve; nor has one, with two, that does not decide on the prompts."""
    whole = points([0, 4.0], [[0.4, 0.2, 0.6], [0.1, 0.1, 0.1]])
    third = points([[0, 0, 0], [4.0, 4.0, 4.0]], [[0.4, 0.2, 0.6], [0.3, None, float("nan")]])
    holed = points([[0, 0, 0], [4.0, 4.0, 4.0]], [[0.4, 0.2, 0.6], [0.3, None, 0.1]])
    cards = {"whole": [card(whole)], "third": [card(third)], "holed": [card(holed)]}
    made = curves.collect(cards, among=["whole", "third"])
    assert {name: (one.prompts, one.missing) for name, one in made.items()} == {"whole": (3, 0)}
    assert curves.collect(cards).keys() == {"whole", "holed"}


def test_what_has_no_curve_has_no_curves() -> None:
    base_alone = card(points([0], [0.4]))
    without_kl = [
        dataclasses.replace(p, values={"toxicity_mean": p.values["toxicity_mean"]}) for p in points([0, 1], [0.4, 0.2])
    ]
    assert curves.collect({"a": [card([])], "b": [base_alone], "c": [card(without_kl)], "d": []}) == {}
    kept = curves.collect({"a": [card([])], "c": [card(without_kl)], "e": [card(points([0, 1], [0.4, 0.2]))]})
    assert list(kept) == ["e"]
    assert kept["e"].missing == 0


def test_methods_on_different_prompts_are_not_compared() -> None:
    a = points([0, 1], [0.4, 0.2])
    b = [dataclasses.replace(p, values={m: {f"q{k}": v for k, v in row.items()} for m, row in p.values.items()}) for p in a]
    assert curves.collect({"a": [card(a)], "b": [card(b)]}) == {}


def test_with_one_prompt_there_are_figures_and_no_intervals() -> None:
    made = one(points([[0.0], [1.0], [2.0], [4.0]], [[0.4], [0.2], [0.1], [0.3]], [[0.0], [1.0], [2.0], [3.0]]))
    found = overoptimization.find_peak(made)
    assert (found.index, found.loss.value, found.loss.low, found.firm) == (2, pytest.approx(0.2), None, None)
    assert found.rise.value == pytest.approx(1)
    assert overoptimization.peak_warnings(made) == []
    assert curves.bands(made, lambda paths: paths.gold) is None
    fitted = overoptimization.fit_law(made)
    assert fitted.alpha.value is not None
    assert fitted.alpha.low is fitted.peak.low is fitted.inside is None


# the law of Gao et al.


@pytest.mark.parametrize(
    ("form", "alpha", "beta", "peak"),
    [
        (TRAINED, 0.1, 0.08, math.exp(0.5)),  # d = exp(.1/.08 - 1) = exp(.25)
        (TRAINED, 0.12, 0.05, math.exp(2.8)),
        (BEST_OF_N, 0.2, 0.05, 4.0),  # d = .2/.1 = 2
    ],
)
def test_a_law_without_noise_is_recovered(form: overoptimization.Law, alpha: float, beta: float, peak: float) -> None:
    base, d = np.linspace(0.2, 0.8, 10), np.array([0.0, 0.4, 0.9, 1.5, 2.2, 2.8])
    gold = np.array([0.0, *form.gold(d[1:], alpha, beta)])
    run = points([[x * x] * 10 for x in d], [base - g for g in gold])
    found = overoptimization.fit_law(one(run, run), form)
    for estimate, true in ((found.alpha, alpha), (found.beta, beta), (found.peak, peak)):
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((true, true, true))
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.points == 5
    assert found.inside == (peak < 2.8**2)


def test_the_hand_worked_value_of_the_law() -> None:
    # d = e: e (.3 - .1 * 1) = .2 e; d = 2: 2 (.3 - .1 * 2) = .2
    assert float(TRAINED.gold(np.array(math.e), 0.3, 0.1)) == pytest.approx(0.2 * math.e)
    assert float(BEST_OF_N.gold(np.array(2.0), 0.3, 0.1)) == pytest.approx(0.2)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_the_law_cover_the_truth_in_simulated_runs(seeds: int) -> None:
    rng, repeats = np.random.default_rng(11), 60
    kl = np.array([0, 0.3, 1, 2, 3.4, 5, 7])
    d = np.sqrt(kl[1:])
    truth = (0.11, 0.06, math.exp(2 * (0.11 / 0.06 - 1)))
    hits = np.zeros(3)
    for _ in range(repeats):
        found = overoptimization.fit_law(
            simulated(rng, [0, *TRAINED.gold(d, *truth[:2])], kl, seeds=seeds, spread=0.004 * (seeds > 1))
        )
        for i, (estimate, true) in enumerate(zip((found.alpha, found.beta, found.peak), truth, strict=True)):
            hits[i] += (estimate.low or 0) <= true <= (estimate.high or math.inf)
    # 95% but for chance (3 standard errors are 7%) and the few, heavy prompts that percentiles are a little narrow for
    assert (hits >= 0.85 * repeats).all(), hits


def test_a_curve_that_never_turns_has_no_peak() -> None:
    d = np.array([0.0, 0.5, 1.0, 2.0, 3.0])
    base = np.linspace(0.5, 0.9, 6)
    run = points([[x * x] * 6 for x in d], [base - 0.01 * x * x for x in d])  # steeper and steeper
    found = overoptimization.fit_law(one(run))
    assert found.beta.value < 0
    assert found.peak.value is found.peak.low is found.peak.high is None
    assert found.inside is False
    assert curve_text._peak_cell(found.peak) == "none"
    assert curve_text._peak_cell(Estimate(5.0, 3.25, None, 9)) == "5.00 [3.25, ∞]"


def test_three_points_that_moved_are_needed_and_not_all_at_one_kl() -> None:
    few = overoptimization.fit_law(one(points([0, 0.005, 1, 4], [0.4, 0.4, 0.3, 0.2])))
    assert few.reason == "2 points over 0.01 nats; the fit needs 3"
    assert few.alpha == few.peak == curves.NONE
    assert few.inside is None
    assert overoptimization.fit_law(one(points([0, 2, 2, 2], [0.4, 0.3, 0.2, 0.1]))).reason == "all points lie at one KL"


# the best point, and what going on cost


def test_the_peak_and_what_was_lost_after_it_by_hand() -> None:
    base = np.array([0.5, 0.3, 0.4])
    less = [[0, 0, 0], [0.2, 0.1, 0.3], [0.3, 0.2, 0.1], [0.1, 0.1, 0.1]]
    proxy = [[0.0] * 3, [1.0] * 3, [1.5] * 3, [2.5] * 3]
    found = overoptimization.find_peak(one(points([0, 1, 4, 9], [base - row for row in less], proxy)))
    # means of less: 0, .2, .2, .1: the first of equals
    assert (found.index, found.kl) == (1, 1.0)
    assert found.fraction == pytest.approx(1 / 3)
    assert (found.gold.value, found.end.value, found.loss.value) == pytest.approx((0.2, 0.1, 0.1))
    assert found.rise.value == pytest.approx(1.5)
    assert 0 <= found.loss.low <= found.loss.value <= found.loss.high


def test_going_on_costs_nothing_where_the_end_is_best() -> None:
    rng = np.random.default_rng(2)
    found = overoptimization.find_peak(simulated(rng, [0, 0.03, 0.06, 0.1, 0.15], [0, 1, 2, 3, 4]))
    assert found.index == 4
    assert (found.loss.value, found.loss.low, found.loss.high) == (0, 0, 0)
    assert found.firm > 0.95


def test_a_plateau_is_not_taken_for_a_peak_although_its_highest_point_is_above_its_end() -> None:
    rng, repeats = np.random.default_rng(4), 100
    gold, kl = [0, 0.08, *[0.12] * 6], np.linspace(0, 7, 8)
    raised = observed = naive = 0
    for _ in range(repeats):
        made = simulated(rng, gold, kl, np.linspace(0, 2, 8), seeds=1)
        found = overoptimization.find_peak(made)
        raised += bool(overoptimization.peak_warnings(made))
        observed += found.loss.value > 0
        drawn = made.replicates.pooled.gold
        naive += np.quantile(drawn.max(-1) - drawn[:, -1], 0.025) > 0
    assert observed > 70, "the bias: the end is one of six equal points"
    assert naive > 15, "percentiles of re-selected peaks would raise it too often"
    assert raised <= 7  # 2.5% but for chance


def test_the_interval_of_the_loss_covers_a_true_loss() -> None:
    rng, repeats = np.random.default_rng(6), 60
    gold = [0, 0.09, 0.13, 0.125, 0.11, 0.09]
    found = [overoptimization.find_peak(simulated(rng, gold, np.linspace(0, 7, 6))).loss for _ in range(repeats)]
    assert sum(e.low <= 0.04 <= e.high for e in found) >= 0.9 * repeats
    assert sum(e.low > 0 for e in found) >= 0.9 * repeats, "and is narrow enough to see it"


@pytest.mark.parametrize("seeds", [1, 3])
def test_reward_hacking_is_flagged_and_sound_training_is_not(seeds: int) -> None:
    rng = np.random.default_rng(7)
    kl, up = [0, 1, 2.5, 4, 5.5, 7], [0, 0.6, 1.1, 1.6, 2.0, 2.4]
    falls, rises = [0, 0.08, 0.13, 0.12, 0.09, 0.05], [0, 0.06, 0.1, 0.12, 0.135, 0.145]
    after = "reward hacking: proxy and gold part after 40% of the budget"
    assert overoptimization.peak_warnings(simulated(rng, falls, kl, up, seeds)) == [after]
    assert overoptimization.peak_warnings(simulated(rng, rises, kl, up, seeds)) == []
    down = [0, 0.6, 1.1, 0.9, 0.5, 0.1]
    past = ["past its peak: gold falls after 40% of the budget, no rise of the proxy seen"]
    assert overoptimization.peak_warnings(simulated(rng, falls, kl, down, seeds)) == past
    assert overoptimization.peak_warnings(simulated(rng, falls, kl, None, seeds)) == past
    worse = [0, -0.02, -0.04, -0.06, -0.08, -0.1]
    assert overoptimization.peak_warnings(simulated(rng, worse, kl, up, seeds)) == [
        "reward hacking: proxy and gold part from the start"
    ]


# the frontier


def test_the_frontier_is_what_no_other_point_beats() -> None:
    rng = np.random.default_rng(9)
    made = {n: one(points([0, *rng.uniform(0, 9, 6)], [0.5, *rng.uniform(0, 0.5, 6)]), name=n) for n in "abc"}
    every = [place for each in made.values() for place in frontier_stats.places(each)]
    beaten = {
        (p.kl, p.gain)
        for p, q in itertools.permutations(every, 2)
        if q.kl <= p.kl and q.gain >= p.gain and (q.kl, q.gain) != (p.kl, p.gain)
    }
    found = frontier_stats.pareto(made)
    assert {(p.kl, p.gain) for p in found} == {(p.kl, p.gain) for p in every} - beaten
    assert found[0] == frontier_stats.Place(0.0, 0.0, None, 0.0)
    assert [p.kl for p in found] == sorted(p.kl for p in found)


def test_the_frontier_is_of_gains_over_the_base_that_a_method_started_from() -> None:
    near, far = one(points([0, 1, 4], [0.5, 0.3, 0.2]), name="a"), one(points([0, 1, 4], [0.2, 0.19, 0.05]), name="b")
    found = [(place.kl, pytest.approx(place.gain), place.method) for place in frontier_stats.pareto({"a": near, "b": far})]
    assert found == [(0, 0, None), (1, 0.2, "a"), (4, 0.3, "a")], "b scores less, and has gained less"


# the page and the charts


def test_the_page_tells_all_tables_flags_and_sources() -> None:
    text = "\n\n".join(curve_text.curves_section(section_of(realistic()), 2))
    assert text.startswith("### Along the budget\n")
    assert "](curves-2.svg)" in text
    assert "- **rlaif:** reward hacking: proxy and gold part after" in text
    assert "**dpo:**" not in text
    for title in ("#### Best point", "#### Gao et al.'s law", "Pareto frontier", "Sources:"):
        assert title in text
    peaks, fits = (block for block in text.split("\n\n") if block.startswith("| Method"))
    for table in (peaks, fits):
        assert len({line.count("|") for line in table.splitlines()}) == 1
        assert all(f"| {name} " in table for name in ("dpo", "kto", "ppo", "rlaif", "*sft_chosen*"))
    assert "| *sft* " not in text, "the base has no curve of its own"


def test_a_best_point_that_is_not_measured_is_neither_drawn_nor_counted() -> None:
    """rlaif loses by going on, with all of its points; here one seed has the first and the last alone."""
    made = realistic()
    thin = next(each for each in made if each.algorithm == "rlaif")
    made[made.index(thin)] = dataclasses.replace(thin, curve=[thin.curve[0], thin.curve[-1]])
    section = section_of(made)
    line = f"best point not measured: seed {thin.seed} lacks snapshots that other runs have"
    assert f"- **rlaif:** {line}" in "\n\n".join(curve_text.curves_section(section))
    _, against = map(str, along.along_budget(section, "x"))
    assert line in against
    assert re.search(r"rlaif.*?not measured", against)
    assert "No row of" in against
    assert b"ring: best point" not in (curve_chart.curves_chart("nano", section) or b"")


def test_gains_on_a_small_scale_have_digits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    small, section = Objective("rate", True, (-1e-4, 1e-4), None), section_of(realistic())
    monkeypatch.setattr(Section, "objective", property(lambda section: small))
    peaks, fits = (part for part in curve_text.curves_section(section) if part.startswith("| Method"))
    for table in (peaks, fits):
        cells = [cell for line in table.splitlines() if line.startswith("| dpo") for cell in line.split("|")]
        assert sum(bool(re.fullmatch(r" *−?\d\.\d{6} \[.*\] *", cell)) for cell in cells) >= 2, table


def test_the_page_shows_gains_at_equal_kl_with_their_ranks_or_that_they_are_not_measured() -> None:
    """Points lie at .2, .4, ... of the KL at the end, and at equal steps of it, so the first step is a wide one."""
    title, table, how = equal_kl_text.equal_kl_section(section_of(realistic()))
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()}
    columns = rows["Method"]
    assert title == "### At equal KL"
    assert columns == ["KL at the end", *(f"Reduction at {kl} ↑" for kl in ("0.5", "1", "2", "4"))], "no row has an area"
    at = {name: dict(zip(columns, row, strict=True)) for name, row in rows.items()}
    for name in ("dpo", "kto", "ppo", "rlaif"):
        assert at[name]["Reduction at 0.5 ↑"].startswith("not measured (0 to "), "before the first snapshot"
        assert re.match(r"0\.\d+ \[.*\]; [1-4]", at[name]["Reduction at 4 ↑"])
    assert at["*sft_chosen*"]["Reduction at 4 ↑"] == "not reached"
    assert "; " not in at["*sft_chosen*"]["Reduction at 1 ↑"], "the control has no rank"
    section = section_of(realistic())
    by_name = {row.name: row for row in section.rows}
    assert paper._at(section, by_name["sft_chosen"], 4.0) == "not reached"
    assert paper._at(section, by_name["dpo"], 0.5) == "not measured"
    assert "jointly at 95%" in how
    header, lines = leaderboard.build_board(realistic()).table()
    plain = {line[header.index("method")]: dict(zip(header, line, strict=True)) for line in lines}
    assert plain["dpo"]["gain_at_kl_0.5"] is None
    shown = f"{plain['dpo']['gain_at_kl_4']:.3f} [{plain['dpo']['gain_at_kl_4_low']:.3f}"
    assert at["dpo"]["Reduction at 4 ↑"].startswith(shown)
    assert plain["sft_chosen"]["gain_at_kl_1_rank"] is plain["sft"]["gain_at_kl_1"] is None


def cards_with_areas() -> list[Card]:
    """Gains of .1, .08 and .02 d, of d = sqrt(KL) from sqrt(.5) to 2, and a method with a hole."""
    d = np.array([0, 0.5, 0.71, 0.95, 1.2, 1.45, 1.7, 2.0, 2.1])
    base = np.random.default_rng(3).uniform(0.3, 0.9, 16)

    def cards_of(name: str, slope: float, kept: list[int] | slice = slice(None)) -> list[Card]:
        kls, levels = [[at**2] * len(base) for at in d[kept]], [base - slope * at for at in d[kept]]
        return [dataclasses.replace(card(points(kls, [level + 1e-4 * seed for level in levels])), algorithm=name, seed=seed)
                for seed in range(3)]  # fmt: skip

    return [*cards_of("dpo", 0.1), *cards_of("kto", 0.08), *cards_of("ppo", 0.02), *cards_of("holed", 0.3, [0, 1, 2, -1])]


def test_where_no_row_has_an_area_no_table_has_a_column_of_them() -> None:
    section = section_of(realistic())
    assert section.areas == (4, {})
    board = leaderboard.build_board(realistic())
    assert "Area, " not in board.markdown()
    assert "area" not in board.terminal()


def test_areas_have_a_column_with_ranks_and_a_word_in_the_title_and_no_number_where_a_part_is_not_measured() -> None:
    """The means of gains are .1 x 1.354 and so on."""
    board = leaderboard.build_board(cards_with_areas())
    (section,) = board.sections
    to, areas = section.areas
    assert to == 4
    assert {name: mean.value for name, (mean, _) in areas.items()} == {
        "dpo": pytest.approx(0.1 * (math.sqrt(0.5) + 2) / 2, rel=1e-3),
        "kto": pytest.approx(0.08 * (math.sqrt(0.5) + 2) / 2, rel=1e-3),
        "ppo": pytest.approx(0.02 * (math.sqrt(0.5) + 2) / 2, rel=1e-3),
    }, "the one with a hole has the most at the end, and no area"
    lines = [[cell.strip() for cell in line.split("|")] for line in board.markdown().splitlines() if line.startswith("|")]
    place = next(line for line in lines if line[1] == "Rank").index("Area, 0.5 to 4 nats ↑")
    cells = {line[2]: line[place] for line in lines[:6]}
    assert cells["holed"] == "not measured"
    assert re.fullmatch(r"0\.135 \[.*\]; 1", cells["dpo"])
    title = headline(section)
    assert title.endswith(". By the area under the curve to 4 nats, dpo is the best of the 3 measured")
    assert " ".join(title.split()) in " ".join(board.terminal().split())
    assert "area: mean gain over √KL from 0.5 to 4 nats" in board.terminal()
    (found,) = as_data.board_data(board)["sections"]
    rows = {row["name"]: row for row in found["rows"]}
    assert found["area_nats"] == [0.5, 4]
    assert found["kl_grid"] == [0.5, 1, 2, 4]
    assert (rows["dpo"]["area"]["rank"], rows["holed"]["area"]) == ((1, 1), None)
    at = {one["kl"]: one for one in rows["holed"]["at_kl"]}
    assert (at[2]["value"], at[2]["gap"]) == (None, pytest.approx((0.71**2, 2.1**2)))
    assert at[0.5]["value"] == pytest.approx(0.3 * math.sqrt(0.5), rel=1e-2)


def test_of_one_seed_no_rank_is_shown_at_equal_kl_and_a_gated_row_has_none() -> None:
    table = equal_kl_text.equal_kl_section(section_of(realistic(seeds=1)))[1]
    assert ";" not in table
    gated = [dataclasses.replace(c, flags=[Flag("gate", "empty")]) if c.algorithm == "kto" else c for c in realistic()]
    lines = equal_kl_text.equal_kl_section(section_of(gated))[1].splitlines()
    assert ";" not in next(line for line in lines if line.startswith("| kto"))
    assert ";" in next(line for line in lines if line.startswith("| dpo"))


def test_names_can_not_break_out_of_the_page() -> None:
    cards = [dataclasses.replace(c, algorithm="a|b<x>") for c in realistic(seeds=1) if c.algorithm == "rlaif"]
    text = "\n\n".join(curve_text.curves_section(section_of(cards)))
    assert "a\\|b&lt;x>" in text
    assert "<x>" not in text


def test_without_curves_there_is_no_section_no_chart_and_the_frontier_as_it_was() -> None:
    bare = section_of([dataclasses.replace(c, curve=[]) for c in realistic()])
    assert curve_text.curves_section(bare) == []
    assert curve_chart.curves_chart("nano", bare) is None
    assert bare.curves == {}
    plain, full = frontier.frontier_chart("nano", bare), frontier.frontier_chart("nano", section_of(realistic()))
    assert plain is not None
    assert full is not None
    assert plain != full


def test_drift_is_no_part_of_the_best_line_with_curves_or_without() -> None:
    cards = realistic()
    best = max(frontier.frontier_points(section_of(cards)), key=lambda end: end[2])[0].algorithm
    more = {"toxicity_reduction": Estimate(0.3, 0.28, 0.32, 64)}
    drifted = {"algorithm": "drift_rloo"}
    for change in (dict[str, Any](), {"curve": []}):
        tops = []
        for name in (dict[str, Any](), drifted):
            changed = [dataclasses.replace(c, **change, **name, metrics=c.metrics | more) if c.algorithm == best
                       else dataclasses.replace(c, **change) for c in cards]  # fmt: skip
            section = section_of(changed)
            tops.append(max(gain for _, gain in frontier.frontier_line(section, frontier.frontier_points(section))))
        assert 0 < tops[1] < tops[0]


def test_charts_and_page_are_the_same_whatever_the_order_of_cards() -> None:
    cards = realistic()
    made = []
    for turn in range(2):
        section = section_of(cards)
        made.append(
            (
                curve_chart.curves_chart("nano", section),
                frontier.frontier_chart("nano", section),
                curve_text.curves_section(section, 2),
            )
        )
        random.Random(turn).shuffle(cards)
    assert made[0] == made[1]
    assert b"<dc:date>" not in made[0][0]


def drawn(monkeypatch: pytest.MonkeyPatch, module: Any, make: Callable[[], Any]) -> Any:
    """The figure that a chart is made of."""
    figures: list[Any] = []

    def keep(draw: Callable[[Any], None], size: tuple[float, float], kind: str = "svg") -> bytes:
        return chart_picture(lambda figure: (draw(figure), figures.append(figure))[0], size, kind)

    chart_picture = chart_looks.picture
    monkeypatch.setattr(module, "picture", keep)
    make()
    (figure,) = figures
    return figure


def grey_paths(figure: Any) -> list[list[Any]]:
    """The paths behind each panel of a crowded chart, in pixels."""
    (grey,) = figure.artists
    (path,) = grey.get_paths()
    pixels = grey.get_transform().transform(path.vertices)
    starts = np.flatnonzero(path.codes == path.MOVETO)[1:]
    return [np.split(pixels + offset, starts) for offset in grey.get_offset_transform().transform(grey.get_offsets())]


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("kind", ["frontier", "curves"])
def test_no_name_in_a_chart_covers_another_or_a_mark_or_leaves_its_panel(
    kind: str, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = section_of(realistic(seeds))
    if kind == "frontier":
        figure = drawn(monkeypatch, frontier, lambda: frontier.frontier_chart("nano", section))
    else:
        figure = drawn(monkeypatch, curve_chart, lambda: curve_chart.curves_chart("nano", section))
    figure.draw_without_rendering()
    for axes in figure.axes[kind == "frontier" :]:
        names = [text for text in axes.texts if text.get_text() and text.get_text() in {row.name for row in section.rows}]
        assert len(names) >= 5
        frames = [text.get_window_extent() for text in names]
        marks = [axes.transData.transform(text.xy) for text in names]
        for a, b in itertools.combinations(frames, 2):
            assert not a.overlaps(b)
        for frame, (x, y) in itertools.product(frames, marks):
            assert not frame.contains(x, y)
        panel = axes.get_window_extent()
        assert all(panel.contains(*corner) for frame in frames for corner in frame.corners())


def crowd(seeds: int = 1) -> list[Card]:
    """Twelve methods, a control and the base."""
    four = realistic(seeds)
    methods = [c for c in four if c.algorithm in ("dpo", "kto", "ppo", "rlaif")]
    copies = [dataclasses.replace(c, algorithm=f"{c.algorithm}_{i}") for i in (2, 3) for c in methods]
    return [*four, *copies]


def test_small_panels_show_all_of_bands_seeds_title_and_subtitle(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(card: Card) -> Card:
        curve = [dataclasses.replace(p, values={m: v for m, v in p.values.items() if m != "proxy_reward"}) for p in card.curve]
        return dataclasses.replace(card, curve=curve)

    cards = [without(c) if c.algorithm in ("dpo", "kto_2") else c for c in crowd(3)]
    longest = "a_method_of_a_name_that_is_longer_than_its_panel"
    cards = [dataclasses.replace(c, algorithm=longest) if c.algorithm == "ppo_3" else c for c in cards]
    figure = drawn(monkeypatch, curve_chart, lambda: curve_chart.curves_chart("nano", section_of(cards)))
    figure.draw_without_rendering()
    count = len(section_of(cards).curves)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for line in axes.lines:
            assert all(low <= y <= high for y in line.get_data()[1] if not math.isnan(y))
        for band in axes.collections:
            assert low <= band.get_paths()[0].vertices[:, 1].min() <= band.get_paths()[0].vertices[:, 1].max() <= high
    titles = [axes._left_title.get_window_extent() for axes in figure.axes[:count]]
    for a, b in itertools.combinations(titles, 2):
        assert not a.overlaps(b)
    (told,) = figure.texts[-1:]
    assert told.get_window_extent().x1 <= figure.bbox.x1
    assert any(axes.get_ylim()[0] < 0 for axes in figure.axes)


def test_crowded_charts_are_the_same_whatever_the_order_of_cards() -> None:
    cards, made = crowd(), []
    for turn in range(2):
        made.append((curve_chart.curves_chart("nano", section_of(cards)), frontier.frontier_chart("nano", section_of(cards))))
        random.Random(turn).shuffle(cards)
    assert made[0] == made[1]


def test_a_crowded_chart_of_curves_has_a_panel_a_method_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    section = section_of(crowd())
    names = sorted((r.name for r in section.rows if r.name != "sft"), key=lambda name: name == "sft_chosen")
    figure = drawn(monkeypatch, curve_chart, lambda: curve_chart.curves_chart("nano", section))
    greys = grey_paths(figure)
    assert [len(paths) for paths in greys] == [len(names)] * len(names), "every method behind every panel"
    left, right = figure.axes[: len(names)], figure.axes[len(names) :]
    assert [axes.get_title(loc="left") for axes in left] == names
    assert len(right) == len(names) // 6, "numbers of the proxy at the end of each row"
    heights = [one.transData.transform((0, 0))[1] for one in (left[5], right[0])]
    assert heights[0] == pytest.approx(heights[1]), "both zeros at one height"
    for axes, name in zip(left, names, strict=True):
        thick = [line for line in axes.lines if line.get_linewidth() == 2]
        ends = {tuple(line.get_data()[0])[-1] for line in thick}
        assert len(ends) == 1
        at = axes.transData.transform(np.column_stack(thick[0].get_data()))
        assert any(np.allclose(path[0], at[0]) and np.allclose(path[-1], at[-1]) for path in greys[left.index(axes)])
        (proxy,) = (line for line in axes.lines if line.get_linewidth() == 0.9)
        shown = right[0].transData.inverted().transform(left[5].transData.transform(np.column_stack(proxy.get_data())))[:, 1]
        assert shown == pytest.approx(section.curves[name].observed.pooled.rise, abs=1e-9), "by the axis on the right"


def test_charts_of_very_many_rows_name_the_first_and_those_without_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    four = realistic(1)
    (dpo,) = (card for card in four if card.algorithm == "dpo")
    cards = [*four, *(dataclasses.replace(dpo, algorithm=f"dpo_{i:02d}") for i in range(60))]
    section = section_of(cards)
    names = [row.name for row in section.rows]
    figure = drawn(monkeypatch, curve_chart, lambda: curve_chart.curves_chart("nano", section))
    panels = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    in_order = sorted((name for name in names if name != "sft"), key=lambda name: name == "sft_chosen")
    assert panels == in_order[: chart_looks.MOST]
    assert len(grey_paths(figure)[0]) == len(names) - 1, "every method"
    count = f"the first {chart_looks.MOST} of {len(names) - 1} rows"
    assert any(count in text.get_text() for text in figure.texts)


def test_looks_of_24_methods_that_learn_from_the_same_differ_and_have_one_colour() -> None:
    row = next(row for row in section_of(realistic(1)).rows if row.name == "dpo")
    looks = chart_looks.looks_of([dataclasses.replace(row, name=f"method_{i}") for i in range(24)]).values()
    assert len({(look.marker, look.line) for look in looks}) == 24
    assert {look.colour for look in looks} == {chart_looks.HUES["pairs"]}


def test_a_chart_without_proxy_has_one_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(point: Point) -> Point:
        return dataclasses.replace(point, values={m: v for m, v in point.values.items() if m != "proxy_reward"})

    section = section_of([dataclasses.replace(c, curve=[without(p) for p in c.curve]) for c in realistic(1)])
    figure = drawn(monkeypatch, curve_chart, lambda: curve_chart.curves_chart("nano", section))
    assert len(figure.axes) == 1
    page = "\n\n".join(curve_text.curves_section(section))
    assert "past its peak: gold falls" in page
