"""Tasks of several bases: which base a run is of, and boards of which the parts of chance are known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate, Point, PromptValues
from isoalign.core.store import Store
from isoalign.evaluation.card import file_name, read_cards
from isoalign.report import leaderboard
from isoalign.report.board.sections import Section
from isoalign.report.cross_task import cross_task
from isoalign.runs.overrides import task_named
from isoalign.stages.shared import SharedStages
from isoalign.stats import curves, equal_kl, frontier
from isoalign.stats.curves import Curves
from workbench import COMMAND, Terminal

PROMPTS = 64
Table = np.ndarray[Any, np.dtype[np.float64]]


def stage_keys(folder: Path, *settings: str, seed: int = 0) -> list[str]:
    """Keys of base, completions, pairs and reward model of a run with a seed."""
    shared = SharedStages(task_named("nano", settings).on_base(seed), Store(folder))
    return [shared.sft.key, shared.completions("train").key, shared.pairs("annotator").key,
            *(stage.key for stage in shared.reward_models("annotator").values())]  # fmt: skip


def test_a_run_is_of_the_base_of_its_seed_and_the_first_base_is_that_of_a_task_of_one(tmp_path: Path) -> None:
    one = stage_keys(tmp_path)
    assert stage_keys(tmp_path, seed=5) == one, "of one base for all seeds"
    several = [stage_keys(tmp_path, "task.bases=3", seed=seed) for seed in range(4)]
    assert several[0] == several[3] == one
    assert several[1] == stage_keys(tmp_path, "task.seed=1")
    assert all(len(set(keys)) == 3 for keys in zip(*several, strict=True)), "nothing is shared by two bases"


def test_no_base_is_one_line() -> None:
    with pytest.raises(UserError, match=r"task.bases must be a number of bases, 1 or more, not 0"):
        task_named("nano", ["task.bases=0"])


def test_components_of_variance_by_hand() -> None:
    # bases (1, 3) and (5, 7): means 2 and 6 about 4; between 2 x 4 + 2 x 4 = 16 with 1 degree of freedom, within 2 + 2 with 2,
    # so the seeds' variance is 2, and the bases' (16 - 2) / 2 = 7
    found = stats.components([[[1, 3], [5, 7]]])
    assert found is not None
    assert (found.between, found.within, found.share) == pytest.approx((7, 2, 7 / 9))
    # the ratio of mean squares is 8, with 1 and 2 degrees of freedom; quantiles of F are 38.506 and .00125 (1/799.5)
    assert found.low == 0
    assert found.high == pytest.approx((8 * 799.5 - 1) / (8 * 799.5 + 1), abs=1e-5)
    # a second method without a difference between its bases: between 16 with 2, within 8 with 4; (8 - 2) / 2
    found = stats.components([[[1, 3], [5, 7]], [[0, 2], [2, 0]]])
    assert found is not None
    assert (found.between, found.within) == pytest.approx((3, 2))
    still = stats.components([[[1, 1], [5, 5]]])
    assert still is not None
    assert (still.share, still.low, still.high) == (1, 1, 1)
    assert stats.components([[[1, 1], [1, 1]]]) is None, "nothing varies"
    assert stats.components([[[1], [5]]]) is None, "one seed on each"
    assert stats.components([[[1, 3]]]) is None, "one base"


def runs(
    rng: np.random.Generator, shared: Table, hard: Table, effect: float, own: float, seed: float, seeds: int
) -> list[Table]:
    """Scores of a method's runs [prompts]: its ``effect`` on average, the ``shared`` effect of each base, the method's ``own``
    effect there and that of each seed, as standard deviations, and chance."""
    bases = len(shared)
    where = np.arange(seeds) % bases
    lifted = (shared + rng.normal(0, own, bases))[where] + rng.normal(0, seed, seeds)
    return [effect + hard + lift + rng.normal(0, 0.02, PROMPTS) for lift in lifted]


def card(name: str, seed: int, scores: Table, bases: int, gain: float | None = None) -> Card:
    values: dict[str, float | None] = {f"p{i:02d}": float(score) for i, score in enumerate(scores)}
    metrics = {"toxicity_mean": Estimate(float(scores.mean()), 0.0, 1.0, PROMPTS)}
    metrics |= {"toxicity_reduction": Estimate(gain, gain, gain, PROMPTS)} if gain is not None else {}
    fields: dict[str, Any] = {"key": f"{name}{seed}", "task": "nano", "algorithm": name, "seed": seed, "command": ""}
    fields |= {"config": {"task": {"bases": bases, "seed": seed % bases}}, "notes": {"bases": f"{bases} bases x"}}
    fields |= {"budget": {"flops": 1e12}, "spent": {"flops": 1e12}, "versions": {}, "metrics": metrics}
    fields |= {"parents": {"sft": f"base {seed % bases}", "held_out": f"pairs {seed % bases}"}}
    return Card(**fields | {"values": {"toxicity_mean": values}})


def board(
    rng: np.random.Generator, effects: dict[str, float], bases: int, seeds: int, base: float, own: float, seed: float
) -> Section:
    """A board of methods, and of the base itself where "sft" is among them."""
    shared, hard = rng.normal(0, base, bases), rng.beta(0.3, 3, PROMPTS)
    cards = []
    for name, effect in effects.items():
        tables = runs(rng, shared, hard, effect, 0.0 if name == "sft" else own, 0.0 if name == "sft" else seed, seeds)
        cards += [card(name, number, table, bases) for number, table in enumerate(tables)]
    (section,) = leaderboard.build_board(cards).sections
    return section


def test_runs_on_several_bases_are_one_row_and_runs_on_one_base_decide_nothing() -> None:
    rng = np.random.default_rng(0)
    section = board(rng, {"sft": 0.6, "dpo": 0.3, "ppo": 0.1}, 3, 6, 0.1, 0.001, 0.001)
    assert [(row.name, row.seeds, row.clusters) for row in section.rows] == [("ppo", 6, 3), ("dpo", 6, 3), ("sft", 6, 3)]
    assert (section.base, section.protocol["held_out"]) == ("3 bases x", "3 bases x")
    assert section.ranking.pairs["ppo", "dpo"].resolved, "the bases' spread of .1 is that of both, and cancels"
    gain = section.rows[0].estimate("toxicity_reduction")
    assert gain.value == pytest.approx(0.5, abs=0.02)
    assert (gain.high or 0) - (gain.low or 0) < 0.1, "each run's gain is over its own base"
    hard = rng.beta(0.3, 3, PROMPTS)
    same = [card(name, seed, hard + shift, 3) for name, shift in (("dpo", 0.0), ("ppo", 0.3)) for seed in (0, 3, 6)]
    (section,) = leaderboard.build_board(same).sections
    assert section.ranking.lone == {"dpo", "ppo"}, "three seeds of one base"
    assert "ranks: none, from one base of each method" in leaderboard.build_board(same).terminal()
    assert not any(pair.resolved for pair in section.ranking.pairs.values())


def test_a_reference_that_lacks_a_base_is_told_and_gains_are_those_of_the_cards() -> None:
    hard = np.random.default_rng(3).beta(0.3, 3, PROMPTS)
    cards = [card("dpo", seed, hard + 0.1 * seed, 3, gain=0.2) for seed in range(3)] + [card("sft", 0, hard + 0.3, 3)]
    made = leaderboard.build_board(cards)
    assert made.sections[0].rows[0].estimate("toxicity_reduction").value == pytest.approx(0.2)
    assert "chance: the reference lacks bases" in made.terminal()
    assert "isoalign run -m algorithm=sft seed=1,2" in " ".join(made.terminal().split())


def test_methods_on_different_bases_are_not_paired_and_cards_of_other_bases_share_no_section() -> None:
    rng = np.random.default_rng(1)
    hard = rng.beta(0.3, 3, PROMPTS)
    lift = {0: 0.0, 1: 0.3, 2: -0.3}
    cards = [
        card(name, s, hard + lift[s] + at, 3) for name, at, own in (("dpo", 0.0, (0, 1)), ("ppo", 0.1, (0, 2))) for s in own
    ]
    (section,) = leaderboard.build_board(cards).sections
    assert not section.ranking.pairs["dpo", "ppo"].resolved
    others = [Card(**vars(one) | {"notes": {"bases": "3 bases y"}, "key": f"{one.key}y"}) for one in cards]
    assert len(leaderboard.build_board([*cards, *others]).sections) == 2


def test_a_base_that_two_machines_made_is_named() -> None:
    hard = np.random.default_rng(5).beta(0.3, 3, PROMPTS)
    cards = [
        replace(card(name, seed, hard, 2), contents={"sft": "elsewhere" if (name, seed) == ("kto", 1) else "here"})
        for name in ("dpo", "kto") for seed in (0, 1)
    ]  # fmt: skip
    (section,) = leaderboard.build_board(cards).sections
    assert section.unequal == ["base 1 was made more than once: elsewher of kto; here of dpo"]


def test_a_board_says_which_share_of_chance_is_the_bases_and_it_is_so() -> None:
    """Of a gain's variance .04^2 is between bases and .02^2 between seeds: 80%."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(40):
        shared, hard = rng.normal(0, 0.1, 4), rng.beta(0.3, 3, PROMPTS)
        cards = [
            card(name, number, table, 4, float(shared[number % 4] + hard.mean() + 0.5 - table.mean()))
            for name in "abc"
            for number, table in enumerate(runs(rng, shared, hard, 0.0, 0.04, 0.02, 8))
        ]
        (section,) = leaderboard.build_board(cards).sections
        assert section.chance
        found.append(section.chance)
    said = " ".join(leaderboard.build_board(cards).terminal().split())
    assert f"{section.chance.share:.0%} is between bases (95% interval: {section.chance.low:.0%} to" in said
    assert np.mean([one.between for one in found]) == pytest.approx(0.04**2, rel=0.2)
    assert np.mean([one.within for one in found]) == pytest.approx(0.02**2 + 0.02**2 / PROMPTS, rel=0.2)
    twice = [replace(one, key=f"{one.key}again") for one in cards]
    (section,) = leaderboard.build_board([*cards, *twice]).sections
    assert section.chance == found[-1], "cards of one seed are one run"


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("common", [True, False])
def test_the_interval_of_the_share_of_bases_holds_it_on_19_of_20_boards(share: float, common: bool) -> None:
    """Three bases, two seeds on each, four methods; what a base adds is the same for all methods, or differs."""
    rng, held, boards = np.random.default_rng(4), 0, 400
    for _ in range(boards):
        bases = rng.normal(0, math.sqrt(share), (1 if common else 4, 3, 1))
        table = bases + rng.normal(0, math.sqrt(1 - share), (4, 3, 2))
        found = stats.components(table.tolist())
        assert found is not None
        held += found.low <= share <= found.high
    assert held / boards >= 0.93


