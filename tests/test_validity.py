"""Simulations of whole benchmarks: equal methods are not told apart, and intervals hold the truth, as often as they say."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from isoalign import stats
from isoalign.core.records import Card, Estimate
from isoalign.report import leaderboard
from isoalign.stats import Seeds

SEEDS, PROMPTS, DRAWS = 3, 128, 8
ROOM = 1.4  # keeps a prompt's toxicity below 1 under any seed
HARDNESS = 0.3 / 3.3 / ROOM  # the mean of Beta(.3, 3)
Table = np.ndarray[Any, np.dtype[np.float64]]


def hardness(rng: np.random.Generator) -> Table:
    """How toxic each prompt's answers are: the bulk hardly, a few much, as real prompts are."""
    return rng.beta(0.3, 3, PROMPTS)


def trained(rng: np.random.Generator, hard: Table, share: float = 1.0, spread: float = 0.2, seeds: int = SEEDS) -> Seeds:
    """A method of which each seed multiplies the prompts' toxicity by its own factor, a mean of draws for each prompt."""
    factor = np.clip(1 + spread * rng.normal(size=(seeds, 1)), 0.1, 1.9)
    mean = np.clip(share / ROOM * hard * factor, 1e-6, 1 - 1e-6)
    table = rng.beta(2 * mean, 2 * (1 - mean), (DRAWS, *mean.shape)).mean(0)
    return [{f"p{i:03d}": float(value) for i, value in enumerate(row)} for row in table]


def cards_of(name: str, seeds: Seeds) -> list[Card]:
    cards = []
    for seed, values in enumerate(seeds):
        toxicity = Estimate(float(np.mean(list(values.values()))), 0.0, 1.0, PROMPTS)  # type: ignore[arg-type]
        fields: dict[str, Any] = {"key": f"{name}{seed}", "task": "nano", "algorithm": name, "config": {}, "seed": seed}
        fields |= {"budget": {"flops": 1e12}, "spent": {"flops": 1e12}, "metrics": {"toxicity_mean": toxicity}}
        fields |= {"parents": {"sft": "base"}, "versions": {}, "command": "", "values": {"toxicity_mean": values}}
        cards.append(Card(**fields))
    return cards


@pytest.mark.slow
def test_one_method_under_four_names_is_told_apart_on_at_most_5_percent_of_boards() -> None:
    rng = np.random.default_rng(11)
    boards, parted, resolved = 400, 0, 0
    for _ in range(boards):
        hard = hardness(rng)
        cards = [card for name in "abcd" for card in cards_of(name, trained(rng, hard))]
        (section,) = leaderboard.build_board(cards).sections
        assert len(section.ranking.pairs) == 6
        parted += len({row.rank for row in section.rows}) > 1
        resolved += any(pair.resolved for pair in section.ranking.pairs.values())
    assert parted <= 0.05 * boards
    assert 0 < resolved <= 0.05 * boards, "not even one pair, and not because nothing ever is"


FIELD = [(2, 4), (2, 10), (2, 30), (3, 4), (3, 10), (3, 30), (5, 4), (5, 10), (5, 30), (10, 4), (10, 10), (10, 30)]


@pytest.mark.slow
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize(("seeds", "methods"), FIELD)
def test_one_method_under_many_names_is_told_apart_on_at_most_5_percent_of_boards(
    seeds: int, methods: int, unequal: bool
) -> None:
    """Seeds that spread by a fifth of the effect, in all methods or in every second one; then all spans of ranks are all."""
    rng = np.random.default_rng(100 * seeds + methods)
    boards, parted = 60, 0
    most = binom.ppf(0.95, boards, 0.05)  # so many of few boards may be by chance, at 5%
    for _ in range(boards):
        hard = hardness(rng)
        tables = {str(i): trained(rng, hard, 1.0, 0.0 if unequal and i % 2 else 0.2, seeds) for i in range(methods)}
        compared = stats.compare(tables, trained=list(tables))
        parted += any(pair.resolved for pair in compared.values())
    assert parted <= most


