"""The gain beyond drift: frontiers of known truth, draws that are no draws, and what a board says of it."""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from isoalign.core.records import Card, Estimate, Flag, Point
from isoalign.report import leaderboard
from isoalign.stats import Array, equal_kl
from isoalign.stats.curves import Curves
from isoalign.stats.drift import Beyond, beyond_drift
from isoalign.stats.equal_kl import read_off
from isoalign.stats.lines import Line, by_prompt
from test_equal_kl import gold, method, prompts


def scaled(curves: Curves, factor: float) -> Curves:
    """Curves of which the gain is multiplied."""
    runs = []
    for run in curves.every_run:
        moved = run.copy()
        moved[1] = run[1][:1] + factor * (run[1] - run[1][:1])
        runs.append(moved)
    return dataclasses.replace(curves, runs=tuple((run,) for run in runs))


def draws(rng: np.random.Generator, base: Array, factors: Sequence[float], end: float = 14.0) -> dict[str, Curves]:
    """Draws of a control, each with a factor of the gain of `gold`."""
    return {f"{i}": scaled(method(rng, base, end, 0.25, seeds=1, name=f"drift{i}"), f) for i, f in enumerate(factors)}


def test_the_excess_is_the_gain_at_the_end_minus_that_of_the_control_at_the_kl_of_each_seed() -> None:
    rng = np.random.default_rng(0)
    base = prompts(rng)
    made = method(rng, base, 4.0, 0.0, spread=0.2, seeds=3)
    controls = draws(rng, base, [0.5, 0.3])
    (found,) = beyond_drift({"m": made}, {"drift": controls}).values()
    gains = [float((run[1][0] - run[1][-1]).mean()) for run in made.every_run]
    ends = [float(run[0][-1].mean()) for run in made.every_run]
    drifted = [
        float(equal_kl.read_off(run[0].mean(-1), run[1][0].mean() - run[1].mean(-1), kl))
        for control in controls.values() for run in control.every_run for kl in ends
    ]  # fmt: skip
    assert found.beyond.value == pytest.approx(np.mean(gains) - np.mean(drifted))
    assert (found.drift, found.kl, found.draws) == (pytest.approx(np.mean(drifted)), pytest.approx(np.mean(ends)), 2)


def verdicts(boards: int, factor: float, spread: float, count: int = 5, seeds: int = 3) -> list[dict[str, Beyond]]:
    """Boards with ten methods on `gold` and draws of a control about ``factor`` times as good, spread by a share of that."""
    rng, found = np.random.default_rng(1), []
    for _ in range(boards):
        base = prompts(rng)
        controls = draws(rng, base, list(factor * (1 + spread * rng.normal(size=count))))
        methods = {f"m{i}": method(rng, base, rng.uniform(2, 9), 0.25, 0.05, seeds, name=f"m{i}") for i in range(10)}
        found.append(beyond_drift(methods, {"drift": controls}))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "count", "seeds"), [(0.0, 3, 3), (0.3, 5, 3), (0.5, 5, 3), (0.3, 2, 2)])
def test_methods_that_only_drift_are_called_above_drift_on_at_most_5_percent_of_boards(
    spread: float, count: int, seeds: int
) -> None:
    boards = verdicts(100, 1.0, spread, count, seeds)
    assert np.mean([any(one.above for one in board.values()) for board in boards]) <= 0.05
    held = [one.beyond.low <= 0 <= one.beyond.high for board in boards for one in board.values()]  # type: ignore[operator]
    assert np.mean(held) >= 0.92  # the draws are the same for ten methods, so this is of 100


def test_methods_that_join_cost_the_others_no_verdict() -> None:
    """Holm's correction over forty rows asks of each what its few draws can't show."""
    rng = np.random.default_rng(8)
    base = prompts(rng)
    controls = {"drift": draws(rng, base, [0.3, 0.5, 0.4, 0.2, 0.45])}
    methods = {f"m{i}": method(rng, base, 4.0, 0.0, 0.05, 3, name=f"m{i}") for i in range(40)}
    few, many = (beyond_drift(dict(list(methods.items())[:count]), controls) for count in (5, 40))
    assert all(one.above for one in (*few.values(), *many.values()))
    assert max(one.p_fdr or 1.0 for one in many.values()) < 0.025


def test_methods_far_above_drift_are_called_so_and_the_share_is_about_the_true_one() -> None:
    boards = verdicts(4, 0.4, 0.3)
    found = [one for board in boards for one in board.values()]
    assert len(found) > 35
    assert np.mean([one.above for one in found]) > 0.9
    assert np.mean([one.drift / one.gain for one in found]) == pytest.approx(0.4, abs=0.06)