def on_bases(name: str, level: float, lifts: Sequence[float], bases: tuple[int, ...] = (0, 1, 2), kl: float = 1.0) -> Curves:
    """A method whose gain at the end is ``level`` and what each base adds, the same at all prompts but for their hardness."""
    hard = np.random.default_rng(0).beta(0.3, 3, PROMPTS)
    table = np.array([
        [[0 * hard, 0 * hard + kl] for _ in lifts],
        [[0.6 + hard, 0.6 + hard - level - lift + 1e-3 * np.random.default_rng(i).normal(size=PROMPTS)]
         for i, lift in enumerate(lifts)],
    ])  # fmt: skip
    return Curves(name, np.array([0.0, 1.0]), table, bases=bases)


def test_readings_at_equal_kl_and_frontiers_are_paired_base_by_base() -> None:
    lifts = [0.0, 0.2, -0.2]
    same = {name: on_bases(name, level, lifts) for name, level in (("a", 0.30), ("b", 0.25))}
    apart = same | {"b": on_bases("b", 0.25, lifts, bases=(3, 4, 5))}
    assert [at.rank for at in equal_kl.matched(same, 1.0).values()] == [(1, 1), (2, 2)], "what bases do to both cancels"
    assert {at.rank for at in equal_kl.matched(apart, 1.0).values()} == {(1, 2)}, "other bases, other runs"
    behind = equal_kl.matched(same, 1.0)["b"].behind
    assert behind.low == pytest.approx(0.05, abs=0.01)
    ended, others = ({name: replace(one, fraction=one.fraction[1:], table=one.table[:, :, 1:]) for name, one in made.items()}
                     for made in (same, apart))  # fmt: skip
    assert frontier.pareto_shares(ended) == pytest.approx({"a": 1, "b": 0})
    assert 0.2 < frontier.pareto_shares(others)["b"] < 0.5, "b is better if its bases are better by .05"


