"""Curves read at equal KL: what is known between two snapshots, on frontiers that are known, with every kind of schedule."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from isoalign.config.training import KL_GRID
from isoalign.stats import Array, equal_kl, frontier
from isoalign.stats.curves import Curves

ALPHA, BETA = 0.1, 0.04  # of Gao's law: .1 at 1 nat, .149 at 8
SHARES = (0.25, 0.5, 0.75)
STEPS = 60
PROMPTS = 128


def gold(d: Array, scale: float = 1.0) -> Array:
    """The true gain at d = sqrt(KL)."""
    d = np.asarray(d, dtype=float)
    return scale * d * (ALPHA - BETA * np.log(np.maximum(d, 1e-9)))


def snapshots(
    rng: np.random.Generator, end: float, start: float, steps: int = STEPS, grid: Sequence[float] = KL_GRID
) -> Array:
    """The KL at the snapshots of a run that ends at ``end`` nats: where it pays a share ``start`` of its budget first, it has
    fewer steps. Snapshots lie where a look at the KL, a fifth off, first passes a value of the grid, and at the shares."""
    left = max(4, round(steps * (1 - start)))
    path = end * (np.arange(1, left + 1) / left) ** rng.uniform(0.8, 1.6)
    seen = path * rng.lognormal(0, 0.2, 1) * rng.lognormal(0, 0.05, left)
    kept, passed = {left - 1}, 0.0
    for step, kl in enumerate(seen):
        beyond = [value for value in grid if passed < value <= kl]
        passed = max(beyond, default=passed)
        shared = any(step / left < share <= (step + 1) / left for share in SHARES)
        kept |= {step} if beyond or shared else set()
    return np.array([0.0, *path[sorted(kept)]])


def method(
    rng: np.random.Generator, base: Array, end: float, start: float, spread: float = 0.0, seeds: int = 3, noise: float = 0.08,
    grid: Sequence[float] = KL_GRID, name: str = "m", steps: int = STEPS,
) -> Curves:  # fmt: skip
    """A method on the true frontier, of which each seed has a factor; each prompt moves by its own part of the gain."""
    runs = []
    for _ in range(seeds):
        factor = 1 + spread * rng.normal()
        kl = snapshots(rng, end * rng.lognormal(0, 0.2), start, steps, grid)
        d = np.sqrt(kl)[:, None]
        level = base - gold(d, factor) * base / base.mean() + noise * rng.normal(size=(len(kl), len(base)))
        level[0] = base
        drift = kl[:, None] * rng.gamma(8, 1 / 8, (len(kl), len(base)))
        runs.append(np.array([drift, level]))
    fewest = min(run.shape[1] for run in runs)
    table = np.stack([run[:, np.linspace(0, run.shape[1] - 1, fewest).round().astype(int)] for run in runs], 1)
    return Curves(name, np.linspace(0, 1, fewest), table, runs=tuple((run,) for run in runs))


def prompts(rng: np.random.Generator) -> Array:
    return rng.beta(0.6, 2.0, PROMPTS) + 0.01


# what is known between two snapshots


@pytest.mark.parametrize(
    ("left", "right", "known"),
    [
        (0.9, 3.4, False),  # KTO's neighbours of 1.7 nats on nano's board of November 2026: .95 and 1.84 in the root
        (0.05, 5.8, False),  # RLOO's
        (0.0, 0.3, False),  # the base is no neighbour: there the curve's slope is infinite
        (1.0, 2.7, True),  # a ratio of 1.64 in the root
        (1.0, 2.9, False),
        (9.0, 15.9, True),  # 3 and 3.99
        (9.0, 16.1, False),
    ],
)
def test_between_snapshots_that_lie_far_apart_nothing_is_read(left: float, right: float, known: bool) -> None:
    kl = np.array([0.0, left, right]) if left else np.array([0.0, right])
    score, between = np.linspace(0.4, 0.2, len(kl)), (left + right) / 2
    assert bool(np.isfinite(equal_kl.read_off(kl, score, between))) is known
    assert equal_kl.gap_at(kl, between) == (None if known else (left, right))
    assert float(equal_kl.read_off(kl, score, right)) == pytest.approx(0.2), "at a snapshot there is nothing to read between"


def test_of_the_grid_of_snapshots_each_value_and_the_next_but_for_noise_are_neighbours() -> None:
    roots = [math.sqrt(kl) for kl in KL_GRID]
    for low, high in itertools.pairwise(roots):
        assert equal_kl.neighbours(np.array(low), np.array(high))
    for low, high in zip(roots, roots[2:], strict=False):
        assert high > 2.6 or equal_kl.neighbours(np.array(low), np.array(high)), "one may be skipped below 7 nats"


def test_a_gap_of_one_seed_is_a_gap_of_the_method_and_is_named() -> None:
    rng = np.random.default_rng(0)
    base = prompts(rng)
    whole, holed = (np.array([0, 0.5, 1.0, 1.5, 2.2, 4.0]), np.array([0, 0.5, 4.0]))
    runs = [np.stack([kl[:, None] * np.ones(PROMPTS), base - 0.02 * np.sqrt(kl)[:, None]]) for kl in (whole, whole, holed)]
    made = Curves(
        "m", np.linspace(0, 1, 3), np.stack([run[:, [0, 1, -1]] for run in runs], 1), runs=tuple((run,) for run in runs)
    )
    found = equal_kl.matched({"m": made}, 1.7)["m"]
    assert (found.gain.value, found.gap) == (None, (0.5, 4.0))
    assert equal_kl.matched({"m": made}, 4.0)["m"].gain.value == pytest.approx(0.04)
    beyond = equal_kl.matched({"m": made}, 4.1)["m"]
    assert (beyond.gain.value, beyond.gap) == (None, None), "not reached is not a gap"


def test_thinning_a_curve_changes_no_reading_but_to_not_measured() -> None:
    """A curve of KTO's shape, with all snapshots and thinned to those that RLOO has: .05 and 5.8 nats."""
    d = np.sqrt([0.0, 0.05, 0.25, 0.38, 0.57, 0.9, 1.3, 1.9, 2.9, 4.3, 5.8])
    full = float(equal_kl.read_off(d**2, gold(d), 1.7))
    assert full == pytest.approx(float(gold(np.sqrt(1.7))), rel=0.01)
    thin = [0, 1, -1]
    assert math.isnan(float(equal_kl.read_off(d[thin] ** 2, gold(d[thin]), 1.7)))