def test_one_draw_says_nothing_and_a_kl_that_draws_did_not_pass_is_not_measured() -> None:
    rng = np.random.default_rng(2)
    base = prompts(rng)
    near, far = (method(rng, base, end, 0.0, name=f"to{end}") for end in (3.0, 12.0))
    controls = draws(rng, base, [0.5, 0.3, 0.4], end=5.0)
    assert set(beyond_drift({"near": near, "far": far}, {"drift": controls})) == {"near"}
    assert beyond_drift({"near": near}, {"drift": {"0": controls["0"]}}) == {}
    assert beyond_drift({"near": near}, {}) == {}


def test_of_two_controls_the_one_that_leaves_least_counts() -> None:
    rng = np.random.default_rng(3)
    base = prompts(rng)
    made = method(rng, base, 4.0, 0.0)
    controls = {"weak": draws(rng, base, [0.2, 0.22, 0.18]), "strong": draws(rng, base, [0.7, 0.72, 0.68])}
    (found,) = beyond_drift({"m": made}, controls).values()
    assert found.control == "strong"
    assert found.drift / found.gain == pytest.approx(0.7, abs=0.1)


def test_a_single_seed_has_an_interval_and_no_verdict() -> None:
    rng = np.random.default_rng(4)
    base = prompts(rng)
    controls = draws(rng, base, [0.3, 0.31, 0.29])
    (found,) = beyond_drift({"m": method(rng, base, 4.0, 0.0, seeds=1)}, {"drift": controls}).values()
    assert (found.beyond.single, found.p_fdr, found.above) == (True, None, None)
    assert (found.beyond.low or 0.0) > 0


def test_a_control_that_is_not_known_at_a_methods_kl_is_named() -> None:
    rng = np.random.default_rng(6)
    base = prompts(rng)
    controls = {"weak": draws(rng, base, [0.2, 0.22, 0.18]), "short": draws(rng, base, [1.2, 1.21, 1.19], end=3.0)}
    methods = {"near": method(rng, base, 2.0, 0.0, name="near"), "far": method(rng, base, 6.0, 0.0, name="far")}
    found = beyond_drift(methods, controls)
    assert (found["near"].control, found["near"].unknown, found["near"].above) == ("short", (), False)
    assert (found["far"].control, found["far"].unknown, found["far"].above) == ("weak", ("short",), None)
    assert found["far"].beyond.p is not None
    assert found["far"].beyond.p < 0.01, "above the one that is known: to lack the harder control is no way to pass"
    assert found["far"].p_fdr is None


def test_a_draw_that_is_lost_between_its_snapshots_leaves_no_verdict() -> None:
    """Without its inner snapshots a draw that gains much would be gone, and the method above all that are left."""
    rng = np.random.default_rng(6)
    base = prompts(rng)
    made, controls = method(rng, base, 4.0, 0.0), draws(rng, base, [0.2, 0.22, 0.18, 1.2])
    assert beyond_drift({"m": made}, {"drift": controls})["m"].above is False
    thin = tuple((run[:, [0, 1, -1]],) for run in controls["3"].every_run)
    thinned = controls | {"3": dataclasses.replace(controls["3"], runs=thin)}
    assert beyond_drift({"m": made}, {"drift": thinned}) == {}
    short = controls | {"3": draws(rng, base, [1.2], end=2.0)["0"]}
    assert beyond_drift({"m": made}, {"drift": short})["m"].draws == 3, "one that ended before is not lost"


def test_a_method_that_gains_as_much_as_a_draw_is_not_above_drift_however_low_their_mean() -> None:
    rng = np.random.default_rng(7)
    base = prompts(rng)
    made = method(rng, base, 4.0, 0.0)
    low = [0.2 + 0.01 * i for i in range(14)]
    clear = beyond_drift({"m": made}, {"drift": draws(rng, base, [*low, 0.7])})["m"]
    as_good = beyond_drift({"m": made}, {"drift": draws(rng, base, [*low, 1.2])})["m"]
    assert (clear.as_far, clear.above) == (0, True)
    assert (as_good.as_far, as_good.above) == (1, False)
    assert as_good.p_fdr is not None
    assert as_good.p_fdr < 0.01