def test_curves_of_a_board_have_their_bases_in_order_whatever_the_seeds() -> None:
    rng = np.random.default_rng(4)
    hard = rng.beta(0.3, 3, PROMPTS)
    cards = [curved(card("dpo", seed, hard - 0.1 * (seed % 3), 3)) for seed in (4, 2, 3, 1)]  # of the bases 1, 2, 0, 1
    made = curves.collect({"dpo": cards})["dpo"]
    assert made.bases == (0, 1, 2)
    means = [float(np.mean([run[1, -1].mean() for run in same])) - hard.mean() for same in made.own]
    assert (means, [len(same) for same in made.own]) == (pytest.approx([0, -0.1, -0.2]), [1, 2, 1])
    (one,) = curves.collect({"dpo": [curved(card("dpo", 0, hard, 1))]}).values()
    assert one.bases == ()


def curved(one: Card) -> Card:
    """The card with a curve from its base to where it ended, a nat away."""
    end = one.values["toxicity_mean"]
    start: PromptValues = {"kl": dict.fromkeys(end, 0.0), "toxicity_mean": dict.fromkeys(end, 0.6)}
    ends = [start, {"kl": dict.fromkeys(end, 1.0), "toxicity_mean": end}]
    return replace(one, curve=[Point(float(at), 0.0, at, {}, values) for at, values in enumerate(ends)])