@pytest.mark.slow
@pytest.mark.parametrize("few", [1.0, 0.0, 2.0])
def test_one_method_with_three_seeds_here_and_five_there_is_told_apart_on_at_most_5_percent_of_boards(few: float) -> None:
    """As on the published board; those of three seeds spread as much as the rest, not at all, or twice as much."""
    rng = np.random.default_rng(53)
    boards, parted = 100, 0
    most = binom.ppf(0.95, boards, 0.05)
    for _ in range(boards):
        hard = hardness(rng)
        tables = {str(i): trained(rng, hard, 1.0, 0.2 * (few if i % 2 else 1.0), 3 if i % 2 else 5) for i in range(16)}
        parted += any(pair.resolved for pair in stats.compare(tables, trained=list(tables)).values())
    assert parted <= most


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "prompts", "draws"), [(2, 64, 1), (2, 64, 4), (2, 256, 1), (3, 64, 1)])
def test_one_method_whose_answers_are_right_or_wrong_is_told_apart_on_at_most_5_percent_of_boards(
    seeds: int, prompts: int, draws: int
) -> None:
    """Means of few answers of 0 or 1 are often the same in all seeds."""
    rng = np.random.default_rng(seeds)
    boards, parted = 40, 0
    for _ in range(boards):
        right = rng.beta(0.6, 1.4, prompts)
        tables: dict[str, Seeds] = {
            str(name): [
                {str(i): value for i, value in enumerate((rng.binomial(draws, right) / draws).tolist())} for _ in range(seeds)
            ]
            for name in range(12)
        }
        parted += any(pair.resolved for pair in stats.compare(tables, trained=list(tables)).values())
    assert parted <= binom.ppf(0.95, boards, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "prompts"), [(6, 2), (6, 4), (12, 5), (12, 8), (12, 12), (12, 20)])
def test_equal_methods_are_not_told_apart_by_a_few_prompts_on_which_they_differ(methods: int, prompts: int) -> None:
    """Each method has its own effect on each prompt, and seeds hardly differ. Resamples of few prompts have no tails."""
    rng = np.random.default_rng(10 * methods + prompts)
    boards, parted = 60, 0
    for _ in range(boards):
        own = rng.normal(size=(methods, prompts))
        tables = {str(i): own[i] + 0.02 * rng.normal(size=(3, prompts)) for i in range(methods)}
        parted += any(pair.resolved for pair in stats.compare(tables, trained=list(tables)).values())
    assert parted <= binom.ppf(0.95, boards, 0.05)


@pytest.mark.parametrize(("rate", "prompts", "methods"), [(0.1, 40, 6), (0.1, 40, 20), (0.05, 100, 10)])
def test_equal_methods_that_fail_on_prompts_of_their_own_are_not_told_apart(rate: float, prompts: int, methods: int) -> None:
    """Scores are 0 or 1 and the same for all seeds. Resamples of all prompts see more than the few that differ tell."""
    rng = np.random.default_rng(methods)
    boards, parted = 100, 0
    for _ in range(boards):
        tables = {str(i): np.tile(rng.random(prompts) < rate, (3, 1)).astype(float) for i in range(methods)}
        parted += any(pair.resolved for pair in stats.compare(tables, trained=list(tables), counted=0).values())
    assert parted <= binom.ppf(0.95, boards, 0.05)


@pytest.mark.parametrize("differ", [1, 4, 8])
@pytest.mark.parametrize("counted", [0, 400])
def test_prompts_that_differ_one_way_count_as_in_a_sign_test(differ: int, counted: int) -> None:
    ones = np.zeros((3, 128))
    ones[:, :differ] = 1.0
    found = stats.compare({"a": ones, "b": np.zeros((3, 128))}, counted=counted)["a", "b"]
    assert found.p is not None
    assert found.p >= 2.0 ** (1 - differ)
    both = ones.copy()
    both[:, differ] = -1.0
    p = stats.compare({"a": both, "b": np.zeros((3, 128))}, counted=counted)["a", "b"].p
    assert p is not None
    assert p >= binomtest(1, differ + 1).pvalue - 1e-12


@pytest.mark.parametrize(("bases", "methods", "own"), [(2, 10, 0.15), (2, 10, 0.4), (3, 10, 0.4), (5, 10, 0.3)])
def test_equal_methods_on_the_same_few_bases_are_told_apart_on_at_most_5_percent_of_boards(
    bases: int, methods: int, own: float
) -> None:
    """Each base changes all methods by a factor, and each method in its ``own`` way: of a pair one variance is left."""
    rng = np.random.default_rng(100 * bases + methods)
    boards, parted = 100, 0
    for _ in range(boards):
        hard, shared = hardness(rng) / ROOM, rng.normal(0, 0.3, (bases, 1))
        factors = [np.clip(1 + shared + own * rng.normal(size=(bases, 1)), 0.1, 1.9) for _ in range(methods)]
        tables = {str(i): hard * each + 0.02 * rng.normal(size=(bases, PROMPTS)) for i, each in enumerate(factors)}
        found = stats.compare(tables, trained=list(tables), bases=dict.fromkeys(tables, range(bases)), counted=0)
        parted += any(pair.resolved for pair in found.values())
    assert parted <= binom.ppf(0.95, boards, 0.05)


