"""Agreement: worked examples of the literature, other implementations, and what can't be said."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from isoalign.config.feedback import PanelConfig
from isoalign.core.errors import UserError
from isoalign.feedback.annotators import Verdicts, panel_verdicts, verdict_matrix
from isoalign.stats.agreement import agreement

CORRECTED = ("cohen_kappa", "fleiss_kappa", "krippendorff_alpha")

# Fleiss 1971, table 1: the diagnoses of 30 patients by six psychiatrists each, whose own order was not printed
DIAGNOSES = """
444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444 224445
333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555
"""
# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), example C: four observers, twelve units, a dot for what
# is missing; and example A: two observers, ten units, two labels
OBSERVERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
MEG, OWEN = "0100000010", "1110010000"


def labels(*annotators):
    """A string an annotator to a table with a row an item; a dot is missing."""
    return [[None if label == "." else float(label) for label in row] for row in zip(*annotators, strict=True)]


def noisy(items, annotators, rate, rng, coverage=1.0):
    """Two labels at equal rates, each turned round at a rate."""
    cells = ((rng.random((items, 1)) < 0.5) ^ (rng.random((items, annotators)) < rate)).astype(float)
    return np.where(rng.random((items, annotators)) < coverage, cells, np.nan)


def values(found):
    return [found[name].value for name in ("agreement", *CORRECTED)]


def test_fleiss_kappa_of_his_own_example():
    cells = [[float(label) for label in patient] for patient in DIAGNOSES.split()]
    found = agreement(cells)
    assert found["fleiss_kappa"].value == pytest.approx(0.430, abs=5e-4)
    assert found["agreement"].value == pytest.approx(0.556, abs=5e-4), "his mean P_i"
    assert found["fleiss_kappa"].low < 0.430 < found["fleiss_kappa"].high
    assert (found["fleiss_kappa"].n, found["fleiss_kappa"].missing) == (30, 0)


def test_krippendorffs_alpha_of_his_own_examples():
    found = agreement(labels(*OBSERVERS))
    assert found["krippendorff_alpha"].value == pytest.approx(0.743, abs=5e-4)
    assert (found["krippendorff_alpha"].n, found["krippendorff_alpha"].missing) == (11, 1)
    # of 20 labels 14 are 0 and 6 are 1, four of ten pairs differ: 1 - 19 x 4 / (14 x 6)
    found = agreement(labels(MEG, OWEN))
    assert found["krippendorff_alpha"].value == pytest.approx(1 - 76 / 84)
    assert found["agreement"].value == pytest.approx(0.6)


def test_cohens_kappa_by_hand():
    # 20 times both 1, 5 times 1 and 0, 10 times 0 and 1, 15 times both 0: observed .7, expected .5 x .6 + .5 x .4 = .5
    cells = [[1.0, 1.0]] * 20 + [[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 10 + [[0.0, 0.0]] * 15
    assert agreement(cells)["cohen_kappa"].value == pytest.approx(0.4)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 4), st.floats(0.3, 1))
@settings(max_examples=40, deadline=None)
def test_cohens_kappa_is_the_mean_of_scikit_learns_over_pairs_of_annotators(seed, annotators, kinds, coverage):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, kinds, (30, annotators)).astype(float)
    cells[rng.random(cells.shape) > coverage] = np.nan
    each = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for one, other in itertools.combinations(cells.T, 2):
            both = np.isfinite(one) & np.isfinite(other)
            each.append(cohen_kappa_score(one[both], other[both]) if both.any() else math.nan)
    known = [kappa for kappa in each if math.isfinite(kappa)]
    found = agreement(cells)["cohen_kappa"].value
    assert found == (pytest.approx(np.mean(known)) if known else None)


@given(st.integers(0, 10_000), st.floats(0.2, 1))
@settings(max_examples=30, deadline=None)
def test_the_share_of_equal_pairs_is_that_of_counting_them(seed, coverage):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 3, (20, 4)).astype(float)
    cells[rng.random(cells.shape) > coverage] = np.nan
    pairs = [one == other for row in cells for one, other in itertools.combinations(row[np.isfinite(row)], 2)]
    assert agreement(cells)["agreement"].value == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_fleiss_kappa_is_of_the_items_with_the_commonest_number_of_labels():
    rng = np.random.default_rng(0)
    three, two = noisy(40, 3, 0.2, rng), noisy(30, 3, 0.2, rng)
    two[:, 1] = np.nan
    found = agreement(np.concatenate([two, three]))["fleiss_kappa"]
    assert found.value == pytest.approx(agreement(three)["fleiss_kappa"].value)
    assert (found.n, found.missing) == (40, 30)
    # as many with two as with three: the larger
    found = agreement(np.concatenate([two, three[:30]]))["fleiss_kappa"]
    assert found.value == pytest.approx(agreement(three[:30])["fleiss_kappa"].value)


def test_corrected_figures_of_noisy_annotators_are_what_their_noise_implies():
    found = agreement(noisy(20_000, 4, 0.1, np.random.default_rng(1)))
    assert found["agreement"].value == pytest.approx(0.9**2 + 0.1**2, abs=0.01)
    for name in CORRECTED:
        assert found[name].value == pytest.approx((1 - 2 * 0.1) ** 2, abs=0.02)


def test_agreement_is_blind_to_what_annotators_have_in_common():
    utilities = np.random.default_rng(2).normal(size=(2000, 2))
    names = list(map(str, range(2000)))

    def found(noise=0.0, **config):
        said = panel_verdicts(
            utilities, np.zeros((2000, 2)), np.zeros(2000, bool), names, PanelConfig(annotators=3, **config), 0, noise
        )
        wrong = said.first_wins != (utilities[:, 0] > utilities[:, 1])[said.item]
        return agreement(verdict_matrix(said, 2000, 3))["krippendorff_alpha"].value, wrong.mean()

    noise, expectation = found(noise=0.2), found(expectation=1.2)
    assert noise[0] == pytest.approx(0.36, abs=0.05)
    assert expectation[0] == 1.0
    assert expectation[1] > 0.15, "as wrong as by noise"


def test_agreement_does_not_hang_on_which_answer_is_called_first():
    utilities = np.random.default_rng(5).normal(size=(2000, 2))
    better_first = -np.sort(-utilities, axis=1)
    for pairs in (utilities, better_first):
        names = list(map(str, range(2000)))
        said = panel_verdicts(pairs, np.zeros((2000, 2)), np.zeros(2000, bool), names, PanelConfig(annotators=3), 0, noise=0.1)
        for name in CORRECTED:
            assert agreement(verdict_matrix(said, 2000, 3))[name].value == pytest.approx(0.64, abs=0.05)


def test_a_table_of_verdicts_has_a_row_an_item_and_a_column_a_annotator():
    """The second answer's name is 1 in items 1 and 3."""
    said = Verdicts(np.array([0, 1, 1, 3]), np.array([1, 0, 1, 0]), np.array([True, False, True, False]), np.ones(4, bool))
    np.testing.assert_array_equal(verdict_matrix(said, 4, 2), [[np.nan, 1], [1, 0], [np.nan, np.nan], [1, np.nan]])