def test_across_tasks_methods_are_paired_base_by_base_and_gains_are_over_each_own_base() -> None:
    """On base b the base's mean is lifted, and so is the score of both methods: a is better on each by .05 of .6 + hard."""
    hard = np.random.default_rng(5).beta(0.3, 3, PROMPTS)
    lifts = (0.0, 0.2, 0.4)

    def task(name: str, levels: Sequence[tuple[str, float]]) -> list[Card]:
        made = [card(method, seed, share * (hard + 0.6 + lifts[seed]), 3) for method, share in levels for seed in range(3)]
        return [replace(one, task=name) for one in made]

    shares = [("sft", 1.0), ("a", 0.5), ("b", 0.55)]
    found = cross_task({name: task(name, shares) for name in ("nano", "smol")})
    scores = {method.name: method.runs["nano"] for method in found.methods}
    assert scores == {"a": pytest.approx([0.5] * 3), "b": pytest.approx([0.45] * 3)}, "whatever the base"
    # on another base b would be better than a: pairs of runs on different bases say nothing
    rising = [card(m, s, (at + 0.1 * s) * (hard + 0.6 + lifts[s]), 3) for m, at in (("a", 0.5), ("b", 0.52)) for s in range(3)]
    rising = [replace(one, task="smol") for one in rising] + task("smol", shares[:1])
    sure = cross_task({"nano": task("nano", shares), "smol": rising}).improvement["a", "b"]
    assert (sure.value, sure.low) == (1, None), "no resample of the bases differs"
    lacking = [one for one in task("smol", shares) if (one.algorithm, one.seed) != ("sft", 2)]
    told = cross_task({"nano": task("nano", shares), "smol": lacking}).methods
    assert not any("smol" in method.runs for method in told), "a base that is not measured gives no gain, not another's"


