"""The simulated annotator and the AI judge: two classifiers, fit on human labels of disjoint sets of comments."""

from pathlib import Path

from isoalign.data import comments
from isoalign.models.classifiers import CharClassifier, WordClassifier

VERSION = 1


def make_annotators(work: Path) -> None:
    """Fit both classifiers and save them as ``annotator`` and ``judge``."""
    WordClassifier.fit(comments.load_comments("annotator")).save(work / "annotator")
    CharClassifier.fit(comments.load_comments("judge")).save(work / "judge")