# true frontiers


@pytest.mark.parametrize("at", equal_kl.GRID)
@pytest.mark.parametrize("start", [0.0, 0.25, 0.5])
def test_readings_are_within_2_percent_of_the_truth_for_every_schedule(start: float, at: float) -> None:
    rng = np.random.default_rng(round(100 * start) + round(10 * at))
    found = []
    for _ in range(200):
        kl = snapshots(rng, at * rng.uniform(1.05, 4), start)
        found.append(float(equal_kl.read_off(kl, gold(np.sqrt(kl)), at)))
    truth, known = float(gold(np.sqrt(at))), np.isfinite(found)
    assert known.mean() > 0.8, "what a run passed is measured"
    assert abs(np.nanmean(found) - truth) < 0.02 * truth
    assert np.nanmax(np.abs(np.array(found) - truth)) < 0.04 * truth


def test_runs_on_one_base_are_read_each_by_itself() -> None:
    """On one frontier, runs that end apart have its gains; the mean of their curves has not."""
    rng = np.random.default_rng(3)
    base = prompts(rng)
    near, far = (method(rng, base, end, 0.0, seeds=1, name="m").own[0][0] for end in (2.5, 9.0))
    table = np.stack([run[:, [0, -1]] for run in (near, far)], 1).mean(1, keepdims=True)
    both = Curves("m", np.array([0.0, 1.0]), table, runs=((near, far),))
    apart = [Curves("m", np.array([0.0, 1.0]), run[:, None], runs=((run,),)) for run in (near, far)]

    def gain(curves: Curves, kl: float) -> float | None:
        return equal_kl.matched({"m": curves}, kl)["m"].gain.value

    for kl in (1.0, 2.0):
        assert gain(both, kl) == pytest.approx(np.mean([gain(one, kl) for one in apart]))
    assert (gain(both, 4.0), gain(apart[1], 4.0) is None) == (None, False), "one of its runs does not come so far"
    assert 2.0 < equal_kl.farthest(both) < 4.0