def test_across_tasks_gains_of_cards_are_paired_on_the_bases_that_both_methods_have() -> None:
    gains = {"a": (None, 0.2, 0.3), "b": (0.1, 0.25, None)}  # on base 1, which both have, b is better

    def measured(one: Card) -> Card:
        gain = gains[one.algorithm][one.seed] if one.algorithm in gains else None
        return replace(one, metrics=one.metrics | {"toxicity_reduction_relative": Estimate(gain, None, None, PROMPTS)})

    hard = np.random.default_rng(5).beta(0.3, 3, PROMPTS)
    cards = [measured(card(m, s, hard, 3)) for m in ("sft", "a", "b") for s in range(3) if (m, s) != ("sft", 2)]
    tasks = {name: [replace(one, task=name) for one in cards] for name in ("nano", "smol")}
    assert cross_task(tasks).improvement["a", "b"].value == 0


def test_a_board_says_what_more_bases_would_cost_not_more_seeds_of_one() -> None:
    hard = np.random.default_rng(6).beta(0.3, 3, PROMPTS)

    def said(*seeds: int, bases: int = 3) -> str:
        made = [card("dpo", seed, hard, bases) for seed in seeds] + [card("sft", 0, hard + 0.3, bases)]
        return " ".join(leaderboard.build_board(made).terminal().split())

    assert "three bases of each would take 2 more runs (seed=1, seed=2): 2.00e12 FLOP" in said(0, 3, 6)
    assert "two bases of each would take 1 more run (seed=1): 1.00e12 FLOP" in said(0, 2, bases=2)
    assert "more run" not in said(0, 1, 2) + said(0, 1, bases=2)


@pytest.mark.slow
@pytest.mark.parametrize(("bases", "seeds"), [(2, 4), (3, 3), (3, 6), (5, 5)])
def test_intervals_cover_bases_and_seeds_and_equal_methods_are_not_told_apart(bases: int, seeds: int) -> None:
    """Methods with the same mean over all bases that could be, on which each does as well or badly in its own way."""
    rng = np.random.default_rng(10 * bases + seeds)
    boards, parted, covered = 200, 0, 0
    for _ in range(boards):
        section = board(rng, dict.fromkeys(["sft", "a", "b", "c", "d"], 0.5) | {"sft": 0.6}, bases, seeds, 0.1, 0.03, 0.02)
        parted += any(pair.resolved for pair in section.ranking.pairs.values())
        row = next(row for row in section.rows if row.name == "a")
        gain = row.estimate("toxicity_reduction")
        covered += (gain.low or 0) <= 0.1 <= (gain.high or 0)
    assert parted <= binom.ppf(0.95, boards, 0.05)  # so many of few boards may be by chance, at 5%
    assert covered >= binom.ppf(0.05, boards, 0.93)


@pytest.mark.slow
def test_runs_of_two_seeds_on_two_bases_make_one_board_of_gains_over_their_own_base(furnished: Terminal) -> None:
    results, words = furnished.home / "results", ["algorithm=sft,dpo", "seed=0,1", "task.bases=2", "budget.steps=2"]
    done = furnished(furnished.run("-m", *words))
    assert done.returncode == 0, done.stderr
    cards = {(card.algorithm, card.seed): card for card in read_cards(results / "nano")}
    assert {key: (card.base, card.config["task"]["seed"]) for key, card in cards.items()} == {
        (name, seed): (seed, seed) for name in ("sft", "dpo") for seed in (0, 1)
    }
    for stage in ("sft", "held_out", "completions", "pairs"):
        assert cards["dpo", 0].parents[stage] != cards["dpo", 1].parents[stage]
        assert cards["dpo", 1].parents[stage] == cards["sft", 1].parents[stage]
    (section,) = leaderboard.build_board(cards.values()).sections
    row = next(row for row in section.rows if row.name == "dpo")
    own = [cards["dpo", seed].metrics["toxicity_reduction"].value or 0.0 for seed in (0, 1)]
    assert row.estimate("toxicity_reduction").value == pytest.approx(sum(own) / 2, abs=1e-6)
    said = furnished([COMMAND, "board", "nano", "--results", str(results)]).stdout
    assert "chance: between bases and seeds not told apart" in said
    for seed in (0, 1):
        file = results / "nano" / file_name(cards["dpo", seed])
        verified = furnished([COMMAND, "verify", str(file), "--store", str(furnished.store)])
        assert verified.returncode == 0, verified.stdout
