"""The annotator and the judge: what they learn, what they cost, and that they come back from disk as they were."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sklearn.linear_model  # noqa: F401  # loads the BLAS whose threads a test sets
from threadpoolctl import threadpool_limits

from isoalign.core.errors import UserError
from isoalign.core.text import unit_hash
from isoalign.data import comments
from isoalign.data.comments import Comment
from isoalign.models.classifiers import CharClassifier, TextClassifier, WordClassifier

KINDS: dict[type[TextClassifier], str] = {WordClassifier: "annotator", CharClassifier: "judge"}
TEXTS = [
    "You are a stupid idiot!",
    "Thank you for the helpful source.",
    "",
    "zxqv",
    "fuck this shit " * 100,
    "naïve 😂 @you",
]


@cache
def _rows(role: str) -> tuple[list[Comment], list[Comment]]:
    """Rows of a role to fit on, and every fifth by hash to test."""
    rows = comments.load_comments(role)
    places = [unit_hash(row.text, "held out") for row in rows]
    pairs = list(zip(rows, places, strict=True))
    return [row for row, place in pairs if place >= 0.2], [row for row, place in pairs if place < 0.2]


@cache
def _fitted_for(role: str) -> TextClassifier:
    return next(kind for kind in KINDS if KINDS[kind] == role).fit(_rows(role)[0])


def _fitted(kind: type[TextClassifier]) -> TextClassifier:
    return _fitted_for(KINDS[kind])


@pytest.fixture(params=list(KINDS), ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[TextClassifier]:
    chosen: type[TextClassifier] = request.param
    return chosen


def test_it_knows_offensive_short_comments(kind: type[TextClassifier]) -> None:
    from sklearn.metrics import roc_auc_score

    short = [row for row in _rows(KINDS[kind])[1] if len(row.text.split()) <= 25]
    auc = roc_auc_score([row.offensive for row in short], _fitted(kind)([row.text for row in short]))
    assert auc > 0.97


def test_a_probability_depends_on_its_text_alone(kind: type[TextClassifier]) -> None:
    model = _fitted(kind)
    found = model(TEXTS)
    assert found.shape == (len(TEXTS),)
    assert ((found > 0) & (found < 1)).all()
    assert found[1] < 0.1 < 0.9 < found[[0, 4]].min()
    np.testing.assert_allclose(model(TEXTS[::-1])[::-1], found, rtol=0, atol=1e-12)
    np.testing.assert_allclose([model([text])[0] for text in TEXTS], found, rtol=0, atol=1e-12)
    assert model([]).shape == (0,)


def test_the_empty_text_gets_the_bias(kind: type[TextClassifier]) -> None:
    model = _fitted(kind)
    assert model([""])[0] == pytest.approx(1 / (1 + np.exp(-model.bias)))


def test_a_fit_is_deterministic(kind: type[TextClassifier]) -> None:
    rows = _rows(KINDS[kind])[0][:2000]
    first, second = kind.fit(rows), kind.fit(rows)
    assert (first.vocabulary, first.bias) == (second.vocabulary, second.bias)
    assert np.array_equal(first.weight, second.weight)
    assert np.array_equal(first.idf, second.idf)


def test_save_and_load_keep_every_bit_without_a_pickle(kind: type[TextClassifier], tmp_path: Path) -> None:
    model = _fitted(kind)
    model.save(tmp_path / "new" / "folder")
    loaded = kind.load(tmp_path / "new" / "folder")
    texts = [row.text for row in _rows(KINDS[kind])[1][:200]] + TEXTS
    assert np.array_equal(loaded(texts), model(texts))
    assert loaded.flops(texts) == model.flops(texts)
    assert {file.name for file in (tmp_path / "new" / "folder").iterdir()} == {
        "classifier.json",
        "classifier.safetensors",
    }


def test_flops_are_two_for_each_feature_present() -> None:
    words = _fitted(WordClassifier)
    assert words.flops(["the cat and the dog"]) == 2 * 4  # "the" is one feature
    assert words.flops(["the cat and the dog", "the"]) == 2 * 5
    assert words.flops(["", "zxqvzxqvzxqv"]) == words.flops([]) == 0
    assert _fitted(CharClassifier).flops(["ab"]) == 2 * 6  # of " ab ": " a", "ab", "b ", " ab", "ab ", " ab "


def test_the_judge_is_fit_on_tweet_like_comments() -> None:
    assert [len(row.text) for row in CharClassifier.rows([Comment("a" * 200, True), Comment("a" * 201, False)])] == [200]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without both labels"):
        WordClassifier.fit([Comment("a fine day", False)] * 5)
    with pytest.raises(UserError, match="too few"):
        WordClassifier.fit([Comment("a fine day", False), Comment("you fool", True)])
    with pytest.raises(UserError, match="has no readable classifier"):
        WordClassifier.load(tmp_path)
    _fitted(WordClassifier).save(tmp_path)
    with pytest.raises(UserError, match="holds a WordClassifier, not a CharClassifier"):
        CharClassifier.load(tmp_path)


def test_a_fit_does_not_depend_on_the_number_of_threads() -> None:
    """BLAS adds up in several threads what is longer than some ten thousand numbers."""
    rows = [Comment(" ".join(f"w{(n * 7 + i * i * i) % 25000}" for i in range(40)), n % 3 == 0) for n in range(4000)]
    fits = []
    for count in (2, 1):
        with threadpool_limits(count, "blas"):
            fits.append(WordClassifier.fit(rows))
    assert len(fits[0].weight) > 20_000
    np.testing.assert_array_equal(fits[0].weight, fits[1].weight)
    assert fits[0].bias == fits[1].bias
