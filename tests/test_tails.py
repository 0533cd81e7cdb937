"""Comparisons of many methods agree with resampling, which they replace."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from isoalign import stats
from isoalign.evaluation.card import read_cards
from isoalign.report.board.ranking import seeds_of
from isoalign.report.board.rows import METHOD, part_of, settings_of
from isoalign.stats import comparisons
from isoalign.stats.tails import quantile, tails

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "nano"
SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed": lambda rng, n: rng.gamma(0.2, size=n),
    "long tails": lambda rng, n: rng.standard_t(3, size=n),
    "0 and 1": lambda rng, n: (rng.random(n) < 0.3).astype(float) - (rng.random(n) < 0.1),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seeds", [0.0, 0.3])
@pytest.mark.parametrize("prompts", [24, 256])
def test_tails_are_those_of_many_resamples(shape: str, prompts: int, seeds: float) -> None:
    """``seeds``: the normal part's share of the variance of 1. A count of k has a standard error of sqrt(k)."""
    resamples, rng = 250_000, np.random.default_rng(1)
    gaps = SHAPES[shape](rng, prompts)
    gaps -= gaps.mean()
    gaps *= np.sqrt((1 - seeds) / np.square(gaps).sum())
    draws = stats.resample(lambda weights: weights @ gaps, prompts, resamples) + np.sqrt(seeds) * rng.normal(size=resamples)
    at = np.array([-3.71, -3.02, -2.13, -1.01, 0.003, 0.98, 2.04, 2.97, 3.63])
    found = tails(np.tile(gaps, (len(at), 1)), np.full(len(at), seeds), at)
    counted = np.array([min(np.mean(draws <= x), np.mean(draws >= x)) for x in at])
    assert (np.abs(found - counted) <= 0.06 * counted + 4 * np.sqrt(counted / resamples) + 2e-5).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_quantiles_are_where_the_tails_have_their_level(shape: str) -> None:
    gaps = SHAPES[shape](np.random.default_rng(2), 128)
    gaps = np.tile((gaps - gaps.mean()) / gaps.std() / np.sqrt(128), (2, 1))
    seeds = np.array([0.2, 0.7])
    for level in (0.025, 0.975):
        at = quantile(gaps, seeds, level)
        assert (at < 0).all() == (level < 0.5)
        assert tails(gaps, seeds, at) == pytest.approx([0.025, 0.025], rel=1e-6)


def test_beyond_all_possible_draws_the_tail_is_empty_and_at_their_end_it_is_all_prompts_at_once() -> None:
    """Of two prompts, -1 and 1 with variance 1/2 each: sums are -2, 0 and 2 with 1/4, 1/2 and 1/4."""
    gaps = np.tile([-1.0, 1.0], (3, 1))
    beyond, end, inner = tails(gaps, np.zeros(3), np.array([2.1, 2.0, 0.5]))
    assert beyond == 0
    assert end == pytest.approx(0.25, abs=0.05)
    assert inner == pytest.approx(0.25, abs=0.05)
    assert tails(gaps[:1], np.ones(1), np.array([40.0])) < 1e-100


@pytest.fixture(scope="module")
def published() -> dict[str, stats.Seeds]:
    groups: dict[tuple[str, str], list] = {}
    for card in read_cards(PUBLISHED):
        if part_of(card) == METHOD:
            groups.setdefault((card.algorithm, settings_of(card)), []).append(card)
    found = {f"{name} {i}": seeds_of(cards, "toxicity_mean") for i, ((name, _), cards) in enumerate(groups.items())}
    whole = {name: seeds for name, seeds in found.items() if seeds}
    return dict(sorted(whole.items())[:28])  # as many as are compared by resampling


@pytest.mark.slow
def test_on_the_published_cards_tails_give_the_verdicts_of_resampling(
    published: dict[str, stats.Seeds], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for pairs so near 5% that other resamples would decide differently: the smallest p that Holm's correction does not
    resolve are of 10 draws in 140,000, give or take a third."""
    assert 45 < len(list(combinations(published, 2))) <= comparisons.MANY
    plain = stats.compare(published)
    monkeypatch.setattr(comparisons, "MANY", 0)
    found = stats.compare(published)
    resamples = 400 * len(plain)
    for pair, c in plain.items():
        one = found[pair]
        assert (one.value, one.error, one.freedom, one.n) == (c.value, c.error, c.freedom, c.n)
        assert abs(one.p - c.p) <= 4 * np.sqrt(2 * c.p / resamples) + 0.02 * c.p
        assert (one.low, one.high) == pytest.approx((c.low, c.high), abs=0.06 * c.error)
        assert one.resolved == c.resolved or 0.03 < c.p_holm < 0.08
    assert sum(found[pair].resolved != c.resolved for pair, c in plain.items()) <= 0.01 * len(plain)


def test_many_comparisons_of_one_seed_of_scores_of_0_and_1_are_those_of_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(128)
    methods = {
        f"m{i}": [{str(p): float(x) for p, x in enumerate(rng.random(128) < hard * share)}]
        for i, share in enumerate(np.linspace(0.3, 1, 14))
    }
    plain = stats.compare(methods)
    monkeypatch.setattr(comparisons, "MANY", 0)
    found = stats.compare(methods)
    resamples = 400 * len(plain)
    for pair, c in plain.items():
        assert abs(found[pair].p - c.p) <= 4 * np.sqrt(2 * c.p / resamples) + 0.06 * c.p, pair


def test_comparisons_in_batches_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    methods = {f"m{i}": [dict(zip("abcdefgh", row, strict=True)) for row in rng.normal(size=(2, 8))] for i in range(8)}
    for many in (400, 0):
        monkeypatch.setattr(comparisons, "MANY", many)
        whole = stats.compare(methods)
        with monkeypatch.context() as patch:
            patch.setattr(comparisons, "SUMS", 3 * comparisons.PAIRED)
            patch.setattr(comparisons, "BATCH", 5)
            parts = stats.compare(methods)
        assert list(parts) == list(whole)
        for pair, c in whole.items():
            assert (parts[pair].low, parts[pair].p, parts[pair].p_holm) == pytest.approx((c.low, c.p, c.p_holm), rel=1e-9)