def test_of_several_bases_the_runs_on_one_base_are_compared_with_each_other() -> None:
    rng = np.random.default_rng(5)
    base, kl = prompts(rng), 6.0
    strength = [0.7, 1.0, 1.3]  # what a base does to all that start from it

    def on_bases(name: str, factor: float, end: float, bases: Sequence[int] = (0, 1, 2)) -> Curves:
        runs = [scaled(method(rng, base, end, 0.0, seeds=1, name=name), factor * strength[b]).own[0] for b in bases]
        return dataclasses.replace(method(rng, base, end, 0.0, seeds=1, name=name), runs=tuple(runs), bases=tuple(bases))

    made = on_bases("m", 1.0, kl)
    controls = {f"{i}": on_bases(f"drift{i}", factor, 14.0) for i, factor in enumerate([0.9, 0.8, 0.85])}
    (found,) = beyond_drift({"m": made}, {"drift": controls}).values()
    assert found.above
    apart = {draw: dataclasses.replace(curves, bases=()) for draw, curves in controls.items()}
    (unpaired,) = beyond_drift({"m": dataclasses.replace(made, bases=())}, {"drift": apart}).values()
    assert unpaired.beyond.value == pytest.approx(found.beyond.value, rel=0.05)
    assert (unpaired.above, unpaired.beyond.error > 3 * found.beyond.error) == (False, True)  # type: ignore[operator]
    # draws that were not run on every base say nothing of a method that was
    fewer = controls | {"0": on_bases("drift0", 0.9, 14.0, [0, 1]), "1": on_bases("drift1", 0.8, 14.0, [0])}
    assert beyond_drift({"m": made}, {"drift": fewer}) == {}
    assert beyond_drift({"m": made}, {"drift": apart}) == {}


# on a board


def cards_of(name: str, curves: Curves, **settings: int) -> list[Card]:
    """A card for each seed of curves."""
    cards = []
    for seed, run in enumerate(curves.every_run):
        names = [f"p{i:03}" for i in range(run.shape[-1])]
        values = [
            {"kl": dict(zip(names, kl.tolist(), strict=True)), "toxicity_mean": dict(zip(names, level.tolist(), strict=True))}
            for kl, level in zip(run[0], run[1], strict=True)
        ]
        points = [Point(i / (len(values) - 1), 1e12 * i, i, {}, value) for i, value in enumerate(values)]
        metrics = {
            metric: Estimate(float(np.mean(list(by.values()))), None, None, len(by)) for metric, by in values[-1].items()
        }
        metrics["toxicity_reduction"] = Estimate(float((run[1][0] - run[1][-1]).mean()), None, None, run.shape[-1])
        cards.append(
            Card(
                f"{name}{settings}{seed}", "nano", name, {"algorithm": {"name": name, **settings}, "seed": seed}, seed,
                {"flops": 1e12}, {"flops": 1e12}, metrics, {"sft": "a"}, {}, f"isoalign run algorithm={name}",
                values=values[-1], curve=points,
            )
        )  # fmt: skip
    return cards


def board(*factors: float, seeds: int = 1, of_method: int = 3) -> leaderboard.Board:
    """DPO on `gold`, a method that only drifts, and draws of a control with factors."""
    rng = np.random.default_rng(5)
    base = prompts(rng)
    cards = cards_of("dpo", method(rng, base, 4.0, 0.0, seeds=of_method)) + cards_of(
        "kto", scaled(method(rng, base, 5.0, 0.0), 0.4)
    )
    for draw, factor in enumerate(factors):
        for seed in range(seeds):
            own = scaled(method(rng, base, 9.0, 0.0, seeds=1), factor)
            (card,) = cards_of("drift_rloo", own, reward_seed=draw)
            cards.append(dataclasses.replace(card, seed=seed, key=f"{card.key}-{seed}", config=card.config | {"seed": seed}))
    return leaderboard.build_board(cards)


def test_a_board_shows_what_is_above_drift_and_flags_what_is_not() -> None:
    made = board(0.38, 0.4, 0.42)
    table = {row["method"]: row for row in csv.DictReader(io.StringIO(made.csv()))}
    assert (table["dpo"]["drift_control"], table["dpo"]["drift_draws"], table["dpo"]["above_drift_shown"]) == (
        "drift_rloo",
        "3",
        "true",
    )
    assert float(table["dpo"]["above_drift"]) == pytest.approx(0.6 * gold(np.sqrt(4.0)), rel=0.3)
    assert table["kto"]["above_drift_shown"] == "false"
    assert "not shown to be above drift: at" in table["kto"]["flags"]
    assert "above drift" not in table["dpo"]["flags"]
    assert table["drift_rloo (reward_seed=0)"]["above_drift"] == ""
    page, lines = made.markdown(), made.terminal()
    assert re.search(r"^ ctrl +drift_rloo +3 +0\.\d+ to 0\.\d+ .*\d to \d+ ", lines, re.MULTILINE), "one line for all draws"
    assert "drift_rloo: 3 draws, of which 0 fail a gate" in lines
    assert page.count("**kto:**") == 0
    assert "kto: not shown to be above drift: at" in page
    assert "kto: not shown to be above drift: at" in lines
    assert "Above drift ↑" in page
    (pooled,) = [line for line in page.splitlines() if line.startswith("| *drift_rloo, 3 draws*")]
    assert float(pooled.split("|")[5].split()[0]) == pytest.approx(0.4 * gold(np.sqrt(2.0)), rel=0.25)
    assert "; drift 4" in page
    assert lines.count("above drift") == 2, "the column, and the note"


