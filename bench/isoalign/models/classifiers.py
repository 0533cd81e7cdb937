"""Linear text classifiers, fit on human labels: the simulated annotator and the classifier judge.

Both are TF-IDF and logistic regression, over words (annotator) and over character n-grams (judge). Models and rows differ
from those of the evaluation scorers, though all come from the same labelled comments.

Measured with four fifths of a role's rows to fit, one fifth by hash to test, one thread. AUC short: on test comments of at
most 25 words, with human labels; AUC windows: on one random window of 12-25 words of every test comment, which inherits the
label.

                    rows to fit  features a text  seconds  AUC short  AUC windows
    WordClassifier       17,726               38      0.7       .978         .945
      on windows         17,726               13      0.2       .975         .940
      on both            35,452               26      0.9       .977         .944
    CharClassifier        8,411              231      1.1       .980         .951
      on windows          8,411              193      0.9       .978         .951
      of any length      14,915              579      8.4       .982         .953

Full comments serve judging 20-token continuations as well as windows do, so the classifiers are fit on full comments. The
judge is fit on comments of at most 200 characters: tweets had at most 140 then, and long talk-page posts are excluded.

Spearman with tox_block, toxic_classifier: on the 993 scored RealToxicityPrompts .70, .71 (words) and .72, .70
(characters), .76 between the two; on 512 continuations by SmolLM2 .62, .57 and .59, .55, .60 between the two (the
scorers among themselves: .84 and .79).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from isoalign.core.errors import UserError
from isoalign.core.lazy import scipy, sklearn
from isoalign.data.comments import Comment


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """P(offensive) of a text. ``idf`` and ``weight`` [F] float32 for the features of ``vocabulary`` (empty: hashed)."""

    vocabulary: list[str]
    idf: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: float

    C: ClassVar[float]  # inverse strength of the L2 penalty

    @classmethod
    def counter(cls, vocabulary: list[str]) -> Any:
        """The scikit-learn vectorizer that counts features; an empty ``vocabulary`` is learnt, or not needed."""
        raise NotImplementedError

    @classmethod
    def rows(cls, comments: Sequence[Comment]) -> list[Comment]:
        """The comments to fit on."""
        return list(comments)

    @classmethod
    def fit(cls, comments: Sequence[Comment]) -> Self:
        """Fit on comments; the same comments give the same classifier (convex, fixed start, no sampling).

        Raises UserError if they don't hold both labels or have no frequent feature.
        """
        rows = cls.rows(comments)
        labels = np.array([row.offensive for row in rows])
        if len(set(labels)) < 2:
            raise UserError(f"{cls.__name__}: {len(rows)} usable comments without both labels; use more comments")
        counter = cls.counter([])
        tfidf = sklearn.feature_extraction.text.TfidfTransformer(sublinear_tf=True)
        try:
            features = tfidf.fit_transform(counter.fit_transform([row.text for row in rows]))
        except ValueError as error:
            raise UserError(
                f"{cls.__name__}: {len(rows)} comments are too few to learn words from; use more comments"
            ) from error
        model = sklearn.linear_model.LogisticRegression(C=cls.C, solver="liblinear", random_state=0)
        with threadpool_limits(1, "blas"):  # sums of several threads differ in their last digits
            model.fit(features, labels)
        vocabulary = counter.get_feature_names_out().tolist() if hasattr(counter, "vocabulary_") else []
        idf, weight = tfidf.idf_.astype(np.float32), model.coef_[0].astype(np.float32)
        return cls(vocabulary, idf, weight, float(model.intercept_[0]))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """P(offensive) [len(texts)] of each text; an empty text gets the P of the bias."""
        if not len(texts):
            return np.zeros(0)
        return np.asarray(scipy.special.expit(self._features(texts) @ self.weight.astype(np.float64) + self.bias))

    def flops(self, texts: Sequence[str]) -> int:
        """FLOPs of scoring the texts: a multiplication and an addition for each feature present."""
        return 2 * int(self._counter.transform(texts).nnz) if len(texts) else 0

    def save(self, folder: Path) -> None:
        """Write ``classifier.safetensors`` and ``classifier.json`` into a folder, created if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"idf": self.idf, "weight": self.weight}, folder / "classifier.safetensors")
        about = {"kind": type(self).__name__, "bias": self.bias, "vocabulary": self.vocabulary}
        (folder / "classifier.json").write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the files of ``save``. Raises UserError if they aren't a classifier of this class."""
        try:
            about = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / "classifier.safetensors")
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} has no readable classifier: {error}") from error
        if about.get("kind") != cls.__name__:
            raise UserError(f"{folder} holds a {about.get('kind')}, not a {cls.__name__}")
        return cls(about["vocabulary"], arrays["idf"], arrays["weight"], about["bias"])

    @cached_property
    def _counter(self) -> Any:
        return self.counter(self.vocabulary)

    @cached_property
    def _tfidf(self) -> Any:
        transformer = sklearn.feature_extraction.text.TfidfTransformer(sublinear_tf=True)
        transformer.idf_ = self.idf.astype(np.float64)
        return transformer

    def _features(self, texts: Sequence[str]) -> Any:
        """Sparse [len(texts), F], rows of unit length."""
        return self._tfidf.transform(self._counter.transform(texts))


class WordClassifier(TextClassifier):
    """Words that occur in at least 3 comments: the simulated annotator."""

    C = 3.0

    @classmethod
    def counter(cls, vocabulary: list[str]) -> Any:
        """Counts lower-cased words, apostrophes included."""
        min_df = 1 if vocabulary else 3
        return sklearn.feature_extraction.text.CountVectorizer(
            vocabulary=vocabulary or None, min_df=min_df, token_pattern=r"\b\w[\w']*\b"
        )


class CharClassifier(TextClassifier):
    """Hashed n-grams of 2 to 5 characters within words, fit on tweet-like comments: the classifier judge."""

    C = 10.0
    MAX_CHARACTERS: ClassVar[int] = 200  # characters of a tweet-like comment

    @classmethod
    def counter(cls, vocabulary: list[str]) -> Any:
        """Counts n-grams in 2**18 buckets."""
        return sklearn.feature_extraction.text.HashingVectorizer(
            analyzer="char_wb", ngram_range=(2, 5), n_features=2**18, norm=None, alternate_sign=False
        )

    @classmethod
    def rows(cls, comments: Sequence[Comment]) -> list[Comment]:
        """The tweet-like comments, by length: the file does not mark tweets, and few mention a user."""
        return [comment for comment in comments if len(comment.text) <= cls.MAX_CHARACTERS]