def test_a_kl_that_one_run_passes_twice_is_marked() -> None:
    """One of three seeds goes back and forth, and the mean of all does not."""
    steady = np.array([[0.0, 1.0, 2.0, 3.0, 4.0], [0.5, 0.4, 0.3, 0.2, 0.1]])
    back = np.array([[0.0, 1.0, 2.1, 1.9, 4.0], [0.5, 0.4, 0.3, 0.2, 0.1]])
    table = np.repeat(np.stack([steady, steady, back], 1)[..., None], 4, axis=-1)
    found = equal_kl.matched({"m": Curves("m", np.linspace(0, 1, 5), table)}, 2.0)["m"]
    assert (found.again, found.rank) == (True, None), "and alone it has no rank"


def test_readings_and_areas_are_means_by_prompt_of_the_same_statistic_of_the_mean_curves() -> None:
    rng = np.random.default_rng(2)
    made = method(rng, prompts(rng), 9.0, 0.25)
    for statistic in (lambda kl, score: equal_kl.read_off(kl, score, 2.0), lambda kl, score: equal_kl.area(kl, score, 4.0)):
        reading = equal_kl.read_curves(made, statistic)
        assert reading is not None
        for seed, (run,) in zip(reading.seeds, made.own, strict=True):
            value = statistic(run[0].mean(-1), run[1].mean(-1))
            assert np.mean(seed) == pytest.approx(float(value))


def test_readings_that_differ_alike_on_every_prompt_are_apart_only_beyond_the_error_of_their_lines() -> None:
    """There resampling gives no error at all."""
    base = np.linspace(0, 1, 8)
    for by, apart in ((0.0004, False), (0.002, True)):
        seeds = {"a": np.tile(base, (3, 1)), "b": np.tile(base + by, (3, 1))}
        readings = {
            name: equal_kl.Reading(table, error) for (name, table), error in zip(seeds.items(), (3e-4, 5e-4), strict=True)
        }
        found = equal_kl.difference(readings, "b", "a")
        assert (found.low, found.high) == pytest.approx((by - 8e-4, by + 8e-4))
        assert (found.p == 1) == (not apart)
        spans = equal_kl.standings(readings)
        assert spans == ({"a": (2, 2), "b": (1, 1)} if apart else {"a": (1, 2), "b": (1, 2)})


def test_the_influence_of_prompts_is_that_of_resampling_them() -> None:
    """The standard error of a reading by its values by prompt, and by reading resampled curves."""
    rng = np.random.default_rng(3)
    made = method(rng, prompts(rng), 9.0, 0.25, seeds=1)
    reading = equal_kl.read_curves(made, lambda kl, score: equal_kl.read_off(kl, score, 2.0))
    assert reading is not None
    by_prompt = np.std(reading.seeds[0], ddof=1) / math.sqrt(PROMPTS)
    ((run,),) = made.own
    drawn = [run[..., rng.integers(0, PROMPTS, PROMPTS)].mean(-1) for _ in range(4000)]
    resampled = [float(equal_kl.read_off(kl, level, 2.0)) for kl, level in drawn]
    assert by_prompt == pytest.approx(np.nanstd(resampled), rel=0.05)


def test_the_area_is_the_mean_gain_over_the_root_of_kl() -> None:
    d = np.linspace(0, 3, 61)
    truth = np.mean(gold(np.linspace(math.sqrt(0.5), 2, 33)))
    assert float(equal_kl.area(d**2, gold(d), 4.0)) == pytest.approx(truth, rel=1e-3)
    assert math.isnan(float(equal_kl.area(d[:20] ** 2, gold(d[:20]), 4.0)))
    holed = np.delete(np.arange(61), range(20, 45))
    assert math.isnan(float(equal_kl.area(d[holed] ** 2, gold(d[holed]), 4.0)))