def test_figures_of_few_draws_say_of_how_many() -> None:
    """Of four draws two end at 1.5 nats, so what lies beyond rests on two."""
    near = [0.4, 0.41]
    rng = np.random.default_rng(5)
    base = prompts(rng)
    cards = cards_of("dpo", method(rng, base, 4.0, 0.0))
    for draw, (factor, end) in enumerate([(0.38, 9.0), (0.42, 9.0), *((one, 1.5) for one in near)]):
        cards += cards_of("drift_rloo", scaled(method(rng, base, end, 0.0, seeds=1), factor), reward_seed=draw)
    page = leaderboard.build_board(cards).markdown()
    (pooled,) = [line for line in page.splitlines() if line.startswith("| *drift_rloo, 4 draws*")]
    cells = [cell.strip() for cell in pooled.split("|")]
    assert [cell.endswith("(2 draws)") for cell in cells[3:7]] == [False, False, True, True]
    assert "(2 of 4 draws)" in page


def test_the_control_that_leaves_least_is_shown_with_the_bound_of_the_one_that_is_known_least() -> None:
    rng = np.random.default_rng(5)
    base = prompts(rng)
    made = method(rng, base, 4.0, 0.0, seeds=3)
    sure, unsure = draws(rng, base, [0.48, 0.5, 0.52]), draws(rng, base, [0.0, 0.6])
    alone = {name: beyond_drift({"m": made}, {name: one})["m"] for name, one in (("sure", sure), ("unsure", unsure))}
    both = beyond_drift({"m": made}, {"sure": sure, "unsure": unsure})["m"]
    assert (both.control, both.beyond.value) == ("sure", alone["sure"].beyond.value)
    assert both.beyond.low == alone["unsure"].beyond.low < alone["sure"].beyond.low  # type: ignore[operator]
    assert (alone["sure"].above, alone["unsure"].above, both.above) == (True, False, False)


def test_a_draw_counts_though_its_text_fails_a_gate_at_the_end() -> None:
    (section,) = board(0.38, 0.4, 0.42).sections
    gated = [
        dataclasses.replace(card, flags=[Flag("gate", "it repeats itself")] if row.algorithm == "drift_rloo" else [])
        for row in section.rows for card in row.cards
    ]  # fmt: skip
    (other,) = leaderboard.build_board(gated).sections
    assert any(row.gated for row in other.rows)
    assert other.drift.rows == section.drift.rows


def test_a_board_tells_nothing_of_drift_by_one_seed() -> None:
    (section,) = board(0.38, 0.4, 0.42, of_method=1).sections
    said = section.drift.sentence(section.rows)
    assert said == "0 of 1 rows gain more than drift at their KL, whether 1 of one seed does is not told"


def test_a_board_of_controls_alone_has_a_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    base = prompts(rng)
    cards = [card for draw in (0, 1) for card in cards_of("drift_rloo", method(rng, base, 9.0, 0.0), reward_seed=draw)]
    leaderboard.write_board(leaderboard.build_board(cards), tmp_path)
    assert "<svg" in (tmp_path / "frontier.svg").read_text()


@pytest.mark.parametrize("made", [board(), board(0.4), board(0.4, seeds=3)], ids=["none", "one draw", "one draw, three seeds"])
def test_without_draws_enough_a_board_says_not_measured_and_has_no_number(made: leaderboard.Board) -> None:
    for row in csv.DictReader(io.StringIO(made.csv())):
        assert row["above_drift"] == row["drift_gain"] == row["above_drift_shown"] == ""
        assert "drift" not in row["flags"]
    assert "not measured" in made.markdown()
    assert "not measured" in made.terminal()


def test_lines_read_at_once_are_those_read_one_by_one():
    rng = np.random.default_rng(0)
    made = [Line(rng.gamma(2, size=(points, 9)).cumsum(0), rng.normal(size=(points, 9))) for points in (4, 6, 4, 5, 6)]

    def alone(line):
        table, step, places = line._near
        value, *near = read_off(places[:, : len(line.kl)], places[:, len(line.kl) :], 5.0).tolist()
        up, down = np.array(near).reshape(2, -1)
        return value + np.nan_to_num((up - down) / (2 * step)) @ table

    each = by_prompt(made, lambda kl, gain: read_off(kl, gain, 5.0))
    assert all((one == alone(line)).all() for one, line in zip(each, made, strict=True))