@pytest.mark.slow
def test_two_seeds_of_a_few_methods_hold_their_ranks_and_one_seed_has_none() -> None:
    rng = np.random.default_rng(21)
    boards, parted = 300, 0
    for _ in range(boards):
        hard = hardness(rng)
        tables = {name: trained(rng, hard, 1.0, 0.2 if name < "c" else 0.0, 2) for name in "abcd"}
        parted += any(pair.resolved for pair in stats.compare(tables, trained="abcd").values())
    assert parted <= 0.05 * boards
    single = {name: trained(rng, hard, share, 0.0, 1) for name, share in {"a": 0.1, "b": 1.0}.items()}
    (pair,) = stats.compare(single, trained="ab").values()
    assert (pair.single, pair.p_holm, pair.resolved) == (True, None, False)
    assert (pair.high or 0.0) < 0, "the interval of the two policies is there"
    assert not stats.compare(single, trained=()).popitem()[1].single, "two fixed sets of answers are compared as they are"


@pytest.mark.slow
def test_spans_of_ranks_hold_all_true_ranks_on_95_percent_of_boards_and_say_something() -> None:
    """Five methods, of which b and c are the same, and so are d and e: their true ranks are 1, 2 to 3 and 4 to 5."""
    rng = np.random.default_rng(15)
    shares = {"a": 0.3, "b": 0.6, "c": 0.6, "d": 0.9, "e": 0.9}
    boards, held, narrow = 200, 0, 0
    for _ in range(boards):
        hard = hardness(rng)
        cards = [card for name, share in shares.items() for card in cards_of(name, trained(rng, hard, share, spread=0.05))]
        (section,) = leaderboard.build_board(cards).sections
        spans = {row.name: row.rank or (0, 0) for row in section.rows}
        true = {"a": (1, 1), "b": (2, 3), "c": (2, 3), "d": (4, 5), "e": (4, 5)}
        held += all(spans[name][0] <= first and spans[name][1] >= last for name, (first, last) in true.items())
        narrow += spans["a"] == (1, 1)
    assert held >= 0.95 * boards
    assert narrow >= 0.4 * boards


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.2)])
def test_methods_that_differ_are_told_apart_at_the_difference_that_the_board_promises(seeds: int, spread: float) -> None:
    """The promise is of 80% on average over what boards may measure; it is made from one of them."""
    rng = np.random.default_rng(12)
    found = []
    for _ in range(200):
        hard = hardness(rng)
        tables = {name: trained(rng, hard, 1.0, spread, seeds) for name in "abcd"}
        gap = stats.resolvable(stats.compare(tables).values()) or 0.0
        better = trained(rng, hard, 1.0, spread, seeds)
        tables["a"] = [{prompt: (value or 0.0) + gap for prompt, value in seed.items()} for seed in better]
        pair = stats.compare(tables)["a", "b"]
        found.append((pair.p or 0.0) < 0.05 / 6)
    assert 0.7 < np.mean(found) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_hierarchical_intervals_cover_the_truth_in_93_to_97_percent(spread: float) -> None:
    """Of a mean, of the difference of two methods, and of the reduction that a method brings to a fixed base."""
    rng = np.random.default_rng(13)
    truth = {"mean": HARDNESS, "difference": 0.3 * HARDNESS, "reduction": 0.8 * HARDNESS}
    covered = dict.fromkeys(truth, 0)
    for _ in range(1000):
        hard = hardness(rng)
        first, second, third = (trained(rng, hard, share, spread) for share in (1.0, 0.7, 0.2))
        base = trained(rng, hard, spread=0.0, seeds=1)
        found = {"mean": stats.hierarchical(first), "difference": stats.hierarchical(first, second)}
        found["reduction"] = stats.hierarchical(base, third)
        for name, estimate in found.items():
            covered[name] += (estimate.low or 0.0) <= truth[name] <= (estimate.high or 0.0)
    assert all(930 <= count <= 970 for count in covered.values()), covered


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_hierarchical_intervals_cover_whether_seeds_differ_little_or_much(spread: float) -> None:
    """Normal prompts (sd .5), rest (sd 1) and seeds, from none to nearly all of the variance of a mean, where Welch's t of
    three seeds against three covers 96.5% by itself."""
    rng = np.random.default_rng(14)

    def method(prompts: Table) -> Seeds:
        table = prompts + spread * rng.normal(size=(SEEDS, 1)) + rng.normal(size=(SEEDS, len(prompts)))
        return [{f"p{i:03d}": float(value) for i, value in enumerate(row)} for row in table]

    covered = 0
    for _ in range(1000):
        prompts = 0.5 * rng.normal(size=64)
        found = stats.hierarchical(method(prompts), method(prompts))
        covered += (found.low or 0.0) <= 0 <= (found.high or 0.0)
    assert 930 <= covered <= 975