def simulate(boards: int, spread: float, seed: int) -> tuple[float, float, dict[str, float]]:
    """Shares of boards on which methods of one frontier are told apart, at 2 nats or by area, of readings that hold the truth,
    and mean errors by schedule, relative to the effect; an area is a reading too."""
    rng = np.random.default_rng(seed)
    parted, held, off = 0, [], dict[str, list[float]]()
    ends = {"offline": (9.0, 0.0), "late": (12.0, 0.5), "short": (5.0, 0.25), "steep": (20.0, 0.5)}
    for _ in range(boards):
        base = prompts(rng)
        made = {name: method(rng, base, end, start, spread, name=name) for name, (end, start) in ends.items()}
        found = equal_kl.matched(made, 2.0)
        known = {name: at for name, at in found.items() if at.gain.value is not None}
        parted += any(at.rank != (1, len(known)) for at in known.values())
        areas = equal_kl.areas(made, 4.0)
        parted += any(rank != (1, len(areas)) for rank in equal_kl.standings(areas).values())
        whole = float(np.mean(gold(np.linspace(math.sqrt(equal_kl.GRID[0]), 2, equal_kl.STEPS))))
        found_by = {name: (at.gain, float(gold(np.sqrt(2.0)))) for name, at in known.items()}
        found_by |= {f"area of {name}": (reading.estimate(), whole) for name, reading in areas.items()}
        for name, (estimate, truth) in found_by.items():
            held.append((estimate.low or 0.0) <= truth <= (estimate.high or 0.0))
            off.setdefault(name, []).append((estimate.value or 0.0) / truth - 1)
    return parted / boards, float(np.mean(held)), {name: float(np.mean(one)) for name, one in off.items()}


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_methods_of_one_frontier_are_told_apart_on_at_most_5_percent_of_boards_whatever_their_schedules(spread: float) -> None:
    parted, held, off = simulate(200, spread, 5)
    assert parted <= 2 * 0.05, "two families of spans"
    assert held >= 0.93
    assert len(off) == 8
    assert all(abs(mean) < 0.02 for mean in off.values()), off


@pytest.mark.slow
def test_spans_of_areas_hold_all_true_ranks_on_95_percent_of_boards_and_say_something() -> None:
    """Four methods, of which b and c are the same: their true ranks are 1, 2 to 3 and 4, among those that are measured."""
    rng = np.random.default_rng(16)
    scales = {"a": 1.3, "b": 1.0, "c": 1.0, "d": 0.6}
    boards, held, narrow = 80, 0, 0
    for _ in range(boards):
        base = prompts(rng)
        made = {name: scaled(method(rng, base, 9.0, 0.25, 0.05, name=name), scale) for name, scale in scales.items()}
        spans = equal_kl.standings(equal_kl.areas(made, 4.0))
        true = {
            name: (
                1 + sum(scales[other] > scales[name] for other in spans),
                sum(scales[other] >= scales[name] for other in spans),
            )
            for name in spans
        }
        held += all(spans[name][0] <= first and spans[name][1] >= last for name, (first, last) in true.items())
        narrow += spans.get("a") == (1, 1)
    assert held >= binom.ppf(0.05, boards, 0.95)
    assert narrow >= 0.4 * boards


def scaled(curves: Curves, by: float) -> Curves:
    """The method with so many times its gain."""

    def moved(table: Any) -> Any:
        level = table[1]
        return np.array([table[0], level[..., :1, :] - by * (level[..., :1, :] - level)])

    runs = tuple(tuple(map(moved, same)) for same in curves.runs)
    return replace(curves, table=moved(curves.table), runs=runs)


# the frontier of all methods


def ends(rng: np.random.Generator, places: dict[str, tuple[float, float]], noise: float = 0.1) -> dict[str, Curves]:
    """Policies at (KL, score), with noise by prompt."""

    def table(kl: float, level: float) -> Any:
        rows = [kl * np.ones(PROMPTS), level + noise * rng.normal(size=PROMPTS)]
        return np.array(rows)[:, None, None]

    return {name: Curves(name, np.ones(1), table(*place)) for name, place in places.items()}


def test_the_share_of_replicates_on_the_frontier_is_sure_where_points_are_and_even_where_two_are_equal() -> None:
    rng = np.random.default_rng(6)
    sure = frontier.pareto_shares(ends(rng, {"base": (0, 0.5), "near": (1, 0.3), "far": (9, 0.1), "beaten": (4, 0.4)}))
    assert sure == pytest.approx({"base": 1, "near": 1, "far": 1, "beaten": 0})
    base = rng.normal(size=PROMPTS)
    tie = {name: Curves(name, np.ones(1), np.array([kl + 0 * base, 0.3 + 0.1 * rng.normal(size=PROMPTS)])[:, None, None])
           for name, kl in {"a": 1.0, "b": 1.5}.items()}  # fmt: skip
    shares = frontier.pareto_shares(tie)
    assert shares["a"] == 1, "nothing has less KL"
    gap = tie["b"].observed.level[0, 0] - tie["a"].observed.level[0, 0]
    error = np.std(tie["a"].table[1] - tie["b"].table[1]) / math.sqrt(PROMPTS)
    assert shares["b"] == pytest.approx(0.5 * math.erfc(gap / error / math.sqrt(2)), abs=0.05)  # P(b is lower), normal