@pytest.mark.parametrize("items", [60, 400])
def test_intervals_cover_what_noise_implies(items):
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(150):
        found = agreement(noisy(items, 3, 0.15, rng, coverage=0.8))
        truth = [0.85**2 + 0.15**2, *[0.7**2] * 3]
        hits.append([e.low <= t <= e.high for e, t in zip(found.values(), truth, strict=True)])
    assert (np.mean(hits, axis=0) > 0.89).all()
    assert np.mean(hits) < 0.985


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_names_of_labels_and_orders_of_items_and_annotators_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    cells = noisy(25, 4, 0.25, rng, coverage=0.7)
    renamed = np.where(np.isnan(cells), np.nan, np.where(cells == 1, -3, 7))
    mixed = cells[rng.permutation(25)][:, rng.permutation(4)]
    for other in (renamed, mixed):
        for found, again in zip(values(agreement(cells)), values(agreement(other)), strict=True):
            assert again == (None if found is None else pytest.approx(found))


ALONE = [[1.0, None], [None, 0.0]]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (ALONE, [None] * 4),
        ([[1.0], [0.0]], [None] * 4),
        (np.zeros((0, 3)), [None] * 4),
        (np.zeros((3, 0)), [None] * 4),
        ([[None, None]], [None] * 4),
        ([[1.0, 1.0], [1.0, 1.0]], [1.0, None, None, None]),
        ([[1.0, 0.0]], [0.0, 0.0, -1.0, 0.0]),
        # one annotator says 1 throughout: expected is observed
        ([[1.0, 1.0]] * 3 + [[1.0, 0.0]], [0.75, 0.0, pytest.approx(-1 / 7), pytest.approx(0)]),
    ],
)
def test_what_cannot_be_said_is_none_without_a_warning(cells, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = agreement(cells)
    assert values(found) == expected
    for estimate in found.values():
        assert estimate.n + estimate.missing == len(cells)
        assert estimate.value is not None or (estimate.low, estimate.high) == (None, None)
        assert all(bound is None or -1 <= bound <= 1 for bound in (estimate.low, estimate.high))


def test_what_is_no_table_is_refused():
    with pytest.raises(UserError, match="a table of items and annotators, not an array of 1 dimension"):
        agreement([1.0, 0.0])
